"""`BoltzAtomDecoder`: Boltz's atom attention decoder, from tokens back to atoms."""

from dataclasses import dataclass
from typing import Any, Union

import torch
from torch import Tensor

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.checks import check_shape, check_type
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.atom_transformer import TensorDataclass, TransformerConditioning
from pyg_atomenc.nn.boltz.atom_encoder import (
    BoltzConditioning,
    BoltzModule,
    EncodedAtoms,
)
from pyg_atomenc.nn.boltz.config import BoltzConfig
from pyg_atomenc.nn.conditioned_transition import ZeroLinear


@dataclass(frozen=True, eq=False)
class BoltzDecoderConditioning(TensorDataclass):
    """Of :meth:`BoltzAtomDecoder.condition`, of the weights as they were."""

    layout: TokenLayout  # which atoms form a token
    transformer: TransformerConditioning  # the decoder's, of condition and pairs


class BoltzAtomDecoder(BoltzModule):
    """The atom attention decoder of Boltz-1 and Boltz-2.

    Token features are added to those of their atoms, which attend in the windows of the
    encoder once more, and give an update of their coordinates: Algorithm 6 of AlphaFold
    3's supplement (https://doi.org/10.1038/s41586-024-07487-w).

    Arguments and errors are those of :class:`BoltzAtomEncoder`, in the diffusion form.
    """

    def _make(self, config: BoltzConfig, transformer: Any) -> None:
        """Make the layers."""
        if not config.diffusion:
            raise AtomEncodingError(
                "'config' is of the trunk's form without a decoder: set diffusion=True."
            )
        channels = config.atom_channels
        self.lin_token = ZeroLinear(config.out_channels, channels)
        self.transformer = transformer(
            depth=config.decoder_depth, post_norm=config.post_norm
        )
        self.norm_out = None if config.post_norm else torch.nn.LayerNorm(channels)
        self.lin_out = ZeroLinear(channels, 3)

    def condition(self, conditioning: BoltzConditioning) -> BoltzDecoderConditioning:
        """Compute once, of what the encoder was given, what serves every step."""
        mend = "pass what encoder.condition(...) gave."
        given = check_type("conditioning", conditioning, BoltzConditioning, mend)
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
        if self.norm_out is not None:
            x = self.norm_out(x)
        return self.lin_out(x)
