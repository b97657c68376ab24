"""Data sets: files → graphs that are read once and kept on disk."""

from pyg_atomenc.datasets.sources import SmilesTable, StructureFiles
from pyg_atomenc.datasets.structure_dataset import Skipped, StructureDataset

__all__ = ["Skipped", "SmilesTable", "StructureDataset", "StructureFiles"]
