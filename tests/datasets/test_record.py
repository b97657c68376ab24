import json
import pickle

import pytest
import torch
from dataset_helpers import same
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from pyg_atomenc import AtomTokenData
from pyg_atomenc.datasets.record import checksum_of, from_bytes, to_bytes


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


def read(content):
    return from_bytes(content, "a.shard: graph", checksum_of(content))


def test_all_kinds_of_attributes_come_back():
    kinds = [torch.float16, torch.bfloat16, torch.int16, torch.int8, torch.uint8]
    data = graph(
        y=2.5,
        flag=True,
        count=torch.tensor(7),
        empty=torch.zeros(0, 3, dtype=torch.int32),
        is_first=torch.tensor([True, False, False, True]),
        nan=torch.tensor([float("nan"), float("inf")]),
        tensors=[torch.zeros(3).to(kind) for kind in kinds],
        nested={"a": [1, (2.5, None, "x")], "b": {}, "tensor": "no tensor"},
        nothing=[],
        pair=(torch.arange(2), ["text"]),
    )
    other = read(to_bytes(data))
    assert list(data.keys()) == list(other.keys())
    for key in ("nested", "nothing", "y", "flag", "num_tokens", "atom_name"):
        assert data[key] == other[key] and type(data[key]) is type(other[key])
    for key, value in data.to_dict().items():
        if torch.is_tensor(value):
            assert other[key].dtype == value.dtype
            torch.testing.assert_close(
                other[key], value, rtol=0, atol=0, equal_nan=True
            )
    assert [t.dtype for t in other.tensors] == kinds
    assert torch.equal(other.pair[0], torch.arange(2)) and other.pair[1] == ["text"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=VALUES)
def test_nested_values_come_back(value):
    data = AtomTokenData(atom_to_token=torch.tensor([0]))
    data["value"] = value
    other = read(to_bytes(data))
    assert (value is None and "value" not in other) or other["value"] == value
    assert repr(data.get("value")) == repr(other.get("value"))


def test_a_record_is_a_file_of_safetensors():
    safetensors = pytest.importorskip("safetensors.torch", reason="no safetensors")
    data = graph(odd=torch.zeros(3, dtype=torch.uint8), z=torch.arange(4))
    tensors = safetensors.load(to_bytes(data))
    assert {k for k, v in data.to_dict().items() if torch.is_tensor(v)} == set(tensors)
    assert all(torch.equal(data[name], tensor) for name, tensor in tensors.items())


def test_the_tensors_may_be_written_to():
    content = to_bytes(graph())
    data = read(content)
    data.x += 1
    assert not same(data, read(content))
    buffer = bytearray(content)
    assert same(read(buffer), read(content))


@pytest.mark.parametrize(
    "value, message",
    [
        (object(), "'bad' is of type object, which is not stored"),
        ({1: 2}, "'bad' is of type dict"),
        ([0, {"deep": print}], r"'bad.1.deep' is of type builtin"),
        (torch.zeros(2, dtype=torch.complex64), "'bad' is a tensor of torch.complex64"),
        (torch.eye(2).to_sparse(), "'bad' is a tensor of torch.float32 and torch.spar"),
    ],
)
def test_what_cannot_be_stored_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        to_bytes(graph(bad=value))


def test_other_graphs_are_refused():
    with pytest.raises(ValueError, match="'data' is of type Data: only AtomTokenData"):
        to_bytes(Data(x=torch.zeros(1)))


def test_a_damaged_record_is_refused():
    content = to_bytes(graph())
    for place in range(0, len(content), 7):
        bad = bytearray(content)
        bad[place] ^= 4
        with pytest.raises(ValueError, match=r"^a.shard: graph: is damaged, its check"):
            from_bytes(bad, "a.shard: graph", checksum_of(content))


def forged(change):
    """A record with a right checksum and a wrong header."""
    content = to_bytes(AtomTokenData(atom_to_token=torch.tensor([0, 1])))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    attributes = json.loads(header["__metadata__"]["attributes"])
    change(header, attributes)
    header["__metadata__"]["attributes"] = json.dumps(attributes)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


FORGED = {
    "token out of range": lambda h, a: a.update(num_tokens=1),
    "huge tensor": lambda h, a: h["atom_to_token"].update(shape=[2**40]),
    "huge empty tensor": lambda h, a: h["atom_to_token"].update(
        shape=[2**62, 0, 2**62], data_offsets=[0, 0]
    ),
    "negative": lambda h, a: h["atom_to_token"].update(data_offsets=[-16, 0]),
    "behind the end": lambda h, a: h["atom_to_token"].update(data_offsets=[16, 32]),
    "shape of text": lambda h, a: h["atom_to_token"].update(shape=["2"]),
    "unknown dtype": lambda h, a: h["atom_to_token"].update(dtype="OBJECT"),
    "no tensor": lambda h, a: a.update(x={"tensor": "other"}),
    "unknown kind": lambda h, a: a.update(x={"pickle": "gASV"}),
    "two kinds": lambda h, a: a.update(x={"tuple": [], "dict": {}}),
    "private name": lambda h, a: a.update(_store=1),
    "other format": lambda h, a: h["__metadata__"].update(format="2"),
    "no metadata": lambda h, a: h.pop("__metadata__") and h.update(__metadata__={}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_record_is_refused(name):
    with pytest.raises(ValueError, match=r"^a.shard: graph: is damaged, or no graph"):
        read(forged(FORGED[name]))
    assert read(forged(lambda h, a: None)).num_tokens == 2


@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused(content):
    with pytest.raises(ValueError, match=r"^a.shard: graph: is damaged"):
        read(content)


def test_deep_nesting_and_pickles_are_refused():
    deep = "[" * 100_000 + "]" * 100_000
    for text in (deep.encode(), pickle.dumps(graph())):
        content = len(text).to_bytes(8, "little") + text
        with pytest.raises(ValueError, match=r"is damaged, or no graph"):
            read(content)
