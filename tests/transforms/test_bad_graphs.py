"""What every transform makes of graphs that it cannot use."""

import pytest
import torch
from torch_geometric.data import Data

from pyg_atomenc import AtomTokenData
from pyg_atomenc.io import from_smiles
from pyg_atomenc.transforms import (
    AtomFeatures,
    FromHetero,
    PairFeatures,
    RadiusEdges,
    ToHetero,
    TokenEdges,
)

pytest.importorskip("rdkit", reason="RDKit is not installed")
BY_BONDS = [AtomFeatures(), PairFeatures(num_rbf=0), TokenEdges(["bond"])]


@pytest.mark.parametrize("transform", [*BY_BONDS, RadiusEdges()])
def test_graphs_that_know_no_tokens(transform):
    with pytest.raises(ValueError, match="'data' is of type Data"):
        transform(Data(pos=torch.rand(2, 3)))
    if not isinstance(transform, RadiusEdges):
        with pytest.raises(ValueError, match="'atom_to_token' is missing"):
            transform(AtomTokenData(pos=torch.rand(2, 3)))


@pytest.mark.parametrize("transform", BY_BONDS)
def test_bonds_of_atoms_that_are_not_there(transform):
    data = from_smiles("CCO")
    data.edge_index[1, 0] = 7
    with pytest.raises(ValueError, match="'edge_index' has values from 0 to 7 for 3"):
        transform(data)


@pytest.mark.parametrize("transform", BY_BONDS)
@pytest.mark.parametrize(
    "name, change, message",
    [
        (
            "edge_index",
            lambda x: x.float(),
            "'edge_index' is of type torch.float32: pass integers",
        ),
        (
            "edge_index",
            lambda x: torch.cat([x, x[:1]]),
            r"'edge_index' needs the shape \[2, E\], found: \[3,",
        ),
        ("edge_attr", lambda x: x[1:], "'edge_attr' has 3 rows for 4 bonds"),
        ("z", lambda x: x[1:], "'z' has 2 rows for 3 atoms"),
    ],
)
def test_rows_that_do_not_fit(transform, name, change, message):
    data = from_smiles("CCO")
    data[name] = change(data[name])
    with pytest.raises(ValueError, match=message):
        transform(data)


@pytest.mark.parametrize("transform", BY_BONDS)
def test_bonds_that_are_listed_one_way(transform):
    both = from_smiles("C[C@H](N)C(=O)Oc1ccccc1", hydrogens=True)
    names = {
        AtomFeatures: "x",
        PairFeatures: "pair_attr",
        TokenEdges: "token_edge_index",
    }
    name = names[type(transform)]
    expected = transform(both)[name]
    for down in (True, False):
        one = both.clone()
        keep = (one.edge_index[0] > one.edge_index[1]) == down
        one.edge_index, one.edge_attr = one.edge_index[:, keep], one.edge_attr[keep]
        assert transform(one)[name].equal(expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RadiusEdges("5"), "'cutoff' is '5'"),
        (lambda: RadiusEdges(None), "'cutoff' is None"),
        (lambda: RadiusEdges(max_neighbors=True), "'max_neighbors' is True"),
        (lambda: PairFeatures(cutoff="5"), "'cutoff' is '5'"),
        (lambda: TokenEdges(3), "'kinds' is"),
        (lambda: TokenEdges(None), "'kinds' is"),
        (lambda: AtomFeatures(attr=3), "'attr' is 3"),
    ],
)
def test_arguments_of_other_types(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "pos, message",
    [
        (torch.rand(2, 2), r"'pos' needs the shape \[N, 3\], found: \[2, 2\]"),
        (torch.ones(2, 3).long(), "'pos' is of type torch.int64: pass floating"),
    ],
)
def test_positions_that_are_none(pos, message):
    data = AtomTokenData(pos=pos, atom_to_token=torch.tensor([0, 0]))
    for transform in (RadiusEdges(), PairFeatures()):
        with pytest.raises(ValueError, match=message):
            transform(data)


def test_elements_that_are_none():
    data = from_smiles("CCO")
    data.z[0] = 130
    with pytest.raises(ValueError, match="'z' has values from 6 to 130"):
        AtomFeatures()(data)


def test_two_attributes_of_one_name():
    hetero = ToHetero()(from_smiles("CCO"))
    hetero.mass = 3.0
    hetero["atom"].mass = torch.ones(3)
    with pytest.raises(ValueError, match="'data' has 'mass' for the whole graph"):
        FromHetero()(hetero)
