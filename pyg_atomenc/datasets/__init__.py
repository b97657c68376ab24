"""Data sets: files → graphs that are read once and kept on disk."""

from pyg_atomenc.datasets.on_disk_structure_dataset import OnDiskStructureDataset
from pyg_atomenc.datasets.smiles_table import SmilesTable
from pyg_atomenc.datasets.source import Source
from pyg_atomenc.datasets.structure_dataset import Skipped, StructureDataset
from pyg_atomenc.datasets.structure_files import StructureFiles

__all__ = [
    "OnDiskStructureDataset",
    "Skipped",
    "SmilesTable",
    "Source",
    "StructureDataset",
    "StructureFiles",
]
