import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import partitions
from torch_geometric.data import Batch, Data

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData, TokenLayout

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


def restarts(index, told):
    """Runs that do not fall and start at 0, two or more, the last not of 0 alone.

    Where more tokens were told of than there are, it may be.
    """
    starts = [index[0]] if index else []
    starts += [b for a, b in zip(index, index[1:], strict=False) if b < a]
    return len(starts) > 1 and not any(starts) and (bool(told) or index[-1] > 0)


def test_ids_that_start_again_are_noticed():
    cases = [[0, 0, 1, 0, 1, 2], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 2, 1], [0], []]
    cases += [torch.randint(0, 3, (5,)).tolist() for _ in range(100)]
    assert 3 < sum(restarts(case, None) for case in cases) < 60
    for case in cases:
        index = torch.tensor(case, dtype=torch.long)
        count = max(case, default=-1) + 1
        for told, noticed in ((None, True), (count + 2, True), (count, False)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                TokenLayout.from_index(index, told)
            assert bool(caught) == (noticed and restarts(case, told)), (case, told)
            assert all("AtomTokenData.from_data" in str(w.message) for w in caught)


def test_ids_that_start_again_are_not_noticed_where_nobody_can_be_told():
    index = torch.tensor([0, 1, 0, 1])
    x = torch.randn(4, 2)

    def count(x):
        return TokenLayout.from_index(index).ptr.size(0) * x.sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenLayout.from_index(index, batch=torch.zeros(4).long())
        torch.func.vmap(count)(x)


def test_plain_data_is_noticed_by_the_first_layer():
    index = torch.tensor([0, 0, 1, 1])
    plain = [
        Data(x=torch.randn(4, 3), atom_to_token=index, num_tokens=2) for _ in range(2)
    ]
    batch = Batch.from_data_list(plain)
    encoder = AtomAttentionEncoder(3, 4, 2)
    with pytest.warns(UserWarning, match="starts again from token 0, 1 times"):
        encoder(batch.x, batch.atom_to_token)
    with pytest.warns(UserWarning, match="before batching"):
        encoder(batch.x, batch.atom_to_token, dim_size=int(batch.num_tokens.sum()))
    with pytest.raises(ValueError, match="graphs 0 and 1"):
        encoder(batch.x, batch.atom_to_token, batch=batch.batch)
    mended = Batch.from_data_list([AtomTokenData.from_data(g) for g in plain])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(mended.x, mended.atom_to_token)
        data = AtomTokenData(atom_to_token=torch.tensor([0, 1, 0, 1]), num_tokens=5)
        data.token_layout()


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
