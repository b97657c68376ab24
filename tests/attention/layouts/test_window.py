import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree
from torch_geometric.data import Batch, Data

from pyg_atomenc.attention.layouts.window import WindowLayout


def expected_edges(sizes, queries, keys, shifted):
    """Window by window, in Python."""
    edges, offset = [], 0
    for size in sizes:
        for first in range(0, size, queries):
            low = first - (keys - queries) // 2
            if shifted:
                low = max(0, min(low, size - keys))
            high = min(low + keys, size)
            for target in range(first, min(first + queries, size)):
                for source in range(max(low, 0), high):
                    edges.append((source + offset, target + offset))
        offset += size
    return edges


shapes = st.sampled_from([(2, 4), (4, 4), (4, 8), (4, 12), (32, 128)])


@given(st.lists(st.integers(0, 70), max_size=6), shapes, st.booleans())
def test_edges_by_hand(sizes, shape, shifted):
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    # A batch's own pointers; a vector of steps of 0 and 1 would be taken for graph ids.
    batch = Batch()
    batch.ptr = ptr
    layout = WindowLayout.from_batch(batch, *shape, shifted=shifted)
    edges = expected_edges(sizes, *shape, shifted)
    assert layout.to_edge_index().t().tolist() == [list(edge) for edge in edges]
    assert layout.num_pairs == len(edges) and layout.num_atoms == sum(sizes)
    query, is_query = layout.query_index()
    key, is_key = layout.key_index()
    assert query[is_query].tolist() == list(range(sum(sizes)))
    assert query.shape == (layout.num_windows, shape[0])
    assert key.shape == (layout.num_windows, shape[1])
    index, is_edge = layout.pair_index()
    assert index[is_edge].tolist() == list(range(len(edges)))
    found = layout.to_edge_index()[:, index[is_edge]]
    source = key.unsqueeze(1).expand_as(index)[is_edge]
    target = query.unsqueeze(2).expand_as(index)[is_edge]
    assert torch.equal(found, torch.stack([source, target]))
    if edges:
        assert 0 <= index.min() and index.max() < len(edges)


def test_the_windows_of_boltz():
    """32 queries and 128 keys: window k sees atoms 32 k - 48 to 32 k + 79."""
    layout = WindowLayout.from_batch(torch.tensor([0, 200]))
    assert layout.query_start.tolist() == [0, 32, 64, 96, 128, 160, 192]
    assert layout.key_start.tolist() == [0, 0, 16, 48, 80, 112, 144]
    assert layout.key_stop.tolist() == [80, 112, 144, 176, 200, 200, 200]
    shifted = WindowLayout.from_batch(torch.tensor([0, 200]), shifted=True)
    assert shifted.key_start.tolist() == [0, 0, 16, 48, 72, 72, 72]
    assert (shifted.key_stop - shifted.key_start).tolist() == [128] * 7


def test_what_a_batch_may_be():
    ids = torch.tensor([0, 0, 0, 1, 1])
    graphs = [Data(x=torch.zeros(3, 1)), Data(x=torch.zeros(2, 1))]
    expected = WindowLayout.from_batch(ids, 2, 4).to_edge_index()
    for given_ in (Batch.from_data_list(graphs), torch.tensor([0, 3, 5]), ids.int()):
        found = WindowLayout.from_batch(given_, 2, 4).to_edge_index()
        assert torch.equal(found, expected)
    alone = WindowLayout.from_batch(graphs[0], 2, 4)
    assert alone.num_atoms == 3 and alone.ptr.tolist() == [0, 3]
    empty = WindowLayout.from_batch(torch.zeros(0).long())
    assert empty.num_windows == 0 and empty.to_edge_index().shape == (2, 0)


def test_moves_pickles_and_flattens():
    layout = WindowLayout.from_batch(torch.tensor([0, 50, 90]))
    there = layout.to("meta")
    assert there.key_start.device.type == "meta" and there.num_pairs == layout.num_pairs
    assert there.to_edge_index().shape == layout.to_edge_index().shape
    copy = pickle.loads(pickle.dumps(layout))
    assert torch.equal(copy.to_edge_index(), layout.to_edge_index())
    leaves, spec = pytree.tree_flatten(layout)
    assert len(leaves) == 5
    assert repr(pytree.tree_unflatten(leaves, spec)) == repr(layout)
    assert "num_windows=4, queries=32, keys=128" in repr(layout)


@pytest.mark.parametrize(
    "batch, sizes, message",
    [
        ([0, 0], {}, "'batch_or_ptr' is of type list"),
        (torch.zeros(3), {}, "'batch_or_ptr' is of type torch.float32"),
        (torch.zeros(3, 1).long(), {}, r"has shape \[3, 1\]"),
        (torch.tensor([0, 1, 0]), {}, "never fall; sort the atoms"),
        (torch.tensor([1, 1]), {}, "must start at 0"),
        (torch.tensor([0, 9]), {"queries": 3}, "'queries' is 3: pass an even"),
        (torch.tensor([0, 9]), {"queries": 0}, "'queries' is 0: pass a positive"),
        (torch.tensor([0, 9]), {"queries": 4, "keys": 6}, "'keys' is 6 for 4 queries"),
        (torch.tensor([0, 9]), {"keys": 16}, "'keys' is 16 for 32 queries"),
        (torch.tensor([0, 9]), {"keys": 128.0}, "'keys' is 128.0: pass a positive"),
    ],
)
def test_bad_input(batch, sizes, message):
    with pytest.raises(ValueError, match=message):
        WindowLayout.from_batch(batch, **sizes)


def test_pointers_say_what_a_vector_leaves_open():
    # As graph ids these are two graphs of one atom, as pointers one.
    given = torch.tensor([0, 1])
    assert WindowLayout.from_batch(given).num_atoms == 2
    assert WindowLayout.from_ptr(given).num_atoms == 1
    layout = WindowLayout.from_ptr(torch.tensor([0, 0, 2, 2, 5]), 2, 4)
    assert layout.num_atoms == 5 and layout.ptr.numel() == 5
    with pytest.raises(ValueError, match="'ptr' goes from 1"):
        WindowLayout.from_ptr(torch.tensor([1, 2]))
