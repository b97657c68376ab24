"""Rules that say which atoms make one token."""

from pyg_atomenc.tokenizers.af3 import AF3
from pyg_atomenc.tokenizers.atom import Atom
from pyg_atomenc.tokenizers.base import Tokenizer, Tokens
from pyg_atomenc.tokenizers.beads import MARTINI_PROTEIN, Beads
from pyg_atomenc.tokenizers.boltz import Boltz1, Boltz2
from pyg_atomenc.tokenizers.brics import BRICS
from pyg_atomenc.tokenizers.components import Components
from pyg_atomenc.tokenizers.features import ENTITY_KINDS
from pyg_atomenc.tokenizers.residue import Residue
from pyg_atomenc.tokenizers.rings_and_chains import RingsAndChains
from pyg_atomenc.tokenizers.smarts import Smarts

__all__ = [
    "AF3",
    "BRICS",
    "ENTITY_KINDS",
    "MARTINI_PROTEIN",
    "Atom",
    "Beads",
    "Boltz1",
    "Boltz2",
    "Components",
    "Residue",
    "RingsAndChains",
    "Smarts",
    "Tokenizer",
    "Tokens",
]
