"""Rules that say which atoms make one token."""

from pyg_atomenc.tokenizers.atom import Atom
from pyg_atomenc.tokenizers.base import Tokenizer, Tokens
from pyg_atomenc.tokenizers.boltz import Boltz1, Boltz2
from pyg_atomenc.tokenizers.fragment import Fragment
from pyg_atomenc.tokenizers.residue import Residue

__all__ = ["Atom", "Boltz1", "Boltz2", "Fragment", "Residue", "Tokenizer", "Tokens"]
