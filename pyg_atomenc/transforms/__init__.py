"""Graphs → graphs: what models need to know of atoms, added to their data."""

from pyg_atomenc.transforms.atom_features import AtomFeatures
from pyg_atomenc.transforms.boltz_features import BoltzFeatures
from pyg_atomenc.transforms.hetero import FromHetero, ToHetero
from pyg_atomenc.transforms.pair_features import PairFeatures
from pyg_atomenc.transforms.radius_edges import RadiusEdges
from pyg_atomenc.transforms.token_edges import TokenEdges

__all__ = [
    "AtomFeatures",
    "BoltzFeatures",
    "FromHetero",
    "PairFeatures",
    "RadiusEdges",
    "ToHetero",
    "TokenEdges",
]
