"""`TokenBudgetSampler`: batches that cost the same, for even memory."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Sampler

from pyg_atomenc.checks import check_integer
from pyg_atomenc.data.graph_sizes import dataset_sizes
from pyg_atomenc.data.packing import pack_evenly, pack_in_order
from pyg_atomenc.errors import AtomEncodingError

_OVERSIZED = ("alone", "skip", "raise")
# What must be equal for a position in an epoch to mean the same batches.
_SETTINGS = "max_pairs max_atoms shuffle seed num_replicas drop_last oversized".split()


class TokenBudgetSampler(Sampler[list[int]]):
    r"""Batches of graphs, bounded by :math:`\sum_t n_t^2` and by atoms.

    Attention inside tokens of :math:`n_t` atoms costs :math:`\sum_t n_t^2` pairs, all
    else costs atoms. A batch takes as many graphs as both budgets allow, instead of a
    fixed number of them, so that steps need about the same memory and time.

    Shuffled graphs are packed by best fit, some 64 batches at a time; what is in a
    batch changes with the epoch. Without shuffling, batches keep the dataset's order.
    Every graph is in one batch of an epoch; only where the number of batches is no
    multiple of ``num_replicas``, the first batches come a second time, as samples do in
    :class:`torch.utils.data.distributed.DistributedSampler`, or the last are dropped.
    Every rank computes the same batches and takes every ``num_replicas``-th.

    Args:
        dataset (Dataset or sequence, optional): Gives
            :class:`~pyg_atomenc.data.AtomTokenData`. Where it has no method
            ``graph_sizes()``, as :class:`~pyg_atomenc.datasets.StructureDataset` has,
            every graph is loaded once to learn its size. Not needed with the sizes.
            (default: ``None``)
        max_pairs (int, optional): The most pairs of a batch. (default: no bound)
        max_atoms (int, optional): The most atoms of a batch. (default: no bound)
        pairs (Tensor or sequence, optional): :math:`\sum_t n_t^2` of every graph
            ``[S]``. (default: from ``dataset``)
        atoms (Tensor or sequence, optional): The atoms of every graph ``[S]``.
            (default: from ``dataset``)
        shuffle (bool): Draw other batches in every epoch that :meth:`set_epoch` sets.
            (default: ``False``)
        seed (int): For shuffling; the same on all ranks. (default: ``0``)
        num_replicas (int, optional): How many ranks share the batches.
            (default: from :mod:`torch.distributed` where it is initialised, else 1)
        rank (int, optional): Which of them this is. (default: likewise, else 0)
        drop_last (bool): Drop the batches that not every rank gets, instead of
            repeating some. (default: ``False``)
        oversized (str): What to do with a graph that alone is over a budget:
            ``"alone"`` gives it a batch of its own, ``"skip"`` leaves it out with a
            warning, ``"raise"`` is an error. ``oversized_index`` holds their indices
            either way. (default: ``"alone"``)

    Raises:
        ValueError: If there is no budget or no size to hold against it, a size or an
            option cannot be, or a graph is over a budget and ``oversized="raise"``;
            when batches are made, if ``drop_last`` leaves none.

    Example:
        >>> sampler = TokenBudgetSampler(max_pairs=10, pairs=[4, 4, 9, 1])
        >>> list(sampler), len(sampler)
        ([[0, 1], [2, 3]], 2)
    """

    def __init__(
        self,
        dataset: Any = None,
        max_pairs: Optional[int] = None,
        max_atoms: Optional[int] = None,
        *,
        pairs: Optional[Union[Tensor, Sequence[int]]] = None,
        atoms: Optional[Union[Tensor, Sequence[int]]] = None,
        shuffle: bool = False,
        seed: int = 0,
        num_replicas: Optional[int] = None,
        rank: Optional[int] = None,
        drop_last: bool = False,
        oversized: str = "alone",
    ) -> None:
        _check_budgets(max_pairs, max_atoms)
        if oversized not in _OVERSIZED:
            raise AtomEncodingError(
                f"'oversized' is {oversized!r}: pass one of {_OVERSIZED}."
            )
        # Whole numbers of NumPy as well, which are no `int`.
        self.max_pairs = None if max_pairs is None else int(max_pairs)
        self.max_atoms = None if max_atoms is None else int(max_atoms)
        self.shuffle, self.drop_last = shuffle, drop_last
        self.seed = check_integer("seed", seed, 0)
        self.oversized = oversized
        self.num_replicas, self.rank = _find_rank(num_replicas, rank)
        self.epoch = 0
        self._start = self._given = 0
        self._made: Optional[tuple[int, list[list[int]]]] = None
        sizes = _find_sizes(dataset, max_pairs, max_atoms, pairs, atoms)
        self._scale(*sizes)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of another epoch, from their first.

        The present epoch goes on where it is, so that a loop may set it after
        :meth:`load_state_dict`.
        """
        epoch = check_integer("epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch = epoch
            self._start = self._given = 0

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        start, self._start = self._start, 0
        for number in range(start, len(batches)):
            self._given = number + 1
            yield batches[number]

    def __len__(self) -> int:
        """The number of this rank's batches in this epoch, the same on all ranks.

        It is that of the whole epoch, also where one goes on in its midst.
        """
        return len(self._batches())

    def state_dict(self, consumed: Optional[int] = None) -> dict[str, Any]:
        """Where the sampler is, to go on from there in another run.

        Args:
            consumed (int, optional): How many batches of the epoch were used. A
                ``DataLoader`` with workers asks for some batches ahead, so count them
                yourself there. (default: as many as were given out)

        Returns:
            dict: Numbers and text, for :meth:`load_state_dict`.
        """
        given = self._given
        if consumed is not None:
            given = check_integer("consumed", consumed, 0)
        state = {name: getattr(self, name) for name in _SETTINGS}
        return {**state, "samples": self._samples, "epoch": self.epoch, "given": given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches that were given; the next epoch is whole again.

        Raises:
            ValueError: If the sampler of the state made other batches.
        """
        own = self.state_dict()
        missing = set(own) - set(state) if isinstance(state, dict) else set(own)
        if missing:
            raise AtomEncodingError(
                f"'state' has no {min(missing)!r}: pass what state_dict() of such a "
                f"sampler gave."
            )
        for name in [*_SETTINGS, "samples"]:
            if state[name] != own[name]:
                raise AtomEncodingError(
                    f"'state' is of a sampler with {name}={state[name]!r}, and this "
                    f"one has {own[name]!r}: make the sampler with the same arguments."
                )
        self.set_epoch(state["epoch"])
        self._start = self._given = state["given"]

    def __repr__(self) -> str:
        budgets = f"max_pairs={self.max_pairs}, max_atoms={self.max_atoms}"
        return f"{type(self).__name__}({budgets}, shuffle={self.shuffle})"

    def _scale(self, pairs: Optional[Tensor], atoms: Optional[Tensor]) -> None:
        """Bring both sizes to one scale, exactly, and find what is over a budget."""
        columns = [
            (size.tolist(), budget)
            for size, budget in ((pairs, self.max_pairs), (atoms, self.max_atoms))
            if size is not None and budget is not None
        ]
        # Python's integers do not overflow.
        self._budget = math.lcm(*(budget for _, budget in columns))
        scaled = [
            [size * (self._budget // budget) for size in sizes]
            for sizes, budget in columns
        ]
        sizes = list(zip(scaled[0], scaled[-1], strict=True))
        over = [i for i, pair in enumerate(sizes) if max(pair) > self._budget]
        self._samples = len(sizes)
        self.oversized_index = torch.tensor(over, dtype=torch.long)
        if over:
            self._meet_oversized(columns, over)
        left_out = set(over if self.oversized == "skip" else [])
        self._index = [i for i in range(len(sizes)) if i not in left_out]
        self._sizes = sizes

    def _meet_oversized(self, columns: list[Any], over: list[int]) -> None:
        found = " and ".join(
            f"{sizes[over[0]]:,} of {budget:,} {name}"
            for (sizes, budget), name in zip(columns, self._names(), strict=True)
        )
        text = f"{len(over)} of {self._samples} graphs are over the budget alone, the "
        text += f"first is graph {over[0]} with {found}"
        if self.oversized == "raise":
            raise AtomEncodingError(
                f"'oversized' is 'raise', and {text}: raise the budget, or pass "
                f"oversized='alone' or 'skip'."
            )
        if self.oversized == "skip":
            warnings.warn(f"{text}: they are left out.", stacklevel=4)

    def _names(self) -> list[str]:
        budgets = {"pairs": self.max_pairs, "atoms": self.max_atoms}
        return [name for name, budget in budgets.items() if budget is not None]

    def _batches(self) -> list[list[int]]:
        """This rank's batches, made once an epoch."""
        if self._made is None or (self.shuffle and self._made[0] != self.epoch):
            self._made = self.epoch, self._share(self._pack())
        return self._made[1]

    def _pack(self) -> list[list[int]]:
        if not self.shuffle:
            return _pick(self._index, self._sizes, self._budget, pack_in_order)
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self._index), generator=generator).tolist()
        index = [self._index[place] for place in order]
        batches = _pick(index, self._sizes, self._budget, pack_evenly)
        # Full batches and fillers come in no order.
        order = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[place] for place in order]

    def _share(self, batches: list[list[int]]) -> list[list[int]]:
        excess = len(batches) % self.num_replicas
        if excess and self.drop_last:
            if len(batches) < self.num_replicas:
                raise AtomEncodingError(
                    f"'drop_last' leaves no batch: there are {len(batches)} for "
                    f"{self.num_replicas} ranks. Lower the budget, or pass "
                    f"drop_last=False."
                )
            batches = batches[: len(batches) - excess]
        elif excess:
            missing = self.num_replicas - excess
            batches = batches + [batches[i % len(batches)] for i in range(missing)]
        return batches[self.rank :: self.num_replicas]


