"""Graphs → graphs: what models need to know of atoms, added to their data."""

from pyg_atomenc.transforms.boltz_features import BoltzFeatures

__all__ = ["BoltzFeatures"]
