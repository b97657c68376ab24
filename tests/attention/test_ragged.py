import numpy as np
import pytest
import torch

from pyg_atomenc.attention.ragged import pointers, ranges, stable_order, take


def test_pointers_and_ranges():
    count = torch.tensor([2, 0, 3])
    assert pointers(count).tolist() == [0, 2, 2, 5]
    found = ranges(torch.tensor([7, 1, 0]), count)
    assert found.tolist() == [7, 8, 0, 1, 2]
    assert torch.equal(ranges(torch.tensor([7, 1, 0]), count, 5), found)
    nothing = count[:0]
    assert pointers(nothing).tolist() == [0] and ranges(nothing, nothing).numel() == 0


def test_take_is_indexing():
    x = torch.randn(5, 3, 2)
    index = torch.tensor([[4, 0], [2, 2], [1, 3]])
    assert torch.equal(take(x, index), x[index])
    assert take(x, index[:0]).shape == (0, 2, 3, 2)


def test_take_reads_columns_as_they_lie():
    x, index = torch.randn(4, 6).mT, torch.tensor([[4, 0], [2, 2]])
    assert torch.equal(take(x, index), x[index])
    assert take(x, index.flatten()).stride(0) == 1
    assert take(x, index[:0]).shape == (0, 2, 4)
    assert take(x[:, :1].contiguous(), index).shape == (2, 2, 1)


@pytest.mark.parametrize("count", [1, 2, 1000, 2**16, 2**16 + 1, 2**20, 2**33])
@pytest.mark.parametrize("length", [0, 1, 2, 5000])
def test_the_order_of_integers_is_stable(length, count):
    ids = torch.randint(count, (length,))
    ids[-1:] = count - 1
    for given in (ids, ids.sort().values, ids.flip(0)):
        found = stable_order(given.numpy(), count)
        assert found.dtype == np.int64
        assert torch.equal(torch.from_numpy(found), given.argsort(stable=True))