def _pick(
    index: list[int], sizes: list[tuple[int, int]], budget: int, pack: Any
) -> list[list[int]]:
    batches = pack([sizes[i] for i in index], budget)
    return [[index[place] for place in batch] for batch in batches]


def _check_budgets(max_pairs: Any, max_atoms: Any) -> None:
    if max_pairs is None and max_atoms is None:
        raise AtomEncodingError(
            "'max_pairs' and 'max_atoms' are both None: pass at least one budget."
        )
    for name, value in (("max_pairs", max_pairs), ("max_atoms", max_atoms)):
        if value is not None:
            check_integer(name, value, 1)


def _find_rank(num_replicas: Optional[int], rank: Optional[int]) -> tuple[int, int]:
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if num_replicas is None:
        num_replicas = torch.distributed.get_world_size() if together else 1
    if rank is None:
        rank = torch.distributed.get_rank() if together else 0
    num_replicas = check_integer("num_replicas", num_replicas, 1)
    if check_integer("rank", rank, 0) >= num_replicas:
        raise AtomEncodingError(
            f"'rank' is {rank} and 'num_replicas' {num_replicas}: pass a rank from 0 "
            f"to num_replicas - 1."
        )
    return num_replicas, rank


def _find_sizes(
    dataset: Any, max_pairs: Any, max_atoms: Any, pairs: Any, atoms: Any
) -> tuple[Optional[Tensor], Optional[Tensor]]:
    found: dict[str, Optional[Tensor]] = {"pairs": None, "atoms": None}
    given = {"pairs": (pairs, max_pairs), "atoms": (atoms, max_atoms)}
    missing = []
    for name, (sizes, budget) in given.items():
        if sizes is not None:
            found[name] = _check_sizes(name, sizes)
        elif budget is not None:
            missing.append(name)
    if missing:
        if dataset is None:
            raise AtomEncodingError(
                f"'{missing[0]}' is missing for 'max_{missing[0]}': pass the dataset, "
                f"or the {missing[0]} of every graph."
            )
        of_dataset = dict(zip(("atoms", "pairs"), dataset_sizes(dataset), strict=True))
        found |= {name: of_dataset[name] for name in missing}
    lengths = {name: len(sizes) for name, sizes in found.items() if sizes is not None}
    if dataset is not None and not hasattr(dataset, "__len__"):
        raise AtomEncodingError(
            f"'dataset' is of type {type(dataset).__name__}, which has no length: pass "
            f"a dataset or list of graphs, or None."
        )
    if dataset is not None:
        lengths["dataset"] = len(dataset)
    if len(set(lengths.values())) > 1:
        raise AtomEncodingError(
            f"the lengths differ, {lengths}: give every graph one size of each kind."
        )
    return found["pairs"], found["atoms"]


def _check_sizes(name: str, sizes: Any) -> Tensor:
    try:
        found = torch.as_tensor(sizes).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise AtomEncodingError(
            f"'{name}' is {sizes!r}: pass a vector of integers, one for each graph."
        ) from None
    if found.dim() != 1 or (found.numel() and found.is_floating_point()):
        raise AtomEncodingError(
            f"'{name}' is {found.dtype} of shape {list(found.shape)}: pass a vector of "
            f"integers, one for each graph."
        )
    if found.numel() and int(found.min()) < 0:
        raise AtomEncodingError(f"'{name}' holds {int(found.min())}: sizes count.")
    return found.long()
