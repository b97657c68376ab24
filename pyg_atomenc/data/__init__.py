"""Data objects that batch atoms and tokens together."""

from pyg_atomenc.data.atom_token_data import AtomTokenData

__all__ = ["AtomTokenData"]
