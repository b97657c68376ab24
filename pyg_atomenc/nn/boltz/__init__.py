"""The atom attention encoder and decoder of Boltz-1 and Boltz-2."""

from pyg_atomenc.nn.boltz.atom_encoder import (
    BoltzAtomDecoder,
    BoltzAtomEncoder,
    BoltzConditioning,
    BoltzDecoderConditioning,
    EncodedAtoms,
)
from pyg_atomenc.nn.boltz.config import BoltzConfig
from pyg_atomenc.nn.boltz.inputs import BoltzInputs

__all__ = [
    "BoltzAtomDecoder",
    "BoltzAtomEncoder",
    "BoltzConditioning",
    "BoltzConfig",
    "BoltzDecoderConditioning",
    "BoltzInputs",
    "EncodedAtoms",
]
