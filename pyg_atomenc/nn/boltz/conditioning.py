"""What the Boltz encoder computes once a structure, and what it gives every step."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.atom_transformer import AtomTransformer, TransformerConditioning
from pyg_atomenc.nn.pair_bias import WindowPairs


class EncodedAtoms(NamedTuple):
    """What :class:`BoltzAtomEncoder` gives.

    Attributes:
        tokens (Tensor): ``[T, D]``, or ``[M, T, D]`` for ``M`` samples.
        atoms (Tensor): ``[N, atom_channels]`` or ``[M, N, atom_channels]``.
    """

    tokens: Tensor
    atoms: Tensor


@dataclass(eq=False)
class BoltzConditioning:
    """All of a batch that does not change from step to step.

    Made by :meth:`BoltzAtomEncoder.condition`, used by encoder and decoder until their
    weights change.

    Attributes:
        layout (TokenLayout): Which atoms form a token.
        start (Tensor): The atoms' features ``[N, atom_channels]``, which the encoder's
            residual stream starts from.
        cond (Tensor): The atoms' condition ``[N, atom_channels]``: the features, and in
            the diffusion form those of their tokens.
        pairs (WindowPairs): The pairs of atoms in windows.
    """

    layout: TokenLayout
    start: Tensor
    cond: Tensor
    pairs: WindowPairs
    _prepared: list[
        tuple[AtomTransformer, tuple[int, ...], TransformerConditioning]
    ] = field(default_factory=list, repr=False)

    def prepare(self, transformer: AtomTransformer) -> TransformerConditioning:
        """The conditioning of a transformer, kept as long as its weights stay.

        Args:
            transformer (AtomTransformer): The encoder's, or a decoder's.
        """
        if torch.compiler.is_compiling():
            for owner, _, prepared in self._prepared:
                if owner is transformer:
                    return prepared
            return self._condition(transformer)
        # One made without gradients cannot serve training.
        versions = (p._version for p in transformer.parameters())
        state = (int(torch.is_grad_enabled()), *versions)
        for owner, seen, prepared in self._prepared:
            if owner is transformer and seen == state:
                return prepared
        prepared = self._condition(transformer)
        kept = [entry for entry in self._prepared if entry[0] is not transformer]
        self._prepared = [*kept, (transformer, state, prepared)]
        return prepared

    def _condition(self, transformer: AtomTransformer) -> TransformerConditioning:
        # In float32 whether it is asked for under autocast or not.
        with torch.autocast(self.cond.device.type, enabled=False):
            return transformer.condition(self.pairs.layout, self.cond, self.pairs)


def check_conditioning(conditioning: object) -> BoltzConditioning:
    """The conditioning, or a ValueError if it is something else."""
    if not isinstance(conditioning, BoltzConditioning):
        raise AtomEncodingError(
            f"'conditioning' is of type {type(conditioning).__name__}: pass what "
            f"encoder.condition(...) gave."
        )
    return conditioning
