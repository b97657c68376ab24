"""Graphs of atoms that know their tokens."""

from pyg_atomenc.data.atom_token_data import AtomTokenData
from pyg_atomenc.data.atom_token_loader import AtomTokenLoader

__all__ = ["AtomTokenData", "AtomTokenLoader"]
