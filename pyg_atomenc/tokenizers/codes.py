"""Integer codes that are equal where annotations of atoms are equal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def code(values: NDArray[Any]) -> Integers:
    """Number the distinct values of ``[N]`` in sorted order; which one each is."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def join(first: Integers, *others: Integers) -> Integers:
    """Codes ``[N]`` that are equal where all the given codes ``[N]`` are."""
    joined = first
    for other in others:
        joined = code(joined * (other.max(initial=0) + 1) + other)
    return joined


def by_first_atom(codes: Integers) -> tuple[Integers, Integers]:
    """Number codes ``[N]`` by where they appear first, and where that is ``[T]``."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse.reshape(-1)], first[order]
