"""What every layout is: sources, targets, the pairs between them, and how it moves."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Optional, Self, Union

import torch
from torch import Tensor
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from pyg_atomenc.errors import AtomEncodingError

Device = Union[str, int, torch.device]


class Layout(ABC):
    """Says which sources every target attends to; :meth:`to_edge_index` is its meaning.

    A layout is an immutable dataclass of tensors and numbers. It is made and checked
    once a batch, in a DataLoader worker if you like, and handed to every layer: using
    one never waits for a device.

    Attributes:
        num_atoms (int): The number of atoms, where sources and targets are the same.
        num_pairs (int, optional): The number of edges of :meth:`to_edge_index`, where
            it is known without waiting for a device.
        kind (str): ``"tokens"``, ``"windows"`` or ``"edges"``, by which backends are
            chosen.
        tensors (tuple): The names of the fields that move with the layout.
        host_tensors (tuple): The names of those that stay on the CPU.
        shown (tuple): The names of the numbers that ``repr`` shows.
    """

    num_atoms: Any
    num_pairs: Optional[int]
    kind: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]]
    host_tensors: ClassVar[tuple[str, ...]] = ()
    shown: ClassVar[tuple[str, ...]] = ("num_sources", "num_targets", "num_pairs")

    @property
    def num_sources(self) -> int:
        """The number of nodes that are attended to."""
        return self.num_atoms

    @property
    def num_targets(self) -> int:
        """The number of nodes that attend."""
        return self.num_atoms

    @abstractmethod
    def to_edge_index(self) -> Tensor:
        """The pairs ``[2, E]``, int64, rows (source, target) = (key, query)."""

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return getattr(self, self.tensors[0]).device

    def check_device(self, name: str, tensor: Tensor) -> None:
        """Raise a ValueError unless a tensor, called ``name``, lies there."""
        if tensor.device != self.device:
            mend = f"move it with layout.to('{tensor.device}')."
            found = f"{tensor.device}, but 'layout' on {self.device}"
            raise AtomEncodingError(f"'{name}' is on {found}: {mend}")

    def to(self, device: Device, non_blocking: bool = False) -> Self:
        """Move to a device; what is kept for the CPU stays there."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Device = "cuda", non_blocking: bool = False) -> Self:
        """Move to a GPU."""
        return self.to(device, non_blocking)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until the work queued on ``stream`` is done."""
        for name in self.tensors:
            getattr(self, name).record_stream(stream)

    def pin_memory(self) -> Self:
        """Copy into page-locked memory, for asynchronous transfers to a GPU."""
        return self._map(lambda value: value.pin_memory())

    def __repr__(self) -> str:
        numbers = "".join(f"{name}={getattr(self, name)}, " for name in self.shown)
        return f"{type(self).__name__}({numbers}device='{self.device}')"

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changes: Any = {name: function(getattr(self, name)) for name in self.tensors}
        return replace(self, **changes)  # type: ignore[type-var]


def register_pytree(
    kind: type, tensors: tuple[str, ...], numbers: tuple[str, ...] = ()
) -> None:
    """Make a dataclass a pytree, whose leaves are its tensors.

    A trace may take its ``numbers`` for constants; what is left out, such as
    ``num_pairs`` where tensors tell it, does not bind an exported program to one batch.
    """

    def flatten(value: Any) -> tuple[list[Tensor], list[Any]]:
        leaves = [getattr(value, name) for name in tensors]
        return leaves, [getattr(value, name) for name in numbers]

    def flatten_with_keys(value: Any) -> tuple[list[Any], list[Any]]:
        leaves, context = flatten(value)
        return list(zip(map(pytree.GetAttrKey, tensors), leaves, strict=True)), context

    def unflatten(leaves: Any, context: Any) -> Any:
        named = zip((*tensors, *numbers), (*leaves, *context), strict=True)
        return kind(**dict(named))

    name = f"pyg_atomenc.{kind.__name__}"
    options: Any = {"serialized_type_name": name}
    options |= {"to_dumpable_context": list, "from_dumpable_context": list}
    options["flatten_with_keys_fn"] = flatten_with_keys
    pytree.register_pytree_node(kind, flatten, unflatten, **options)
    # What calling an exported program looks for in torch 2.6.
    fx_pytree.register_pytree_flatten_spec(kind, lambda value, spec: flatten(value)[0])
