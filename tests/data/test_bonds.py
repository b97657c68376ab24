"""Bonds in every form that PyG gives them, for all that reads bonds."""

import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor

from pyg_atomenc import AtomTokenData, token_graph
from pyg_atomenc.data.bonds import read_bonds
from pyg_atomenc.transforms import FromHetero, PairFeatures, ToHetero, TokenEdges

CSR, COO = torch.sparse_csr, torch.sparse_coo


def graph(count=9, tokens=4, directed=False):
    """Two rings, whose bonds have one-hot types."""
    once = [(i, i + 1) for i in range(count - 1)] + [(0, count - 1), (0, 4)]
    edges = torch.tensor(once).t()
    kind = torch.randint(0, 5, (len(once),))
    if not directed:
        edges, kind = torch.cat([edges, edges.flip(0)], 1), kind.repeat(2)
    order = torch.randperm(edges.size(1))
    return AtomTokenData(
        z=torch.full((count,), 6),
        edge_index=edges[:, order],
        edge_attr=torch.eye(5)[kind[order]],
        atom_to_token=torch.randint(0, tokens - 1, (count,)),
        num_tokens=tokens,
    )


def to_csc(data):
    data = T.ToSparseTensor(layout=COO, attr="edge_attr")(data)
    data.adj_t = data.adj_t.coalesce()
    weights = torch.rand(data.adj_t.values().size(0))
    data.adj_t = torch.sparse_coo_tensor(
        data.adj_t.indices(), weights, data.adj_t.shape[:2]
    ).to_sparse_csc()
    return data


def to_edge_index_class(data):
    data.edge_index = EdgeIndex(data.edge_index, sparse_size=(data.num_nodes,) * 2)
    return data


def to_dense_and_back(data):
    data = T.ToDense()(data)
    # A sparse matrix that is not transposed.
    data.adj = data.adj.to_sparse_coo().coalesce()
    places, values = data.adj.indices()[:2], data.adj.values()
    weights = torch.ones(values.numel())
    data.adj = torch.sparse_coo_tensor(places, weights, data.adj.shape[:2]).coalesce()
    return data


FORMS = {
    "ToSparseTensor": T.ToSparseTensor(),
    "csr": T.ToSparseTensor(layout=CSR),
    "coo": T.ToSparseTensor(layout=COO),
    "both": T.ToSparseTensor(layout=CSR, remove_edge_index=False),
    "coo with attr": T.ToSparseTensor(attr="edge_attr", layout=COO),
    "dense": T.ToDense(),
    "EdgeIndex": to_edge_index_class,
    "AddSelfLoops and back": T.Compose([T.AddSelfLoops("none"), T.RemoveSelfLoops()]),
    "int32": lambda data: data.update({"edge_index": data.edge_index.int()}),
}
WITHOUT_TYPES = {"csc": to_csc, "sparse adj": to_dense_and_back}


def pairs(edges, attr=None):
    """Bonds as a sorted list, with their types."""
    rows = edges.t().tolist()
    types = [None] * len(rows) if attr is None else attr.argmax(1).tolist()
    return sorted(zip(map(tuple, rows), types, strict=True))


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form, directed):
    data = graph(directed=directed)
    wanted = pairs(data.edge_index, data.edge_attr)
    changed = FORMS[form](data.clone())
    assert pairs(*read_bonds(changed)) == wanted
    assert read_bonds(changed)[0].dtype == torch.long


@pytest.mark.parametrize("form", WITHOUT_TYPES)
def test_forms_whose_values_are_weights(form):
    data = graph(directed=True)
    edges, attr = read_bonds(WITHOUT_TYPES[form](data.clone()))
    assert attr is None and pairs(edges) == pairs(data.edge_index)


@pytest.mark.parametrize("form", [*FORMS, *WITHOUT_TYPES])
def test_tokens_are_joined_in_every_form(form):
    data, x = graph(), torch.randn(4, 2)
    changed = {**FORMS, **WITHOUT_TYPES}[form](data.clone())
    wanted, found = token_graph(data, x), token_graph(changed, x)
    assert found.edge_index.equal(wanted.edge_index) and wanted.edge_index.numel()
    edges = TokenEdges(["bond"])(changed).token_edge_index
    assert edges.equal(TokenEdges(["bond"])(data).token_edge_index)
    if form in FORMS:
        torch.testing.assert_close(found.edge_attr, wanted.edge_attr)
        features = PairFeatures(num_rbf=0)
        assert features(changed).pair_attr.equal(features(data).pair_attr)
    back = FromHetero()(ToHetero()(changed))
    assert pairs(*read_bonds(back)) == pairs(*read_bonds(changed))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "EdgeIndex"])
