"""Data sets: files → graphs that are read once and kept on disk."""

from pyg_atomenc.datasets.structure_dataset import Skipped, StructureDataset
from pyg_atomenc.io.molecule_file import MoleculeFile
from pyg_atomenc.io.sources import SmilesTable, StructureFiles

__all__ = ["MoleculeFile", "Skipped", "SmilesTable", "StructureDataset",
           "StructureFiles"]  # fmt: skip
