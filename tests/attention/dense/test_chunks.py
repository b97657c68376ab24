import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.attention.dense.chunks import (
    MAX_ENTRIES,
    MIN_ROWS,
    RowWriter,
    iterate_chunks,
    take,
)


def chunks_of(index, num_tokens):
    layout = TokenLayout.from_index(torch.tensor(index, dtype=torch.long), num_tokens)
    return layout, list(
        iterate_chunks(layout.ptr, layout.order, layout.token_order, layout.plan)
    )


@given(st.lists(st.integers(0, 20), max_size=200))
def test_every_atom_is_read_and_written_in_its_token(index):
    layout, chunks = chunks_of(index, 22)
    seen = []
    for chunk in chunks:
        for row, token in enumerate(chunk.tokens.tolist()):
            size = chunk.size if chunk.sizes is None else chunk.sizes[row].item()
            atoms = chunk.write[row, :size].tolist()
            assert atoms == [a for a, t in enumerate(index) if t == token]
            assert chunk.read[row, :size].tolist() == atoms
            assert set(chunk.write[row, size:].tolist()) <= {len(index)}
            assert set(chunk.read[row, size:].tolist()) <= {atoms[-1]}
            if chunk.mask is not None:
                assert chunk.mask[row].sum() == size
            seen += atoms
    assert sorted(seen) == list(range(len(index)))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_pair_rows_follow_the_edge_list(index):
    layout, chunks = chunks_of(index, 8)
    edges = layout.to_edge_index()
    sizes = layout.sizes**2
    pair_ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    seen = []
    for chunk in chunks:
        read, write = chunk.pair_rows(pair_ptr, slice(0, chunk.size))
        inside = write < layout.num_pairs
        assert torch.equal(read[inside], write[inside])
        target = chunk.read.unsqueeze(2).expand_as(read)[inside]
        source = chunk.read.unsqueeze(1).expand_as(read)[inside]
        assert torch.equal(edges[:, read[inside]], torch.stack([source, target]))
        seen += write[inside].tolist()
    assert sorted(seen) == list(range(layout.num_pairs))


def test_row_blocks_are_bounded():
    _, (chunk,) = chunks_of([0] * 5000, 1)
    blocks = list(chunk.row_blocks())
    assert [block.start for block in blocks[1:]] == [b.stop for b in blocks[:-1]]
    assert blocks[-1].stop == 5000
    rows = blocks[0].stop
    assert rows == max(MIN_ROWS, MAX_ENTRIES // 5000)


@pytest.mark.parametrize("grad", [False, True])
def test_rows_are_written_once_and_the_rest_is_zero(grad):
    with torch.set_grad_enabled(grad):
        writer = RowWriter(4, (2,), torch.zeros(0))
        rows = torch.ones(2, 2, requires_grad=grad)
        writer.write(torch.tensor([3, 1]), rows * 2)
        # A row past the end takes what belongs to padding.
        writer.write(torch.tensor([4]), torch.full((1, 2), torch.nan))
        out = writer.result()
    assert out.tolist() == [[0, 0], [2, 2], [0, 0], [2, 2]]
    if grad:
        out.sum().backward()
        assert rows.grad.tolist() == [[2, 2], [2, 2]]


def test_take_is_indexing():
    x = torch.randn(5, 3, 2)
    index = torch.tensor([[4, 0], [2, 2], [1, 3]])
    assert torch.equal(take(x, index), x[index])
    assert take(x, index[:0]).shape == (0, 2, 3, 2)
