from dataclasses import replace
from itertools import chain, combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyg_atomenc.attention import TokenLayout, WindowLayout, attention
from pyg_atomenc.attention.context import _PLANNED, OperatorContext
from pyg_atomenc.attention.dense import plan
from pyg_atomenc.attention.dense.plan import (
    ACCELERATOR,
    CPU,
    MIN_ROWS,
    Limits,
    chunks_of,
    limits_of,
    make_groups,
    stretches_of,
)


def sorted_sizes(sizes):
    return np.sort(np.array(sizes, dtype=np.int64))


def make(index, num_tokens):
    layout = TokenLayout.from_index(torch.tensor(index, dtype=torch.long), num_tokens)
    return layout, OperatorContext.from_layout(layout, 0.0)


@given(
    st.lists(st.integers(0, 40), max_size=200),
    st.sampled_from([CPU, ACCELERATOR, CPU._replace(atoms=30, chunk_cost=40)]),
)
def test_groups_cover_every_token_once_in_order(sizes, limits):
    token = sizes.count(0)
    for group in chain.from_iterable(make_groups(sorted_sizes(sizes), limits)):
        assert group.start == token < group.stop
        token = group.stop
    assert token == len(sizes)


@pytest.mark.parametrize("limits", [CPU, ACCELERATOR])
def test_stretches_are_bounded(limits):
    generator = torch.Generator().manual_seed(3)
    sizes = torch.randint(0, 60, (5000,), generator=generator)
    sizes = torch.cat([sizes, torch.tensor([limits.atoms - 1, limits.atoms + 1])])
    sizes = sizes.sort().values.numpy()
    for stretch in make_groups(sizes, limits):
        groups = [sizes[group] for group in stretch]
        atoms = sum(int(group.sum()) for group in groups)
        assert atoms <= limits.atoms or [*map(len, groups)] == [1]
        # Tokens of one atom need no queries and keys, which many do without.
        assert {group.max() == 1 for group in groups} != {True, False}


def cost(groups, limits):
    """Of chunks of tokens of these sizes, as `Limits` has it."""
    total = 0
    for sizes in groups:
        padding = len(sizes) * sizes[-1] ** 2 - sum(size**2 for size in sizes)
        copies = len(sizes) * sizes[-1] * limits.copy_cost
        total += limits.chunk_cost + padding + (copies if padding else 0)
    return total


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=12).map(sorted),
    st.sampled_from([10, 40, 200]),
    st.sampled_from([0, 3]),
)
def test_no_other_chunks_of_a_stretch_cost_less(sizes, chunk_cost, copy_cost):
    limits = Limits(10_000, chunk_cost, copy_cost, 1)
    (found,) = make_groups(sorted_sizes(sizes), limits)
    places = [i for i in range(1, len(sizes)) if sizes[i] != sizes[i - 1]]
    costs = [
        cost([sizes[i:j] for i, j in pairwise([0, *cuts, len(sizes)])], limits)
        for count in range(len(places) + 1)
        for cuts in combinations(places, count)
    ]
    assert cost([sizes[group] for group in found], limits) == min(costs)


