"""Collecting the rows that chunks compute."""

from collections.abc import Iterable
from typing import Union

import torch
from torch import Tensor


class RowWriter:
    """Collects computed rows into whole tensors.

    Without gradients rows are written in place as they come. With gradients they are
    kept and joined once, as an in-place write a chunk would make the backward pass
    touch the whole tensor as often as there are chunks. A row past the end takes what
    belongs to padding; rows are zeros until written, unless ``all_written`` will be.
    """

    def __init__(
        self, rows: int, shape: Iterable[int], like: Tensor, all_written: bool = False
    ) -> None:
        self._joins = works_out_of_place()
        # Zeros are an extra pass over memory.
        make = like.new_empty if all_written and not self._joins else like.new_zeros
        self._out = make((rows + 1, *shape))
        self._index: list[Tensor] = []
        self._rows: list[Tensor] = []

    def write(self, index: Union[Tensor, slice], rows: Tensor) -> None:
        """Put ``rows`` where ``index`` says; both may have more leading dimensions."""
        rows = rows.reshape(-1, *self._out.shape[1:]).to(self._out.dtype)
        if isinstance(index, Tensor):
            index = index.flatten()
        if not self._joins:
            self._out[index] = rows
            return
        if isinstance(index, slice):
            index = torch.arange(index.start, index.stop, device=rows.device)
        self._index.append(index)
        self._rows.append(rows)

    def result(self) -> Tensor:
        """The whole tensor, zeros where nothing was written."""
        out = self._out
        if self._rows:
            out = out.index_copy(0, torch.cat(self._index), torch.cat(self._rows))
        return out[:-1]


def works_out_of_place() -> bool:
    """Whether autograd or a transform follows, which in-place writes would disturb."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
