"""Graphs → graphs: what models need to know of atoms, added to their data."""

from pyg_atomenc.transforms.atom_features import AtomFeatures
from pyg_atomenc.transforms.boltz_features import BoltzFeatures
from pyg_atomenc.transforms.from_hetero import FromHetero
from pyg_atomenc.transforms.pair_bias import PairBias
from pyg_atomenc.transforms.radius_edges import RadiusEdges
from pyg_atomenc.transforms.to_hetero import ToHetero
from pyg_atomenc.transforms.token_edges import TokenEdges

__all__ = [
    "AtomFeatures",
    "BoltzFeatures",
    "FromHetero",
    "PairBias",
    "RadiusEdges",
    "ToHetero",
    "TokenEdges",
]