def test_the_number_of_groups_does_not_grow_with_equal_tokens_of_one_chunk():
    assert [len(s) for s in make_groups(np.full(100, 8), CPU)] == [1]
    million = make_groups(np.full(10**6, 8), CPU)
    assert [len(s) for s in million] == [1] * -(-(10**6) // (CPU.atoms // 8))
    assert len(make_groups(np.array([20_000]), CPU)) == 1


@given(st.lists(st.integers(0, 20), max_size=200))
def test_every_atom_is_read_and_written_in_its_token(index):
    _, context = make(index, 22)
    seen = []
    for stretch in stretches_of(context, 2):
        for chunk in stretch.chunks:
            assert torch.equal(stretch.rows.index[chunk.atoms], chunk.rows)
            assert torch.equal(stretch.tokens.index[chunk.places], chunk.tokens)
            read = chunk.pad(chunk.rows)
            assert torch.equal(chunk.compact(read), chunk.rows)
            for row, token in enumerate(chunk.tokens.tolist()):
                atoms = [a for a, t in enumerate(index) if t == token]
                padding = chunk.size - len(atoms)
                assert read[row].tolist() == atoms + padding * atoms[-1:]
                if chunk.padding is None:
                    assert not padding
                else:
                    for head in (2 * row, 2 * row + 1):
                        closed = chunk.padding.closed[head].flatten().tolist()
                        assert closed == len(atoms) * [0] + padding * [-torch.inf]
                        share = chunk.padding.share[head].sum().item()
                        assert share == pytest.approx(1)
                seen += atoms
    assert sorted(seen) == list(range(len(index)))


@pytest.mark.parametrize("index", [[0, 0, 1, 1], [0, 1, 1, 1, 2, 2], [0, 0, 0]])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("indexed", [False, True])
def test_queries_and_keys_are_split_by_head_and_joined_again(index, heads, indexed):
    _, context = make(index, 3)
    (chunk,) = chunks_of(context, heads)
    if chunk.padding is not None and not indexed:  # as off a CPU
        padding = replace(chunk.padding, split=None, joined=None)
        chunk = replace(chunk, padding=padding)
    atoms = torch.randn(len(index), 2, heads, 5)
    found = chunk.split(atoms.flatten(1), heads)
    by_token = found.view(2, len(chunk.tokens), heads, chunk.size, 5)
    assert torch.equal(by_token.permute(1, 3, 0, 2, 4), chunk.pad(atoms))
    assert torch.equal(chunk.join(found, heads), atoms.flatten(1))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200))
def test_places_give_every_row_back(index):
    layout, context = make(index, 22)
    stretches = stretches_of(context, 2)
    for stretch in stretches:
        for places, rows in ((stretch.rows, len(index)), (stretch.tokens, 22)):
            whole = torch.randn(rows)
            part = places.take(whole)
            assert torch.equal(part, whole[places.index])
            all_there = len(places.index) == rows
            assert (places.back is not None) == (all_there and len(stretches) == 1)
            if places.back is not None:
                assert torch.equal(part[places.back], whole)
            assert places.in_order == (all_there and torch.equal(part, whole))


def test_tokens_that_share_one_chunk_stay_as_they_come():
    _, context = make([0, 0, 0, 1, 2, 2], 3)
    (stretch,) = stretches_of(context, 2)
    (chunk,) = stretch.chunks
    assert chunk.size == 3 and stretch.rows.in_order and stretch.tokens.in_order
    assert chunk.padding.sizes.tolist() == [3, 1, 2]
    # An empty token has no place in a chunk, so the others do not stand as they came.
    _, context = make([0, 0, 0, 1, 2, 2], 4)
    (stretch,) = stretches_of(context, 2)
    assert not stretch.tokens.in_order and stretch.tokens.index.tolist() == [1, 2, 0]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_pair_rows_follow_the_edge_list(index):
    layout, context = make(index, 8)
    edges = layout.to_edge_index()
    first_pair = context.pair_ptr(edges[0])
    seen = []
    for chunk in chunks_of(context, 1):
        rows = slice(0, chunk.size)
        read, write = chunk.pair_rows(first_pair, rows)
        if isinstance(read, slice):
            assert len(chunk.tokens) == 1 and read == write
            stretch = torch.arange(read.start, read.stop)
            read = write = stretch.view(1, chunk.size, chunk.size)
        inside = write < layout.num_pairs
        assert torch.equal(read[inside], write[inside])
        atoms = chunk.pad(chunk.rows)
        target = atoms.unsqueeze(2).expand_as(read)[inside]
        source = atoms.unsqueeze(1).expand_as(read)[inside]
        assert torch.equal(edges[:, read[inside]], torch.stack([source, target]))
        seen += write[inside].tolist()
    assert sorted(seen) == list(range(layout.num_pairs))


