"""`TokenBudgetSampler`: batches that cost the same, for even memory."""

import math
import random
from bisect import bisect_left, insort_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from itertools import cycle, islice
from operator import itemgetter
from typing import Any, Optional, Union

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import ConcatDataset, Sampler, Subset

from pyg_atomenc.checks import check, check_integer, check_type, found
from pyg_atomenc.data.atom_token_data import AtomTokenData, check_graph_type

Sizes = Union[Tensor, Sequence[int]]


@dataclass(eq=False)
class TokenBudgetSampler(Sampler[list[int]]):
    r"""Batches of graphs, bounded by :math:`\sum_t n_t^2` and by atoms.

    Attention in tokens of :math:`n_t` atoms costs :math:`\sum_t n_t^2` pairs, all else
    atoms. A batch takes what both budgets allow, for steps of even memory and time.

    Shuffled graphs are packed by best fit into up to 64 open batches, anew in every
    epoch; else batches keep the dataset's order. Every rank takes every
    ``num_replicas``-th batch; to come out even, the first come a second time, as in
    :class:`torch.utils.data.distributed.DistributedSampler`, or the last are dropped.

    Args:
        dataset (Dataset or sequence, optional): Of ``AtomTokenData``, for sizes as of
            :func:`~pyg_atomenc.data.dataset_sizes`. (default: ``None``, with the sizes)
        max_pairs, max_atoms (int, optional): The most of a batch. (default: no bound)
        pairs, atoms (Tensor or sequence, optional): :math:`\sum_t n_t^2`, and the
            atoms, of every graph ``[S]``. (default: from ``dataset``)
        shuffle (bool): Anew for every epoch of :meth:`set_epoch`. (default: ``False``)
        seed (int): For shuffling; the same on all ranks. (default: ``0``)
        num_replicas, rank (int, optional): How many ranks share the batches, and which
            this is. (default: those of :mod:`torch.distributed`, else 1 and 0)
        drop_last (bool): Drop batches instead of repeating some. (default: ``False``)

    Attributes:
        oversized_index (Tensor): The graphs over a budget, each alone in its batch.

    Raises:
        ValueError: If a budget or its sizes are missing, or one cannot be; when batches
            are made, if ``drop_last`` leaves none.

    Example:
        >>> sampler = TokenBudgetSampler(max_pairs=10, pairs=[4, 4, 9, 1])
        >>> list(sampler), len(sampler)
        ([[0, 1], [2, 3]], 2)
    """

    dataset: InitVar[Any] = None
    max_pairs: Optional[int] = None
    max_atoms: Optional[int] = None
    _: KW_ONLY
    pairs: InitVar[Optional[Sizes]] = None
    atoms: InitVar[Optional[Sizes]] = None
    shuffle: bool = False
    seed: int = 0
    num_replicas: Optional[int] = None
    rank: Optional[int] = None
    drop_last: bool = False

    def __post_init__(self, dataset: Any, pairs: Any, atoms: Any) -> None:
        self.seed = check_integer("seed", self.seed, 0)
        self.num_replicas, self.rank = _find_rank(self.num_replicas, self.rank)
        self.epoch = 0
        self._made: Optional[tuple[int, list[list[int]]]] = None
        both = {"pairs": self.max_pairs, "atoms": self.max_atoms}.items()
        budgets = {k: check_integer(f"max_{k}", n) for k, n in both if n is not None}
        check(budgets, "'max_pairs' and 'max_atoms' are both None: pass at least one.")
        found = _find_sizes(dataset, {"pairs": pairs, "atoms": atoms}, list(budgets))
        # Both sizes on one scale, exactly: Python's integers do not overflow.
        self._budget = lcm = math.lcm(*budgets.values())
        scaled = [[n * (lcm // most) for n in found[k]] for k, most in budgets.items()]
        self._sizes = list(zip(scaled[0], scaled[-1], strict=True))
        over = [i for i, pair in enumerate(self._sizes) if max(pair) > self._budget]
        self.oversized_index = torch.tensor(over, dtype=torch.long)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of another epoch; the present one goes on as it is."""
        self.epoch = check_integer("epoch", epoch, 0)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        """This rank's batches in the whole epoch, as many as any other's."""
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        if self._made is not None and (self._made[0] == self.epoch or not self.shuffle):
            return self._made[1]
        order, draw = [*range(len(self._sizes))], random.Random(self.seed + self.epoch)
        shuffle = draw.shuffle if self.shuffle else lambda _: None
        shuffle(order)
        batches = pack(order, self._sizes, self._budget, 64 if self.shuffle else 1)
        # The fullest are closed first.
        shuffle(batches)
        ranks: Any = self.num_replicas
        count = len(batches) - len(batches) % (ranks if self.drop_last else 1)
        count += -count % ranks
        mend = "lower the budget, or pass drop_last=False."
        what = f"no batch of {len(batches)} for {ranks} ranks"
        check(count or not batches, f"'drop_last' leaves {what}: {mend}")
        self._made = self.epoch, [*islice(cycle(batches), self.rank, count, ranks)]
        return self._made[1]


def _find_rank(num_replicas: Optional[int], rank: Optional[int]) -> tuple[int, int]:
    size, own = 1, 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        size, own = torch.distributed.get_world_size(), torch.distributed.get_rank()
    rank = check_integer("rank", own if rank is None else rank, 0)
    size = check_integer("num_replicas", size if num_replicas is None else num_replicas)
    mend = f"'num_replicas' {size}: ranks count from 0."
    check(rank < size, f"'rank' is {rank} and {mend}")
    return size, rank


def _find_sizes(dataset: Any, given: Any, needed: list[str]) -> dict[str, list[int]]:
    """The sizes of all graphs by name: those given, and what is missing of those."""
    found = {}
    for name, sizes in given.items():
        if sizes is not None:
            values = sizes.tolist() if isinstance(sizes, Tensor) else sizes
            mend = "pass a vector of integers, one for each graph."
            check_type(name, values, Iterable, mend)  # type: ignore[type-abstract]
            found[name] = [check_integer(name, size, 0) for size in values]
    if missing := [name for name in needed if name not in found]:
        what = f"'{missing[0]}' is missing for 'max_{missing[0]}'"
        mend = f"pass the dataset, or the {missing[0]} of every graph."
        check(dataset is not None, f"{what}: {mend}")
        known = dict(zip(("atoms", "pairs"), dataset_sizes(dataset), strict=True))
        found |= {name: known[name].tolist() for name in missing}
    counted = {"dataset": dataset, **found}
    lengths = {k: len(v) for k, v in counted.items() if hasattr(v, "__len__")}
    mend = "give every graph one size of each kind."
    check(len({*lengths.values()}) < 2, f"the lengths differ, {lengths}: {mend}")
    return found


def graph_size(data: AtomTokenData) -> tuple[int, int]:
    """The atoms of a graph or batch, and Σ n² over its tokens of n atoms, integers.

    Raises:
        ValueError: If it is no ``AtomTokenData``, or does not know its tokens.
    """
    check_graph_type(data, "dataset[i]")._check_has_tokens()
    return data.atom_to_token.numel(), int(data.atom_to_token.bincount().square().sum())


def dataset_sizes(dataset: Any) -> tuple[Tensor, ...]:
    """The atoms and the pairs of every graph of a dataset, each ``[S]``, int64.

    A dataset with a method ``graph_sizes()`` is asked, also in a subset or a
    concatenation; of any other, or a sequence, each ``AtomTokenData`` is loaded.

    Raises:
        ValueError: If it gives something else.
    """
    if isinstance(dataset, Subset):
        atoms, pairs = dataset_sizes(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.long)
        return atoms[index], pairs[index]
    if isinstance(dataset, ConcatDataset):
        parts = [dataset_sizes(part) for part in dataset.datasets]
        return tuple(map(torch.cat, zip(*parts, strict=True)))
    if hasattr(dataset, "graph_sizes"):
        return dataset.graph_sizes()
    fits = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    mend = "pass a dataset or list of AtomTokenData, or the sizes of its graphs."
    check(fits, f"'dataset' is {found(dataset)}: {mend}")
    sizes = [graph_size(dataset[i]) for i in range(len(dataset))]
    return torch.tensor(sizes, dtype=torch.long).view(-1, 2).unbind(dim=1)


def pack(
    order: Iterable[int], sizes: Sequence[tuple[int, int]], budget: int, most_open: int
) -> list[list[int]]:
    """Pack samples into batches, of which neither sum exceeds the budget."""
    # A sample goes to the fullest open batch that has room, else to a new one; where
    # `most_open` are open, the fullest is then closed. So with one (next fit) the
    # batches keep the order, and with some ten they are nearly full.
    closed: list[list[int]] = []
    # Each open batch behind the smaller and both of its rests, the fullest first.
    batches, smaller = list[tuple[int, int, int, list[int]]](), itemgetter(0)
    for sample in order:
        size, other = sizes[sample]
        # In batches before this one, a rest is below both sizes.
        first = bisect_left(batches, min(size, other), key=smaller)
        for place in range(first, len(batches)):
            _, rest, other_rest, batch = batches[place]
            if size <= rest and other <= other_rest:
                del batches[place]
                break
        else:
            if len(batches) == most_open:
                closed.append(batches.pop(0)[-1])
            rest, other_rest, batch = budget, budget, []
        batch.append(sample)
        rest, other_rest = rest - size, other_rest - other
        entry = (min(rest, other_rest), rest, other_rest, batch)
        insort_left(batches, entry, key=smaller)
    return closed + [batch for *_, batch in batches]
