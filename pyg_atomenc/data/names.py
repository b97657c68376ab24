"""`Names`: lists of names that follow their atoms through PyG's transforms."""

from typing import Any

import torch
from torch import Tensor


class Names(list[str]):
    """A list of names that a tensor of indices, or a mask, selects from."""

    ndim = 1

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, Tensor) or key.dim() == 0:
            return super().__getitem__(key)
        rows = key.nonzero().flatten() if key.dtype == torch.bool else key
        return Names(map(super().__getitem__, rows.tolist()))

    def __reduce__(self) -> Any:
        # In this form `torch.load` takes it for weights.
        return Names, (tuple(self),)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any, *rest: Any) -> Any:
        # By T.Pad; names grow with `atom_to_token`, as by T.VirtualNode.
        return args[0] if func is torch.nn.functional.pad else NotImplemented


def named(value: Any) -> Any:
    """The value; a list of texts, or an empty one, as names."""
    text = type(value) is list and all(issubclass(t, str) for t in {*map(type, value)})
    return Names(value) if text else value


torch.serialization.add_safe_globals([Names])
