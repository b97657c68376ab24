"""`BoltzAtomEncoder`: Boltz's atom attention encoder, from atoms to tokens."""

from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention import TokenLayout, WindowLayout
from pyg_atomenc.checks import check_tensor
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.atom_transformer import AtomTransformer
from pyg_atomenc.nn.boltz.atom_features import AtomFeatureEmbedding
from pyg_atomenc.nn.boltz.atom_pairs import AtomPairEmbedding
from pyg_atomenc.nn.boltz.conditioning import (
    BoltzConditioning,
    EncodedAtoms,
    check_conditioning,
)
from pyg_atomenc.nn.boltz.config import BoltzConfig
from pyg_atomenc.nn.boltz.token_pairs import TokenPairs

# Atoms that are projected together to be pooled where no gradients are asked for.
MAX_ROWS = 1024

_ATTRIBUTES = (
    "ref_pos ref_charge z ref_atom_name_chars ref_space_uid atom_to_token batch "
    "num_tokens backbone token_res_type token_modified token_mol_type"
).split()


class BoltzAtomEncoder(torch.nn.Module):
    r"""The atom attention encoder of Boltz-1 and Boltz-2.

    Atoms are embedded from their reference conformers, attend in sequence-local windows
    of 32 queries and 128 keys
    (:class:`~pyg_atomenc.attention.WindowLayout`) with a bias for every pair,
    conditioned on trunk features and moved by noisy coordinates, and are averaged to
    tokens: Algorithm 5 of AlphaFold 3's supplement
    (https://doi.org/10.1038/s41586-024-07487-w) in the form of `Boltz-1
    <https://doi.org/10.1101/2024.11.19.624167>`_ and `Boltz-2
    <https://doi.org/10.1101/2025.06.14.659707>`_. Batches are flat: atoms of all
    structures one after the other, of any sizes, nothing padded.

    It runs in two steps, as a diffusion sampler needs them: :meth:`condition` once a
    structure, :meth:`forward` every step, for any number of samples.

    Args:
        config (BoltzConfig, optional): Sizes and options.
            (default: ``BoltzConfig.boltz2()``)
        checkpoint (bool): In training, compute the transformer's layers again in the
            backward pass. (default: ``False``)
        backend (str): ``"auto"`` or the name of a backend. (default: ``"auto"``)

    Raises:
        ValueError: If an option is unknown, or inputs do not fit the config.
    """

    def __init__(
        self,
        config: Optional[BoltzConfig] = None,
        *,
        checkpoint: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        config = check_config(config)
        self.config = config
        channels = config.atom_channels
        self.features = AtomFeatureEmbedding(config)
        self.pairs = AtomPairEmbedding(config)
        if config.diffusion:
            self.norm_trunk = torch.nn.LayerNorm(config.token_channels)
            self.lin_trunk = torch.nn.Linear(
                config.token_channels, channels, bias=False
            )
            self.lin_noisy = torch.nn.Linear(
                config.position_channels, channels, bias=False
            )
        self.transformer = AtomTransformer(
            channels,
            config.heads,
            config.encoder_depth,
            pair_channels=config.pair_channels,
            shared_pair_norm=config.shared_pair_norm,
            post_norm=config.post_norm and config.diffusion,
            checkpoint=checkpoint,
            backend=backend,
        )
        self.lin_token = torch.nn.Linear(channels, config.out_channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; what Boltz starts at zero starts at zero."""
        for module in (self.features, self.pairs, self.transformer, self.lin_token):
            module.reset_parameters()
        if self.config.diffusion:
            self.norm_trunk.reset_parameters()
            torch.nn.init.zeros_(self.lin_trunk.weight)
            torch.nn.init.zeros_(self.lin_noisy.weight)

    def condition(
        self,
        data: Any = None,
        *,
        ref_pos: Optional[Tensor] = None,
        ref_charge: Optional[Tensor] = None,
        z: Optional[Tensor] = None,
        ref_atom_name_chars: Optional[Tensor] = None,
        ref_space_uid: Optional[Tensor] = None,
        atom_to_token: Union[Tensor, TokenLayout, None] = None,
        batch: Optional[Tensor] = None,
        num_tokens: Union[int, Tensor, None] = None,
        s_trunk: Optional[Tensor] = None,
        z_trunk: Optional[Tensor] = None,
        backbone: Optional[Tensor] = None,
        token_res_type: Optional[Tensor] = None,
        token_modified: Optional[Tensor] = None,
        token_mol_type: Optional[Tensor] = None,
    ) -> BoltzConditioning:
        """Compute what does not change from step to step.

        Args:
            data (Data, optional): A graph or batch that has what is not passed; the
                :class:`~pyg_atomenc.transforms.BoltzFeatures` transform makes it.
            ref_pos (Tensor): Reference positions ``[N, 3]``, in ångström.
            ref_charge (Tensor): Formal charges ``[N]``.
            z (Tensor): Atomic numbers ``[N]``.
            ref_atom_name_chars (Tensor): Codes of the names' characters ``[N, 4]``, 0
                to 63: ``ord - 32``, modulo 64.
            ref_space_uid (Tensor): The reference conformer of every atom ``[N]``.
            atom_to_token (Tensor or TokenLayout): The token of every atom ``[N]``.
            batch (Tensor, optional): The graph of every atom ``[N]``, sorted.
                (default: all in one graph)
            num_tokens (int or Tensor, optional): The number of tokens, in all or of
                every graph ``[G]``. (default: seen from the atoms)
            s_trunk (Tensor, optional): Token features ``[T, token_channels]``; needed
                in the diffusion form.
            z_trunk (Tensor, optional): Token pair features: the ``[n_g, n_g]`` blocks
                of all graphs flattened to ``[sum of n_g ** 2, token_pair_channels]``,
                or padded ``[G, n, n, token_pair_channels]``; needed in the diffusion
                form. They are those that the pairwise conditioner gives.
            backbone (Tensor, optional): Kinds of backbone atoms ``[N]``, 0 to 16, where
                the config has them.
            token_res_type (Tensor, optional): Residue types ``[T]``, 0 to 32, likewise.
            token_modified (Tensor, optional): Whether a residue is modified ``[T]``.
            token_mol_type (Tensor, optional): Molecule types ``[T]``, 0 to 3.

        Returns:
            BoltzConditioning: For encoder and decoder, until their weights change.

        Raises:
            ValueError: If something is missing or does not fit.
        """
        given = {name: value for name, value in locals().items() if name in _ATTRIBUTES}
        if data is not None:
            for name in _ATTRIBUTES:
                if given[name] is None:
                    given[name] = getattr(data, name, None)
        with torch.autocast(self.lin_token.weight.device.type, enabled=False):
            return self._condition(given, data, s_trunk, z_trunk)

    def _condition(
        self,
        given: dict[str, Any],
        data: Any,
        s_trunk: Optional[Tensor],
        z_trunk: Optional[Tensor],
    ) -> BoltzConditioning:
        config = self.config
        trunk_inputs = {"s_trunk": s_trunk, "z_trunk": z_trunk}
        for name, value in (given | trunk_inputs).items():
            if value is not None and name not in ("num_tokens", "atom_to_token"):
                check_tensor(name, value)
        layout, counts = _tokens(given)
        ptr = _graph_ptr(given["batch"], data, layout.num_atoms).to(layout.device)
        windows = WindowLayout.from_ptr(ptr, config.queries, config.keys)
        _check_trunk(config, s_trunk, z_trunk, layout)
        start = self.features(given, layout.atom_to_token)
        cond, token_pairs = start, None
        if s_trunk is not None and z_trunk is not None:
            trunk = self.norm_trunk(s_trunk.to(start.dtype))
            trunk = self.lin_trunk(trunk).index_select(0, layout.atom_to_token)
            cond = start + trunk
            token_pairs = TokenPairs.from_blocks(
                z_trunk, layout, ptr, counts, config.token_pair_channels
            )
        space = given["ref_space_uid"]
        if space is None or space.shape != (layout.num_atoms,):
            raise AtomEncodingError(
                f"'ref_space_uid' needs the shape [{layout.num_atoms}], found: "
                f"{None if space is None else list(space.shape)}."
            )
        pairs = self.pairs(windows, given["ref_pos"], space, cond, token_pairs)
        conditioning = BoltzConditioning(layout, start, cond, pairs)
        conditioning.prepare(self.transformer)
        return conditioning

    def forward(
        self, conditioning: BoltzConditioning, r: Optional[Tensor] = None
    ) -> EncodedAtoms:
        """Encode atoms.

        Args:
            conditioning (BoltzConditioning): Of :meth:`condition`.
            r (Tensor, optional): Noisy coordinates ``[N, 3]``, or ``[M, N, 3]`` for
                ``M`` samples, scaled as the diffusion model does; needed in the
                diffusion form, and only there. (default: ``None``)

        Returns:
            EncodedAtoms: ``tokens`` ``[T, D]`` and ``atoms`` ``[N, atom_channels]``,
            with a first dimension ``M`` for samples. An empty token is zeros.
        """
        x = check_conditioning(conditioning).start
        if self.config.diffusion:
            x = x + F.linear(self._check_noisy(r, x), self.lin_noisy.weight[:, :3])
        elif r is not None:
            raise AtomEncodingError(
                "'r' was passed, but the config is of the trunk's form: leave it out, "
                "or make the encoder with diffusion=True."
            )
        atoms = self.transformer(x, conditioning.prepare(self.transformer))
        with torch.autocast(atoms.device.type, enabled=False):
            tokens = self._pool(atoms.to(self.lin_token.weight.dtype), conditioning)
        return EncodedAtoms(tokens, atoms)

    def _pool(self, atoms: Tensor, conditioning: BoltzConditioning) -> Tensor:
        layout = conditioning.layout
        shape = (*atoms.shape[:-2], layout.num_tokens, self.config.out_channels)
        tokens = atoms.new_zeros(shape)
        # Far more channels than an atom has: not for all atoms at once if possible.
        step = max(1, atoms.size(-2)) if torch.is_grad_enabled() else MAX_ROWS
        for start in range(0, atoms.size(-2), step):
            rows = slice(start, start + step)
            hidden = F.relu(self.lin_token(atoms[..., rows, :]))
            tokens.index_add_(-2, layout.atom_to_token[rows], hidden)
        return tokens / (layout.sizes.to(tokens.dtype).unsqueeze(-1) + 1e-6)

    def _check_noisy(self, r: Optional[Tensor], x: Tensor) -> Tensor:
        if r is not None:
            check_tensor("r", r)
        if r is None or r.dim() not in (2, 3) or r.shape[-2:] != (x.size(0), 3):
            raise AtomEncodingError(
                f"'r' needs the shape [{x.size(0)}, 3] or [samples, {x.size(0)}, 3], "
                f"found: {None if r is None else list(r.shape)}."
            )
        return r.to(x.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config})"


def check_config(config: Optional[BoltzConfig]) -> BoltzConfig:
    """The config, or that of Boltz-2.

    Raises:
        ValueError: If it is of another type.
    """
    if config is None:
        return BoltzConfig.boltz2()
    if not isinstance(config, BoltzConfig):
        raise AtomEncodingError(
            f"'config' is of type {type(config).__name__}: pass a BoltzConfig, for "
            f"example BoltzConfig.boltz2()."
        )
    return config


def _tokens(given: dict[str, Any]) -> tuple[TokenLayout, Optional[Tensor]]:
    index, num_tokens = given["atom_to_token"], given["num_tokens"]
    counts = None
    if isinstance(num_tokens, Tensor) and num_tokens.dim() == 1:
        counts, num_tokens = num_tokens, int(num_tokens.sum())
    elif num_tokens is not None:
        if int(num_tokens) != num_tokens:
            raise AtomEncodingError(
                f"'num_tokens' is {num_tokens}: pass an int, or one for every graph."
            )
        num_tokens = int(num_tokens)
    if index is None:
        raise AtomEncodingError(
            "'atom_to_token' is missing: pass the token of every atom, or data that "
            "has it."
        )
    if isinstance(index, TokenLayout):
        return index, counts
    return TokenLayout.from_index(index, num_tokens), counts


def _graph_ptr(batch: Optional[Tensor], data: Any, num_atoms: int) -> Tensor:
    if batch is None:
        ptr = getattr(data, "ptr", None)
        return torch.tensor([0, num_atoms]) if ptr is None else ptr
    if batch.shape != (num_atoms,) or batch.dtype.is_floating_point:
        raise AtomEncodingError(
            f"'batch' needs the graph of {num_atoms} atoms as integers, found: "
            f"{list(batch.shape)} of {batch.dtype}."
        )
    if num_atoms and (int(batch.diff().min() if num_atoms > 1 else 0) < 0):
        raise AtomEncodingError(
            "'batch' falls: sort the atoms by graph, as PyG's batches are."
        )
    # A graph at the end without atoms does not show in the vector.
    ptr = getattr(data, "ptr", None)
    if ptr is not None:
        return ptr
    sizes = batch.long().bincount()
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _check_trunk(
    config: BoltzConfig,
    s_trunk: Optional[Tensor],
    z_trunk: Optional[Tensor],
    layout: TokenLayout,
) -> None:
    for name, tensor in (("s_trunk", s_trunk), ("z_trunk", z_trunk)):
        if (tensor is None) == config.diffusion:
            raise AtomEncodingError(
                f"'{name}' is missing: the config is of the diffusion form, which is "
                f"conditioned on the trunk."
                if tensor is None
                else f"'{name}' was passed, but the config is of the trunk's form: "
                f"leave it out, or make the encoder with diffusion=True."
            )
    expected = (layout.num_tokens, config.token_channels)
    if s_trunk is not None and s_trunk.shape != expected:
        raise AtomEncodingError(
            f"'s_trunk' needs the shape {list(expected)}, found: {list(s_trunk.shape)}."
        )
