"""Graphs → graphs: what models need to know of atoms, added to their data."""

from pyg_atomenc.transforms.atom_features import AtomFeatures
from pyg_atomenc.transforms.boltz_features import BoltzFeatures
from pyg_atomenc.transforms.edges import RadiusEdges, TokenEdges
from pyg_atomenc.transforms.hetero import FromHetero, ToHetero
from pyg_atomenc.transforms.pair_features import PairFeatures

__all__ = ["AtomFeatures", "BoltzFeatures", "FromHetero", "PairFeatures", "RadiusEdges",
           "ToHetero", "TokenEdges"]  # fmt: skip