def test_row_blocks_are_bounded():
    _, context = make([0] * 5000, 1)
    (chunk,) = chunks_of(context, 1)
    blocks = chunk.row_blocks
    assert [block.start for block in blocks[1:]] == [b.stop for b in blocks[:-1]]
    assert blocks[-1].stop == 5000
    rows = blocks[0].stop
    assert rows == max(MIN_ROWS, CPU.entries // 5000)


def test_chunks_are_larger_where_launches_cost_more_than_memory():
    assert limits_of(torch.device("cpu")) == CPU
    assert limits_of(torch.device("cuda")) == ACCELERATOR
    residues = torch.randint(4, 15, (110_000,)).sort().values.numpy()
    assert len(make_groups(residues, CPU)) > 400
    assert sum(map(len, make_groups(residues, ACCELERATOR))) <= 30


@pytest.fixture
def planned(monkeypatch):
    """The layouts that were planned."""
    made = []

    def count(perm, *others):
        made.append(len(perm))
        return make_stretches(perm, *others)

    make_stretches = plan.make_stretches
    monkeypatch.setattr(plan, "make_stretches", count)
    return made


def test_a_layout_is_planned_once_and_forgotten_with_it(planned):
    index = torch.tensor([0, 0, 1, 3, 3, 3])
    kept = len(_PLANNED)
    for _ in range(2):
        layout = TokenLayout.from_index(index)
        qkv = torch.randn(3, 6, 1, 2, requires_grad=True)
        for _ in range(3):
            attention(*qkv, layout, backend="dense").pow(2).sum().backward()
    assert len(planned) == 2
    del layout
    assert len(_PLANNED) == kept


def test_what_was_planned_without_gradients_serves_training():
    layout = TokenLayout.from_index(torch.tensor([0, 0, 1, 2, 2, 2]))
    qkv = torch.randn(3, 6, 1, 2, requires_grad=True)
    with torch.inference_mode():
        expected = attention(*qkv, layout, backend="dense")
    torch.func.grad(lambda x: attention(*x, layout, backend="dense").sum())(qkv)
    out = attention(*qkv, layout, backend="dense")
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.pow(2).sum(), qkv, create_graph=True)
    grad.pow(2).sum().backward()


def test_a_layout_that_was_edited_is_planned_anew():
    layout = TokenLayout.from_index(torch.tensor([0, 0, 1, 2, 2, 2]))
    qkv = torch.randn(3, 6, 1, 2)
    attention(*qkv, layout, backend="dense")
    other = TokenLayout.from_index(torch.tensor([2, 2, 2, 0, 1, 1]))
    for name in ("perm", "ptr", "host_ptr", "atom_to_token"):
        getattr(layout, name).copy_(getattr(other, name))
    found = [attention(*qkv, layout, backend=name) for name in ("dense", "edges")]
    torch.testing.assert_close(*found)
    mixed = replace(layout, ptr=other.ptr.clone(), host_ptr=other.host_ptr.clone())
    torch.testing.assert_close(attention(*qkv, mixed, backend="dense"), found[0])


def test_plans_stay_on_the_cpu():
    index = torch.tensor([0, 0, 1, 3, 3, 3])
    # Any other device than the CPU will do.
    with torch.device("meta"):
        layout = TokenLayout.from_index(index, 4)
        context = OperatorContext.from_layout(layout, 0.0)
        windows = WindowLayout.from_ptr(torch.tensor([0, 50], device="cpu"))
        qkv = torch.randn(3, 6, 1, 2, device="cpu")
        assert attention(*qkv, layout, backend="dense").device.type == "cpu"
    assert context.host_ptr.device.type == "cpu"
    assert torch.equal(windows.query_start, torch.tensor([0, 32]))


def test_pointers_that_were_moved_come_back():
    class Moved(torch.Tensor):
        device = torch.device("cuda")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    layout = TokenLayout.from_index(torch.tensor([0, 0, 1]))
    moved = replace(layout, host_ptr=layout.host_ptr.as_subclass(Moved))
    host = OperatorContext.from_layout(moved, 0.0).host_ptr
    assert type(host) is torch.Tensor and torch.equal(host, layout.host_ptr)
