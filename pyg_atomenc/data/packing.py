"""Filling batches up to budgets."""

from bisect import bisect_left
from collections.abc import Sequence

# A window packs about this many batches at once: enough to fill them well, few
# enough that a batch stays a random choice.
_BATCHES_OF_A_WINDOW = 64
# A sample above one part in so many of the budget is placed before the others.
_LARGE = 4


def pack_in_order(sizes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Cut samples into batches that stay in order (next fit).

    Args:
        sizes (sequence): Two sizes of every sample, on one scale.
        budget (int): What neither sum of a batch may exceed, unless one sample does.

    Returns:
        list: The batches, each the positions of its samples.
    """
    batches: list[list[int]] = []
    left = other_left = -1
    for sample, (size, other) in enumerate(sizes):
        if not batches or size > left or other > other_left:
            batches.append([])
            left = other_left = budget
        batches[-1].append(sample)
        left -= size
        other_left -= other
    return batches


def pack_evenly(sizes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Pack samples into batches that are nearly full, a window after the other.

    A window of consecutive samples is packed by best fit: first the large ones, by
    size, then the others as they come, so that they mix as the order mixes them. The
    emptiest batch of a window goes on to the next one.

    Args:
        sizes (sequence): Two sizes of every sample, on one scale.
        budget (int): What neither sum of a batch may exceed, unless one sample does.

    Returns:
        list: The batches, each the positions of its samples.
    """
    batches: list[list[int]] = []
    window: list[int] = []
    filled = 0
    # A sample over the budget fills one batch, not many.
    weights = [min(max(pair), budget) for pair in sizes]
    for sample, weight in enumerate(weights):
        window.append(sample)
        filled += weight
        if filled >= _BATCHES_OF_A_WINDOW * budget:
            packed = _best_fit(window, sizes, weights, budget)
            window = packed.pop()
            filled = sum(weights[sample] for sample in window)
            batches += packed
    return batches + _best_fit(window, sizes, weights, budget)


def _best_fit(
    window: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    weights: Sequence[int],
    budget: int,
) -> list[list[int]]:
    """The fullest batches first."""
    bound = budget // _LARGE
    large = [sample for sample in window if weights[sample] > bound]
    large.sort(key=weights.__getitem__, reverse=True)
    small = [sample for sample in window if weights[sample] <= bound]
    # What is left of open batches, ascending; beside it the batches and both rests.
    left: list[int] = []
    batches: list[tuple[list[int], int, int]] = []
    for sample in large + small:
        size, other = sizes[sample]
        # The smaller rest of a batch that takes the larger size takes both.
        place = bisect_left(left, size if size > other else other)
        if place == len(left):
            left.append(budget)
            batches.append(([], budget, budget))
        del left[place]
        batch, rest, other_rest = batches.pop(place)
        batch.append(sample)
        rest, other_rest = rest - size, other_rest - other
        smaller = rest if rest < other_rest else other_rest
        place = bisect_left(left, smaller)
        left.insert(place, smaller)
        batches.insert(place, (batch, rest, other_rest))
    return [batch for batch, _, _ in batches]
