"""Pictures of molecules and attention."""

from pyg_atomenc.plotting.molecule import draw_atom_weights, draw_atom_weights_png

__all__ = ["draw_atom_weights", "draw_atom_weights_png"]
