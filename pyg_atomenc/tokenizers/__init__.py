"""Rules that say which atoms make one token."""

from pyg_atomenc.chem.residues import ENTITY_KINDS
from pyg_atomenc.tokenizers.base import Tokenizer, Tokens
from pyg_atomenc.tokenizers.beads import MARTINI_PROTEIN, Beads
from pyg_atomenc.tokenizers.folding import AF3, Boltz1, Boltz2
from pyg_atomenc.tokenizers.fragments import BRICS, RingsAndChains
from pyg_atomenc.tokenizers.residue import Atom, Components, Residue
from pyg_atomenc.tokenizers.smarts import Smarts

__all__ = ["AF3", "BRICS", "ENTITY_KINDS", "MARTINI_PROTEIN", "Atom", "Beads", "Boltz1",
           "Boltz2", "Components", "Residue", "RingsAndChains", "Smarts", "Tokenizer",
           "Tokens"]  # fmt: skip
