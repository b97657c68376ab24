"""The atom attention encoder and decoder of Boltz-1 and Boltz-2."""

from pyg_atomenc.nn.boltz.atom_decoder import BoltzAtomDecoder
from pyg_atomenc.nn.boltz.atom_encoder import BoltzAtomEncoder
from pyg_atomenc.nn.boltz.conditioning import BoltzConditioning, EncodedAtoms
from pyg_atomenc.nn.boltz.config import BoltzConfig

__all__ = [
    "BoltzAtomDecoder",
    "BoltzAtomEncoder",
    "BoltzConditioning",
    "BoltzConfig",
    "EncodedAtoms",
]
