"""Rules that say which atoms make one token."""

from pyg_atomenc.tokenizers.base import Tokenizer, Tokens
from pyg_atomenc.tokenizers.fragment import Fragment
from pyg_atomenc.tokenizers.residue import Residue

__all__ = ["Fragment", "Residue", "Tokenizer", "Tokens"]
