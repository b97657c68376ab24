import json

import pytest
import torch
from dataset_helpers import same
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from pyg_atomenc import AtomTokenData
from pyg_atomenc.datasets.storage import pack, unpack
from pyg_atomenc.io import from_smiles, from_structure


def graph(**more):
    return AtomTokenData(
        x=torch.randn(4, 3),
        edge_index=torch.tensor([[0, 1], [1, 0]]),
        pos=torch.randn(4, 3, dtype=torch.float64).t().contiguous().t(),
        atom_to_token=torch.tensor([0, 2, 0, 1]),
        num_tokens=5,
        atom_name=["N", "Cα", "", '"\\\n\ud800'],
        **more,
    )


def there_and_back(data):
    row = pack(data)
    return unpack(row["attributes"], row["tensors"])


def test_all_kinds_of_attributes_come_back():
    kinds = [torch.float16, torch.bfloat16, torch.int16, torch.int8, torch.uint8]
    shared = torch.arange(6)
    data = graph(
        y=2.5,
        flag=True,
        large=2**70,
        count=torch.tensor(7),
        empty=torch.zeros(0, 3, dtype=torch.int32),
        is_first=torch.tensor([True, False, False, True]),
        nan=torch.tensor([float("nan"), float("inf")]),
        no_number=float("nan"),
        nested={"a": [1, [2.5, None, "x"]], "b": {}, "tensor": "no tensor"},
        nothing=[],
        weight=torch.nn.Parameter(torch.ones(2)),
        shared=shared,
        view=shared[::2],
        **{f"kind{i}": torch.zeros(3).to(kind) for i, kind in enumerate(kinds)},
    )
    data.weight = data.weight.detach()
    assert same(there_and_back(data), data)


def test_a_graph_without_atoms():
    index = torch.zeros(0, dtype=torch.long)
    data = AtomTokenData(x=torch.zeros(0, 3), atom_to_token=index, num_tokens=2)
    assert same(there_and_back(data), data)
    assert (pack(data)["atoms"], pack(data)["pairs"]) == (0, 0)


def test_what_the_readers_give(structures):
    pytest.importorskip("biotite.structure", reason="biotite is not installed")
    files = sorted(structures.glob("*.cif*"), key=lambda path: path.stat().st_size)
    for path in files[:3]:
        data = from_structure(path)
        assert same(there_and_back(data), data)


def test_notes_of_reading_come_back():
    data = graph()
    assert "reading_notes" not in there_and_back(data).__dict__
    data.__dict__["reading_notes"] = "virtual sites left out: 1"
    assert there_and_back(data).reading_notes == "virtual sites left out: 1"
    assert "reading_notes" not in there_and_back(data).to_dict()


def test_what_smiles_give():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    data = from_smiles("C[C@H](N)C(=O)O.[Na+]", hydrogens=True)
    assert same(there_and_back(data), data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=VALUES)
def test_nested_values_come_back(value):
    data = AtomTokenData(atom_to_token=torch.tensor([0]))
    data["value"] = value
    assert repr(there_and_back(data).get("value")) == repr(value)


def test_the_tensors_may_be_written_to():
    row = pack(graph())
    data = unpack(row["attributes"], row["tensors"])
    data.x += 1
    assert not same(data, unpack(row["attributes"], row["tensors"]))


def test_the_tensors_are_a_file_of_safetensors():
    safetensors = pytest.importorskip("safetensors.torch", reason="no safetensors")
    data = graph(odd=torch.zeros(3, dtype=torch.uint8))
    tensors = safetensors.load(pack(data)["tensors"])
    assert {k for k, v in data.to_dict().items() if torch.is_tensor(v)} == set(tensors)
    assert all(torch.equal(data[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "value, message",
    [
        (object(), "'bad' is of type object, which is not stored: make it"),
        ({1: 2}, "'bad' is of type dict"),
        ((1, 2), "'bad' is of type tuple"),
        ([0, {"deep": print}], "'bad' is of type list"),
        ([torch.zeros(1)], "'bad' is of type list"),
        (torch.zeros(2, dtype=torch.complex64), "'bad' is strided, complex64"),
        (torch.eye(2).to_sparse(), "'bad' is sparse_coo, float32"),
    ],
)
def test_what_cannot_be_stored_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        pack(graph(bad=value))


def test_other_graphs_are_refused():
    with pytest.raises(ValueError, match="'data' is of type Data: only AtomTokenData"):
        pack(Data(x=torch.zeros(1)))


def test_a_token_out_of_range_is_refused():
    row = pack(graph())
    attributes = json.loads(row["attributes"])
    attributes["num_tokens"] = 2
    with pytest.raises(ValueError, match="'atom_to_token' holds token id 2"):
        unpack(json.dumps(attributes), row["tensors"])
