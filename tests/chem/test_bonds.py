import torch

from pyg_atomenc.chem.bonds import bond_tensors
from pyg_atomenc.io import BOND_TYPES


def test_both_directions_sorted_and_one_hot():
    edge_index, edge_attr = bond_tensors([(2, 0), (0, 1)], [1, 4])
    assert edge_index.tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]
    names = [BOND_TYPES[column] for column in edge_attr.argmax(1).tolist()]
    assert names == ["other", "double", "other", "double"]
    assert edge_attr.sum(1).tolist() == [1.0] * 4
    assert edge_index.dtype == torch.long and edge_attr.dtype == torch.float32


def test_no_bonds():
    edge_index, edge_attr = bond_tensors([], [])
    assert edge_index.shape == (2, 0) and edge_attr.shape == (0, 5)
    assert edge_index.dtype == torch.long
