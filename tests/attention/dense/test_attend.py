import pytest
import torch

from pyg_atomenc.attention.dense.attend import RowWriter, softmax


@pytest.mark.parametrize("grad", [False, True])
def test_rows_are_written_once_and_the_rest_is_zero(grad):
    with torch.set_grad_enabled(grad):
        writer = RowWriter((4, 2), torch.zeros(0), spare=1)
        rows = torch.ones(2, 2, requires_grad=grad)
        writer.write(torch.tensor([3, 1]), rows * 2)
        # A row past the end takes what belongs to padding.
        writer.write(torch.tensor([4]), torch.full((1, 2), torch.nan))
        out = writer.result()
    assert out.tolist() == [[0, 0], [2, 2], [0, 0], [2, 2]]
    if grad:
        out.sum().backward()
        assert rows.grad.tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("width", [2, 9, 15, 16, 40])
@pytest.mark.parametrize("rows", [3, 600])
def test_softmax_is_the_same_in_every_layout(width, rows):
    logits = torch.randn(rows, width, width, dtype=torch.float64)
    logits[0, 0, 1:] = -torch.inf
    torch.testing.assert_close(softmax(logits), torch.softmax(logits, -1))
