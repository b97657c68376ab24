"""Boltz's atom attention encoder and decoder: from atoms to tokens and back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F

import pyg_atomenc.nn.atom_transformer as transformers
from pyg_atomenc.attention import TokenLayout, WindowLayout
from pyg_atomenc.checks import check, check_shape, check_type, check_wanted
from pyg_atomenc.nn.boltz import embedding
from pyg_atomenc.nn.boltz.config import BoltzConfig
from pyg_atomenc.nn.boltz.inputs import BoltzInputs, TokenPairs
from pyg_atomenc.nn.projections import ZeroLinear, folded_weight, reset_children

# Atoms that are projected together to be pooled where no gradients are asked for.
MAX_ROWS = 1024
_MEND = "pass what encoder.condition(...) gave."
_FORM = "diffusion=True"


@dataclass(frozen=True, eq=False)
class BoltzConditioning(transformers.TensorDataclass):
    """Of :meth:`BoltzAtomEncoder.condition`, what does not change from step to step.

    Once weights or grad mode change, as for training after inference, make it anew.
    """

    layout: TokenLayout  # which atoms form a token
    start: Tensor  # the atoms' features [N, atom_channels]
    cond: Tensor  # the same, in the diffusion form plus their tokens'
    pairs: embedding.AtomPairs  # the pairs of atoms in windows
    transformer: transformers.TransformerConditioning  # the encoder's


@dataclass(frozen=True, eq=False)
class BoltzDecoderConditioning(transformers.TensorDataclass):
    """Of :meth:`BoltzAtomDecoder.condition`, of the weights as they were."""

    layout: TokenLayout  # which atoms form a token
    transformer: transformers.TransformerConditioning  # the decoder's


class EncodedAtoms(NamedTuple):
    """What :class:`BoltzAtomEncoder` gives, of ``M`` samples or of one."""

    tokens: Tensor  # [T, D] or [M, T, D]
    atoms: Tensor  # [N, atom_channels] or [M, N, atom_channels]


class BoltzModule(torch.nn.Module):
    """What the encoder and the decoder share: their arguments, see there."""

    # Makes the layers, one of them a transformer with options of its own.
    _make: Callable[[BoltzConfig, Any], None]

    def __init__(
        self,
        config: Optional[BoltzConfig] = None,
        *,
        checkpoint: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        mend = "pass a BoltzConfig, for example BoltzConfig.boltz2()."
        config = BoltzConfig.boltz2() if config is None else config
        self.config = check_type("config", config, BoltzConfig, mend)
        options: Any = {"pair_channels": config.pair_channels, "heads": config.heads}
        options |= {"checkpoint": checkpoint, "backend": backend}
        make = partial(transformers.AtomTransformer, config.atom_channels, **options)
        self._make(config, make)

    reset_parameters = reset_children

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config})"


class BoltzAtomEncoder(BoltzModule):
    r"""The atom attention encoder of Boltz-1 and Boltz-2.

    Atoms are embedded from their reference conformers, attend in sequence-local windows
    of 32 queries and 128 keys (:class:`~pyg_atomenc.attention.WindowLayout`) with a
    bias for every pair, conditioned on trunk features and moved by noisy coordinates,
    and are averaged to tokens: Algorithm 5 of AlphaFold 3's supplement
    (https://doi.org/10.1038/s41586-024-07487-w) in the form of `Boltz-1
    <https://doi.org/10.1101/2024.11.19.624167>`_ and `Boltz-2
    <https://doi.org/10.1101/2025.06.14.659707>`_. Batches are flat: atoms of all
    structures one after the other, of any sizes, nothing padded.

    It runs in two steps, as a diffusion sampler needs them: :meth:`condition` once a
    structure, :meth:`forward` every step, for any number of samples.

    Args:
        config (BoltzConfig, optional): Sizes, options. (default: that of ``boltz2()``)
        checkpoint, backend: As for :class:`~pyg_atomenc.nn.AtomTransformer`.

    Raises:
        ValueError: If an option is unknown, or inputs do not fit the config.
    """

    def _make(self, config: BoltzConfig, transformer: Any) -> None:
        channels = config.atom_channels
        self.features = embedding.AtomFeatureEmbedding(config)
        self.pairs = embedding.AtomPairEmbedding(config)
        if config.diffusion:
            self.norm_trunk = torch.nn.LayerNorm(config.token_channels)
            self.lin_trunk = ZeroLinear(config.token_channels, channels)
            self.lin_noisy = ZeroLinear(config.position_channels, channels)
        depth, post_norm = config.encoder_depth, config.post_norm and config.diffusion
        self.transformer = transformer(
            depth=depth, post_norm=post_norm, shared_pair_norm=config.shared_pair_norm
        )
        self.lin_token = torch.nn.Linear(channels, config.out_channels, bias=False)

    def condition(self, data: Any = None, **inputs: Any) -> BoltzConditioning:
        """Compute once, of any number of samples, what serves every step.

        Args:
            data (Data or BoltzInputs, optional): A graph or batch with what is not
                passed, as :class:`~pyg_atomenc.transforms.BoltzFeatures` makes it.
            **inputs: What :class:`BoltzInputs` has, by name: ``s_trunk`` and
                ``z_trunk`` of the diffusion form, and what the data lacks.
        """
        given, config = BoltzInputs.from_data(data, **inputs), self.config
        with torch.autocast(self.lin_token.weight.device.type, enabled=False):
            layout = given.layout()
            ptr = given.graph_ptr(layout.num_atoms).to(layout.device)
            for name in ("s_trunk", "z_trunk"):
                check_wanted(name, getattr(given, name), config.diffusion, _FORM)
            cond = start = self.features(given, layout)
            tokens = None
            if config.diffusion:
                shape = (layout.num_tokens, config.token_channels)
                trunk = given.shaped("s_trunk", *shape).to(start.dtype)
                trunk = self.lin_trunk(self.norm_trunk(trunk))
                cond = start + trunk.index_select(0, layout.atom_to_token)
                channels = config.token_pair_channels
                tokens = TokenPairs.from_inputs(given, layout, ptr, channels)
            position = given.shaped("ref_pos", layout.num_atoms, 3)
            space = given.shaped("ref_space_uid", layout.num_atoms)
            windows = WindowLayout.from_ptr(ptr, config.queries, config.keys)
            pairs = self.pairs(windows, position, space, cond, tokens)
            prepared = self.transformer.condition(windows, cond, pairs.features)
        return BoltzConditioning(layout, start, cond, pairs, prepared)

    def forward(
        self, conditioning: BoltzConditioning, r: Optional[Tensor] = None
    ) -> EncodedAtoms:
        """Encode atoms.

        Args:
            conditioning (BoltzConditioning): Of :meth:`condition`.
            r (Tensor, optional): Noisy coordinates ``[N, 3]``, or ``[M, N, 3]`` for
                ``M`` samples, scaled as the diffusion model does; for its form alone,
                which needs them. (default: ``None``)

        Returns:
            EncodedAtoms: The tokens, of which an empty one is zeros, and the atoms.
        """
        check_type("conditioning", conditioning, BoltzConditioning, _MEND)
        check_wanted("r", r, self.config.diffusion, _FORM)
        x = conditioning.start
        if r is not None:
            noisy = transformers.check_samples("r", r, x.size(0), 3).to(x.dtype)
            x = x + F.linear(noisy, folded_weight(self.lin_noisy, "lin_noisy")[:, :3])
        atoms = self.transformer(x, conditioning.transformer)
        with torch.autocast(atoms.device.type, enabled=False):
            tokens = self._pool(atoms, conditioning.layout)
        return EncodedAtoms(tokens, atoms)

    def _pool(self, atoms: Tensor, layout: TokenLayout) -> Tensor:
        atoms = atoms.to(self.lin_token.weight.dtype)
        shape = (*atoms.shape[:-2], layout.num_tokens, self.config.out_channels)
        tokens = atoms.new_zeros(shape)
        # Far more channels than an atom has: not for all atoms at once if possible.
        step = max(1, atoms.size(-2)) if torch.is_grad_enabled() else MAX_ROWS
        parts = atoms.split(step, dim=-2), layout.atom_to_token.split(step)
        for part, token in zip(*parts, strict=True):
            tokens.index_add_(-2, token, F.relu(self.lin_token(part)))
        return tokens / (layout.sizes.to(tokens.dtype).unsqueeze(-1) + 1e-6)


class BoltzAtomDecoder(BoltzModule):
    """The atom attention decoder of Boltz-1 and Boltz-2.

    Token features are added to those of their atoms, which attend in the encoder's
    windows again and give updates of coordinates: Algorithm 6, the encoder's being 5.
    Arguments and errors are those of :class:`BoltzAtomEncoder` in the diffusion form.
    """

    def _make(self, config: BoltzConfig, transformer: Any) -> None:
        text = "'config' is of the trunk's form without a decoder: set diffusion=True."
        check(config.diffusion, text)
        channels = config.atom_channels
        self.lin_token = ZeroLinear(config.out_channels, channels)
        depth, post_norm = config.decoder_depth, config.post_norm
        self.transformer = transformer(depth=depth, post_norm=post_norm)
        norm = torch.nn.Identity if post_norm else torch.nn.LayerNorm
        self.norm_out = norm(channels)
        self.lin_out = ZeroLinear(channels, 3)

    def condition(self, conditioning: BoltzConditioning) -> BoltzDecoderConditioning:
        """Compute once, of what the encoder was given, what serves every step."""
        given = check_type("conditioning", conditioning, BoltzConditioning, _MEND)
        pairs = given.pairs
        # In float32 whether it is asked for under autocast or not.
        with torch.autocast(given.cond.device.type, enabled=False):
            made = self.transformer.condition(pairs.layout, given.cond, pairs.features)
        return BoltzDecoderConditioning(given.layout, made)

    def forward(
        self,
        a: Tensor,
        encoded: EncodedAtoms,
        conditioning: Union[BoltzConditioning, BoltzDecoderConditioning],
    ) -> Tensor:
        """Decode tokens.

        Args:
            a (Tensor): Token features ``[T, 2 * token_channels]``, or ``[M, T, ...]``
                for ``M`` samples.
            encoded (EncodedAtoms): What the encoder gave.
            conditioning (BoltzDecoderConditioning or BoltzConditioning): Of
                :meth:`condition`; or the encoder's, of which every call computes it.

        Returns:
            Tensor: Updates ``[N, 3]`` or ``[M, N, 3]``, in units of the coordinates.
        """
        if not isinstance(conditioning, BoltzDecoderConditioning):
            conditioning = self.condition(conditioning)
        layout = conditioning.layout
        check_type("encoded", encoded, EncodedAtoms, "pass what the encoder gave.")
        lead = encoded.atoms.shape[:-2] if isinstance(a, Tensor) and a.dim() > 2 else ()
        check_shape("a", a, *lead, layout.num_tokens, self.config.out_channels)
        with torch.autocast(a.device.type, enabled=False):
            tokens = self.lin_token(a.to(self.lin_token.weight.dtype))
        x = encoded.atoms + tokens.index_select(-2, layout.atom_to_token)
        x = self.transformer(x, conditioning.transformer)
        return self.lin_out(self.norm_out(x))
