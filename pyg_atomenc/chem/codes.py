"""Annotations of atoms as integers, above all as codes: equal where they are equal."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import AtomEncodingError

Array = NDArray[Any]
Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Texts = NDArray[np.str_]


def integers(values: Array, name: str) -> Integers:
    """An annotation ``[N]`` as int64, or a ValueError if a value is no whole number."""
    with suppress(ArithmeticError, TypeError, ValueError):
        with np.errstate(invalid="ignore"):
            found = values.astype(np.int64)
        if values.dtype.kind not in "fc" or (found == values).all():
            return found
    some = f"{values[:3].tolist()} …, and not all are whole numbers"
    raise AtomEncodingError(f"'{name}' holds {some}: give every atom an integer.")


def distinct(values: Array) -> tuple[Array, Integers]:
    """The distinct values of ``[N]`` in sorted order, and which one each is ``[N]``."""
    keys, width = values, values.dtype.itemsize // 4
    if values.dtype.kind == "U" and 0 < width <= 8 and len(values):
        letters = np.ascontiguousarray(values).view(np.uint32).reshape(-1, width)
        # Short Latin-1 texts as numbers in the same order, which sort much faster.
        if letters.max() < 256:
            keys = np.zeros(len(values), dtype=np.uint64)
            for column in letters.T:
                keys = (keys << np.uint64(8)) | column
    first, which = _first(keys)
    return values[first], which


def _first(keys: Array) -> tuple[Integers, Integers]:
    """Where the distinct values of ``[N]`` are first, and which one each is ``[N]``."""
    whole = keys.dtype == np.int64 and len(keys) > 0
    if whole and 0 <= keys.min() <= keys.max() < 4 * len(keys):
        place = np.full(keys.max() + 1, -1)
        place[keys[::-1]] = np.arange(len(keys))[::-1]
        return place[place >= 0], (np.cumsum(place >= 0) - 1)[keys]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    # Equal values mostly stand together: fewer are to be sorted.
    start = np.flatnonzero(new)
    _, first, which = np.unique(keys[start], return_index=True, return_inverse=True)
    return start[first], which[np.cumsum(new) - 1].astype(np.int64, copy=False)


def code(values: Array) -> Integers:
    """Number the distinct values of ``[N]`` in sorted order; which one each is."""
    return distinct(values)[1]


def of_columns(atoms: Any, names: Sequence[str]) -> Integers:
    """Codes ``[N]`` that are equal where all annotations of these names are equal."""
    return join(*(code(getattr(atoms, name)) for name in names if hasattr(atoms, name)))


def join(first: Integers, *others: Integers) -> Integers:
    """Codes ``[N]`` that are equal where all the given codes ``[N]`` are."""
    joined = first
    for other in others:
        count = other.max(initial=0) + 1
        if (int(joined.max(initial=0)) + 1) * int(count) > 2**62:
            joined = code(joined)
        joined = joined * count + other
    return code(joined)


def by_first_atom(codes: Integers) -> tuple[Integers, Integers]:
    """Number codes ``[N]`` by where they appear first, and where that is ``[T]``."""
    first, inverse = _first(codes)
    order = np.argsort(first)
    return np.argsort(order)[inverse], first[order]


def of_distinct(function: Callable[[Any], Any], values: Array) -> Array:
    """A function's values for ``[N]``, called once for every distinct one of them."""
    values, which = distinct(values)
    return np.array([function(value) for value in values.tolist()])[which]


def among(values: Array, options: Collection[str]) -> Booleans:
    """As ``numpy.isin``, faster for many options."""
    return of_distinct(lambda value: value in options, values)


def places(codes: Integers) -> list[Integers]:
    """Where each code stands, for the codes 0, 1, … in their order."""
    if len(codes) == 0:
        return []
    return np.split(codes.argsort(kind="stable"), np.bincount(codes).cumsum()[:-1])


def count_before(codes: Integers) -> Integers:
    """How many equal codes stand before each ``[N]``."""
    order = np.argsort(codes, kind="stable")
    ordered, count = codes[order], np.empty_like(order)
    count[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return count


def connected(count: int, pairs: Array) -> Integers:
    """The connected component of each of ``count`` nodes ``[N]``, as its least node."""
    least = np.arange(count)
    ends = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int64)
    while True:
        before = least
        least = before.copy()
        # Hang the root of either end below the lesser root, then shorten all paths.
        np.minimum.at(least, before[ends[:, 0]], before[ends[:, 1]])
        while not np.array_equal(least, least[least]):
            least = least[least]
        if np.array_equal(least, before):
            return least
