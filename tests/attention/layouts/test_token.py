import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import partitions

from pyg_atomenc import TokenLayout

PARTITIONS = partitions()


@pytest.mark.parametrize("name", PARTITIONS)
def test_edge_index_joins_all_pairs_of_a_token_and_no_others(name):
    index, num_tokens = PARTITIONS[name]
    layout = TokenLayout.from_index(index, num_tokens)
    edges = [tuple(edge) for edge in layout.to_edge_index().t().tolist()]
    expected = (index.unsqueeze(1) == index).nonzero().tolist()
    assert len(edges) == len(expected) == layout.num_pairs
    assert set(edges) == set(map(tuple, expected))
    # Sorted by token, then target, then source.
    token = index.tolist()
    keys = [(token[b], b, a) for a, b in edges]
    assert keys == sorted(keys)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 3))
def test_pointers_and_order_are_consistent(ids, extra):
    index = torch.tensor(ids, dtype=torch.long)
    num_tokens = max(ids, default=-1) + 1 + extra
    layout = TokenLayout.from_index(index, num_tokens)
    assert layout.num_tokens == num_tokens
    assert layout.num_atoms == len(ids)
    for token in range(num_tokens):
        members = layout.perm[layout.ptr[token] : layout.ptr[token + 1]]
        assert members.tolist() == [i for i, t in enumerate(ids) if t == token]
    assert torch.equal(layout.ptr, layout.host_ptr)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_later_edits_of_the_assignment_change_nothing(dtype):
    index = torch.tensor([1, 0, 1], dtype=dtype)
    layout = TokenLayout.from_index(index)
    index.fill_(0)
    assert layout.atom_to_token.tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_any_integer_type(dtype):
    index = torch.tensor([1, 0, 1], dtype=dtype)
    layout = TokenLayout.from_index(index)
    assert layout.atom_to_token.dtype == torch.long
    assert layout.num_tokens == 2


def test_moves_copies_and_pickles():
    layout = TokenLayout.from_index(torch.tensor([1, 0, 1]), 4)
    for other in (
        layout.to("cpu"),
        layout.to("cpu", non_blocking=True),
        copy.deepcopy(layout),
        pickle.loads(pickle.dumps(layout)),
    ):
        assert torch.equal(other.to_edge_index(), layout.to_edge_index())
        assert torch.equal(other.host_ptr, layout.host_ptr)
        assert other.num_pairs == 5
    meta = layout.to("meta")
    assert meta.device.type == "meta" and meta.host_ptr.device.type == "cpu"
    assert repr(layout) == "TokenLayout(num_atoms=3, num_tokens=4, device='cpu')"


BAD = {
    "list": (lambda: ([0, 1], None), r"'atom_to_token' is of type list"),
    "matrix": (lambda: (torch.zeros(2, 2).long(), None), r"has shape \[2, 2\]"),
    "float": (lambda: (torch.zeros(2), None), r"torch.float32.*\.long\(\)"),
    "bool": (lambda: (torch.zeros(2).bool(), None), r"torch.bool"),
    "negative": (lambda: (torch.tensor([0, -2]), None), r"negative token id -2"),
    "too small": (lambda: (torch.tensor([0, 5]), 5), r"token id 5.*num_tokens >= 6"),
    "negative count": (lambda: (torch.tensor([0]), -1), r"'num_tokens' is -1"),
    "float count": (lambda: (torch.tensor([0]), 1.5), r"'num_tokens' is 1.5"),
    "bool count": (lambda: (torch.tensor([0]), True), r"'num_tokens' is True"),
    "tensor count": (
        lambda: (torch.tensor([0]), torch.tensor([1, 2])),
        r"tensor of 2 numbers.*batch.num_tokens.sum",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_index(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        TokenLayout.from_index(*make())


def test_tensor_count_of_one_number():
    assert TokenLayout.from_index(torch.tensor([0]), torch.tensor([3])).num_tokens == 3


def test_token_in_two_graphs():
    index, batch = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"graphs 0 and 1 of 'batch' into token 0"):
        TokenLayout.from_index(index, batch=batch)
    with pytest.raises(ValueError, match=r"AtomTokenData"):
        TokenLayout.from_index(index).check_batch(batch)
    with pytest.raises(
        ValueError, match=r"'batch' needs the shape \[4\], found: \[3\]"
    ):
        TokenLayout.from_index(index, batch=batch[:3])
    TokenLayout.from_index(torch.tensor([0, 1, 2, 3]), batch=batch)


def test_ids_that_no_memory_holds():
    for name, count in (("index", "dim_size"), ("atom_to_token", "num_tokens")):
        for index in ([0, 10**10], [2**62], [10**6, 3]):
            index = torch.tensor(index)
            message = (
                f"'{name}' holds token id {int(index.max())} for {len(index)} atoms.*"
                f"torch.unique.*'{count}'"
            )
            with pytest.raises(ValueError, match=message):
                TokenLayout.from_index(index, name=name)
        for told in (10**10, torch.tensor(10**10)):
            with pytest.raises(ValueError, match=f"'{count}' is 10000000000.*memory"):
                TokenLayout.from_index(torch.tensor([0]), told, name=name)
    with pytest.raises(ValueError, match="'num_tokens' is -1"):
        TokenLayout.from_index(torch.tensor([0]), -1)


def test_ids_with_gaps_are_fine():
    assert TokenLayout.from_index(torch.tensor([999_999, 3])).num_tokens == 10**6
    many = torch.arange(2000) * 999
    assert TokenLayout.from_index(many).num_tokens == 1999 * 999 + 1
    assert TokenLayout.from_index(torch.tensor([3]), 2 * 10**6).num_tokens == 2 * 10**6