def test_batches_of_every_form(form):
    # Dense matrices batch if they are of one size.
    graphs = [graph(9, tokens) for tokens in (4, 3, 5)]
    wanted = Batch.from_data_list(graphs)
    batch = Batch.from_data_list([FORMS[form](data.clone()) for data in graphs])
    wanted = pairs(wanted.edge_index, wanted.edge_attr)
    assert pairs(*read_bonds(batch)) == wanted
    whole = FORMS[form](Batch.from_data_list(graphs))
    assert pairs(*read_bonds(whole)) == wanted


def test_features_of_atoms_in_every_form():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    from pyg_atomenc.io import from_smiles
    from pyg_atomenc.transforms import AtomFeatures

    data = from_smiles("C[C@H](N)C(=O)Oc1ccccc1")
    wanted = AtomFeatures()(data).x
    for form, change in FORMS.items():
        assert AtomFeatures()(change(data.clone())).x.equal(wanted), form


def test_an_atom_array_in_every_form():
    pytest.importorskip("biotite", reason="biotite is not installed")
    from pyg_atomenc.io import to_atom_array

    data = graph()
    data.pos = torch.rand(9, 3)
    wanted = to_atom_array(data).bonds.as_set()
    assert len(wanted) == 10
    for form, change in FORMS.items():
        assert to_atom_array(change(data.clone())).bonds.as_set() == wanted, form


def test_sparse_tensors_of_torch_sparse():
    data = graph(directed=True)
    wanted = pairs(data.edge_index, data.edge_attr)
    if WITH_TORCH_SPARSE:
        data = T.ToSparseTensor(attr="edge_attr")(data)
        assert type(data.adj_t).__name__ == "SparseTensor"
    else:
        data.adj_t = Matrix(*data.edge_index.flip(0), data.edge_attr)
        data.edge_index = data.edge_attr = None
    assert pairs(*read_bonds(data)) == wanted


class Matrix(object if WITH_TORCH_SPARSE else SparseTensor):
    """What is read of torch_sparse's class, where PyG has a stand-in for that."""

    def __init__(self, *parts):
        self.parts = parts

    storage = property(lambda self: self)

    def coo(self):
        return self.parts

    def value(self):
        return self.parts[2]


def test_single_atoms_have_no_bonds():
    data = AtomTokenData(z=torch.ones(3).long(), atom_to_token=torch.tensor([0, 1, 1]))
    edges, attr = read_bonds(data)
    assert edges.shape == (2, 0) and edges.dtype == torch.long and attr is None
    assert token_graph(data, torch.zeros(2, 1)).edge_index.shape == (2, 0)
    for layout in (CSR, COO):
        data.edge_index = torch.zeros(2, 0).long()
        assert read_bonds(T.ToSparseTensor(layout=layout)(data))[0].shape == (2, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda d: d.update({"edge_index": None}),
            "'edge_index' is missing.*edge_attr",
        ),
        (
            T.ToDense(12),
            "'(atom_to_token|pos)' has (9 rows for 12|12 rows for 9) atoms",
        ),
        (T.LineGraph(), r"'atom_to_token' has 9 rows for"),
        (lambda d: d.update({"edge_attr": d.edge_attr[1:]}), "'edge_attr' has 19 rows"),
    ],
)
def test_what_is_missing_or_does_not_fit(change, message):
    data = graph()
    data.x, data.pos = torch.rand(9, 2), torch.rand(9, 3)
    data = change(data)
    assert isinstance(data, AtomTokenData)
    for read in (
        lambda: token_graph(data, torch.zeros(4, 1)),
        lambda: TokenEdges(["bond"])(data),
        lambda: PairFeatures(num_rbf=0)(data),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_a_dense_matrix_of_another_size():
    data = T.ToDense()(graph())
    data.adj = data.adj[:, :5]
    with pytest.raises(ValueError, match=r"'adj' is \[9, 5, 5\] for 9 atoms.*ToDense"):
        read_bonds(data)
