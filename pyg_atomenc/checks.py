"""The one home of argument checks, each of which raises an ``AtomEncodingError``."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Optional, TypeVar

import torch
from torch import Tensor

from pyg_atomenc.errors import AtomEncodingError, FileFormatError

T = TypeVar("T")

INTEGER_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def listed(values: Iterable[Any], most: int = 5) -> str:
    """Some of the values for a message, and how many more there are."""
    known = [repr(value) for value in values]
    shown = ", ".join(known[:most])
    return shown if len(known) <= most else f"{shown} and {len(known) - most} more"


def found(value: Any) -> str:
    """What was found, for a message: a tensor's type and shape, or a type's name."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {list(value.shape)}"
    return f"of type {type(value).__name__}"


def check(holds: Any, text: str) -> None:
    """Raise an ``AtomEncodingError`` with this text unless a condition holds."""
    if not holds:
        raise AtomEncodingError(text)


def check_file(file: Any, holds: Any, text: str) -> None:
    """Raise a ``FileFormatError`` about a file unless a condition holds."""
    if not holds:
        raise FileFormatError(f"{file}: {text}")


def check_type(name: str, value: Any, kind: type[T], mend: str) -> T:
    """The value, if it is an instance of ``kind``."""
    if not isinstance(value, kind):
        raise AtomEncodingError(f"'{name}' is of type {type(value).__name__}: {mend}")
    return value


def check_choice(name: str, value: T, choices: Sequence[T]) -> T:
    """The value, if it is one of ``choices``."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise AtomEncodingError(f"'{name}' is {value!r}: choose one of {known}.")
    return value


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """The value as an ``int``, if it is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        kind = "a positive int" if least == 1 else f"an integer of at least {least}"
        raise AtomEncodingError(f"'{name}' is {value!r}: pass {kind}.")
    return int(value)


def check_wanted(name: str, value: Any, wanted: bool, option: str) -> None:
    """Check that a value was passed where a layer's option wants it, and only there."""
    if wanted and value is None:
        raise AtomEncodingError(f"'{name}' is missing: the layer's {option} needs it.")
    if not wanted and value is not None:
        mend = f"no weights for it: leave it out, or make the layer with {option}."
        raise AtomEncodingError(f"'{name}' was passed, but the layer has {mend}")


def check_sizes(**sizes: Any) -> None:
    """Check that all sizes, by name, are positive integers."""
    for name, size in sizes.items():
        check_integer(name, size)


def check_channels(name: str, size: Any) -> None:
    """Check that a number of channels is a positive integer, or -1 for lazy."""
    if size != -1:
        check_integer(name, size)


def is_real(value: Any) -> bool:
    """Whether it is a number, which a bool is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(name: str, value: Any, unit: str = "") -> float:
    """The value as a ``float``, if it is positive and finite."""
    if not is_real(value) or not 0 < value < float("inf"):
        wanted = f"a positive number {unit}".strip()
        raise AtomEncodingError(f"'{name}' is {value!r}: pass {wanted}.")
    return float(value)


def check_dropout(dropout: Any) -> float:
    """The probability, if it is at least 0 and below 1."""
    if not is_real(dropout) or not 0.0 <= dropout < 1.0:
        raise AtomEncodingError(f"'dropout' is {dropout!r}: pass a number in [0, 1).")
    return float(dropout)


def check_callable(name: str, value: Optional[Any]) -> None:
    """Check that the value can be called, or is ``None``."""
    if value is not None and (isinstance(value, type) or not callable(value)):
        mend = "pass a function, or an object that can be called."
        raise AtomEncodingError(f"'{name}' is {value!r}: {mend}")


def check_tensor(name: str, value: Any, mend: str = "pass a tensor.") -> Tensor:
    """The value, if it is a tensor."""
    return check_type(name, value, Tensor, mend)


def check_floating(name: str, value: Any) -> Tensor:
    """The value, if it is a tensor of floating numbers."""
    tensor = check_tensor(name, value, "pass a floating tensor.")
    if not tensor.dtype.is_floating_point:
        mend = "pass floating numbers: use .float(), or embed with torch.nn.Embedding."
        raise AtomEncodingError(f"'{name}' is of type {tensor.dtype}: {mend}")
    return tensor


def check_shape(name: str, value: Any, *shape: Any, hint: str = "") -> Tensor:
    """The value, if it is a tensor of ``shape``, where a text stands for any size."""
    fits = isinstance(value, Tensor) and value.dim() == len(shape)
    pairs = zip(shape, value.shape, strict=True) if fits else ()
    if not fits or any(a != b for a, b in pairs if not isinstance(a, str)):
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        what = f"'{name}' needs the shape [{', '.join(map(str, shape))}], found: {got}"
        raise AtomEncodingError(f"{what}; {hint}." if hint else f"{what}.")
    return value


def check_index(name: str, value: Any, mend: str) -> Tensor:
    """The value, if it is a vector of integers."""
    tensor = check_tensor(name, value, mend)
    if tensor.dim() != 1:
        raise AtomEncodingError(f"'{name}' has shape {list(tensor.shape)}: {mend}")
    if tensor.dtype not in INTEGER_TYPES:
        mend += f" Convert with {name}.long()."
        raise AtomEncodingError(f"'{name}' is of type {tensor.dtype}: {mend}")
    return tensor


def bounds(value: Tensor) -> tuple[int, int]:
    """The lowest and the highest of some integers; waits for a device."""
    # One transfer for both ends: on a GPU each `int()` would wait on its own. By `int`,
    # as torch 2.6 has no `tolist` inside of torch.func's transforms.
    low, high = torch.stack(value.aminmax()).cpu()
    return int(low), int(high)


def check_range(name: str, value: Tensor, count: int, what: str) -> None:
    """Check that all integers of a tensor lie in ``[0, count)``; waits for a device."""
    if value.numel() == 0:
        return
    low, high = bounds(value)
    if low < 0 or high >= count:
        mend = f"{count} {what}: they must lie in [0, {count})."
        raise AtomEncodingError(f"'{name}' has values from {low} to {high} for {mend}")


def check_rows(
    name: str, value: Tensor, count: int, what: str, mend: str = "give it one for each."
) -> None:
    """Check that a tensor has one row for each of ``count`` things, named ``what``."""
    if value.shape[:1] != (count,):
        rows = len(value) if value.dim() else "no"
        raise AtomEncodingError(f"'{name}' has {rows} rows for {count} {what}: {mend}")


def check_edges(name: str, value: Any, count: int, what: str) -> Tensor:
    """The value, if it holds edges ``[2, E]``, integers in ``[0, count)``."""
    edges = check_shape(name, value, 2, "E")
    if edges.dtype not in INTEGER_TYPES:
        raise AtomEncodingError(f"'{name}' is of type {edges.dtype}: pass integers.")
    check_range(name, edges, count, what)
    return edges


def check_device(name: str, tensor: Tensor, other: str, device: torch.device) -> None:
    """Check that a tensor lies on the device of another argument."""
    if tensor.device != device:
        rest = f"'{other}' on {device}: move them to one device."
        raise AtomEncodingError(f"'{name}' is on {tensor.device}, but {rest}")


def check_has(data: Any, mend: str, *names: str) -> None:
    """Check that a graph has all the attributes of these names."""
    for name in names:
        if name not in data:
            raise AtomEncodingError(f"'{name}' is missing from the data: {mend}")


def check_heads(name: str, channels: int, heads: int) -> None:
    """Check that every one of ``heads`` gets as many of the channels."""
    mend = "pass a multiple of the heads."
    check(channels % heads == 0, f"'{name}' is {channels} for {heads} heads: {mend}")
