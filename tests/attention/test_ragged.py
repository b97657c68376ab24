import torch

from pyg_atomenc.attention.ragged import pointers, ranges, take


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
