"""Which atoms attend to which: sequence-local windows, as in AlphaFold 3 and Boltz."""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.layouts.base import Layout, register_pytree
from pyg_atomenc.attention.ragged import pointers, ranges, take
from pyg_atomenc.attention.tracing import check_readable, unwrapped
from pyg_atomenc.checks import check, check_index, check_shape, check_sizes, found
from pyg_atomenc.errors import AtomEncodingError


@dataclass(frozen=True, eq=False, repr=False)
class WindowLayout(Layout):
    r"""Windows of consecutive atoms that attend to the atoms around them.

    This is the local attention of `AlphaFold 3's
    <https://doi.org/10.1038/s41586-024-07487-w>`_ atom transformer, Algorithm 7 of its
    supplement, as Boltz computes it. Window :math:`k` of a graph holds its atoms
    :math:`Wk` to :math:`Wk + W - 1` as queries; they attend to the :math:`H` atoms
    around the window's middle, :math:`Wk - (H - W) / 2` to
    :math:`Wk + (H + W) / 2 - 1`, as far as the graph has them. Windows start anew at
    every graph, so none crosses two graphs, and no atom is padded.

    Build one with :meth:`from_batch`; :meth:`to_edge_index` writes out what it means.

    Attributes:
        ptr (Tensor): The atoms of graph ``g`` are ``ptr[g]`` to ``ptr[g + 1] - 1``;
            ``[G + 1]``, int64.
        query_start, query_stop (Tensor): The first query of every window, and one past
            the last, each ``[K]``, int64.
        key_start, key_stop (Tensor): Of the keys, likewise.
        queries, keys (int): Queries ``W`` and keys ``H`` of a full window.
        num_atoms (int): The number of atoms ``N``.
        num_pairs (int): The number of edges of :meth:`to_edge_index`.
        num_keys (int, optional): Atoms that a :meth:`part` attends to. (default: all)
    """

    ptr: Tensor
    query_start: Tensor
    query_stop: Tensor
    key_start: Tensor
    key_stop: Tensor
    queries: int
    keys: int
    num_atoms: int
    num_pairs: int
    num_keys: Optional[int] = None

    kind = "windows"
    tensors = ("ptr", "query_start", "query_stop", "key_start", "key_stop")
    shown = ("num_atoms", "num_windows", "queries", "keys")

    @staticmethod
    def from_batch(
        batch_or_ptr: Any, queries: int = 32, keys: int = 128, *, shifted: bool = False
    ) -> "WindowLayout":
        """Cut every graph of a batch into windows.

        Args:
            batch_or_ptr (Batch, Data or Tensor): A PyG batch or graph; or the graph of
                every atom ``[N]``, sorted; or the graphs' pointers ``[G + 1]``. A
                vector that starts at 0 and never rises by more than 1 is taken for
                graph ids, any other for pointers; where graphs may be empty, or all
                have one atom, say which with :meth:`from_ptr`.
            queries (int): Queries of a window ``W``, even. (default: ``32``)
            keys (int): Keys of a window ``H``, a multiple of ``W``. (default: ``128``)
            shifted (bool): Shift windows of keys that leave their graph back into it,
                as AlphaFold 3's own code does, rather than cut them off.
                (default: ``False``)

        Raises:
            ValueError: If the graphs are not in order, or the sizes break the rules.
        """
        ptr = _to_ptr(batch_or_ptr)
        return WindowLayout.from_ptr(ptr, queries, keys, shifted=shifted)

    @staticmethod
    def from_ptr(
        ptr: Tensor, queries: int = 32, keys: int = 128, *, shifted: bool = False
    ) -> "WindowLayout":
        """As :meth:`from_batch`, from the graphs' pointers ``[G + 1]`` alone."""
        WindowLayout.check_sizes(queries, keys)
        ptr = _check_rising("ptr", ptr)
        if ptr.numel() == 0:
            ptr = ptr.new_zeros(1)
        sizes = ptr.diff().cpu()
        counts = (sizes + queries - 1) // queries
        graph = torch.repeat_interleave(counts)
        size = sizes[graph]
        query_start = ranges(torch.zeros_like(counts), counts) * queries
        query_stop = (query_start + queries).minimum(size)
        key_start = query_start - (keys - queries) // 2
        if shifted:
            key_start = key_start.minimum(size - keys).clamp(min=0)
        key_stop = (key_start + keys).minimum(size)
        key_start = key_start.clamp(min=0)
        pairs = (query_stop - query_start) * (key_stop - key_start)
        limits = (query_start, query_stop, key_start, key_stop)
        offset = (sizes.cumsum(0) - sizes)[graph]
        moved: Any = ((limit + offset).to(ptr.device) for limit in limits)
        numbers: Any = queries, keys, int(sizes.sum()), int(pairs.sum())
        return WindowLayout(ptr, *moved, *numbers)

    @staticmethod
    def check_sizes(queries: Any, keys: Any) -> None:
        """Raise a ValueError unless the sizes of windows keep the rules."""
        check_sizes(queries=queries, keys=keys)
        check(queries % 2 == 0, f"'queries' is {queries}: pass an even number.")
        mend = "pass a multiple of them."
        check(keys % queries == 0, f"'keys' is {keys} for {queries} queries: {mend}")

    @property
    def num_sources(self) -> int:
        """The number of atoms that are attended to."""
        return self.num_atoms if self.num_keys is None else self.num_keys

    @property
    def num_windows(self) -> int:
        """The number of windows ``K``."""
        return self.query_start.size(0)

    def query_index(self) -> tuple[Tensor, Tensor]:
        """The queries of every window ``[K, W]``, and which of them are atoms."""
        return _places(self.query_start, self.query_stop, self.queries)

    def key_index(self) -> tuple[Tensor, Tensor]:
        """The keys of every window ``[K, H]``, and which of them are atoms."""
        return _places(self.key_start, self.key_stop, self.keys)

    def _sizes(self) -> tuple[Tensor, Tensor]:
        return self.query_stop - self.query_start, self.key_stop - self.key_start

    def part(self, windows: slice) -> tuple[slice, slice, "WindowLayout"]:
        """Windows' queries, the keys that they see, and the layout of these alone."""
        begin, end, first, last = (getattr(self, x)[windows] for x in self.tensors[1:])
        pairs = int(((end - begin) * (last - first)).sum())
        # From window to window limits never fall.
        queries = slice(int(begin[0]), int(end[-1]))
        keys = slice(int(first[0]), int(last[-1]))
        limits: Any = begin - queries.start, end - queries.start
        limits += first - keys.start, last - keys.start, self.queries, self.keys
        limits += queries.stop - queries.start, pairs, keys.stop - keys.start
        return queries, keys, WindowLayout(self.ptr, *limits)

    def pair_index(self, windows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """The edge of every place of the windows ``[K, W, H]``, and which are edges.

        Places that are no edge hold one that is.
        """
        row = torch.arange(self.queries, device=self.device).view(1, -1, 1)
        column = torch.arange(self.keys, device=self.device).view(1, 1, -1)
        rows, columns = self._sizes()
        of_windows = pointers(rows * columns)[:-1], rows, columns
        first, rows, columns = (x[windows].view(-1, 1, 1) for x in of_windows)
        place = row.minimum(rows - 1) * columns + column.minimum(columns - 1)
        return first + place, (row < rows) & (column < columns)

    def to_edge_index(self) -> Tensor:
        """The edges ``[2, E]``, int64, rows (source, target) = (key, query).

        They are sorted by window, then by target, then by source.
        """
        sizes, degree = self._sizes()
        # Every query of a window is the target of as many edges as it has keys.
        degree = degree.repeat_interleave(sizes, output_size=self.num_atoms)
        first = self.key_start.repeat_interleave(sizes, output_size=self.num_atoms)
        atom = torch.arange(self.num_atoms, device=self.device)
        target = atom.repeat_interleave(degree, output_size=self.num_pairs)
        return torch.stack([ranges(first, degree, self.num_pairs), target])


register_pytree(
    WindowLayout, WindowLayout.tensors, ("queries", "keys", "num_atoms", "num_pairs")
)


@dataclass(frozen=True, eq=False, repr=False)
class WindowBias:
    """What :func:`~pyg_atomenc.attention.attention` adds to the logits of windows.

    A bias with one row an edge serves as well, but is sorted into windows at every
    call. Where one bias serves many calls, as the steps of a diffusion sampler do, make
    this of it once.

    Attributes:
        values (Tensor): ``[K, H, W, keys]`` of a layout with ``K`` windows of ``W``
            queries: at ``[k, h, i, j]`` the bias of head ``h`` for the ``i``-th query
            and the ``j``-th key of window ``k``; ``-inf`` where the window has fewer
            than ``j`` keys, any finite number where it has fewer than ``i`` queries.
    """

    values: Tensor

    @staticmethod
    def from_edges(bias: Tensor, layout: WindowLayout) -> "WindowBias":
        """Sort a bias ``[E, H]``, one row an edge of ``layout.to_edge_index()``."""
        hint = "one row for every edge of layout.to_edge_index()"
        check_shape("bias", bias, layout.num_pairs, "heads", hint=hint)
        edge, _ = layout.pair_index()
        _, is_key = layout.key_index()
        values = take(bias, edge).movedim(-1, 1)
        return WindowBias(values.masked_fill(~is_key[:, None, None], -torch.inf))

    def to_edges(self, layout: WindowLayout) -> Tensor:
        """The bias with one row an edge of ``layout.to_edge_index()``, ``[E, H]``."""
        _, is_edge = layout.pair_index()
        return self.values.movedim(1, -1)[is_edge]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.values.shape)})"


register_pytree(WindowBias, ("values",))


def _places(start: Tensor, stop: Tensor, width: int) -> tuple[Tensor, Tensor]:
    place = start.unsqueeze(1) + torch.arange(width, device=start.device)
    stop = stop.unsqueeze(1)
    return place.minimum(stop - 1), place < stop


def _to_ptr(given: Any) -> Tensor:
    if not isinstance(given, Tensor):
        ptr = getattr(given, "ptr", None)
        if isinstance(ptr, Tensor):
            return ptr.long()
        num_nodes = getattr(given, "num_nodes", None)
        mend = "pass a PyG batch, the graph of every atom, or the graphs' pointers."
        check(num_nodes is not None, f"'batch_or_ptr' is {found(given)}: {mend}")
        return torch.tensor([0, num_nodes])
    given = _check_rising("batch_or_ptr", given)
    if given.numel() > 1 and int(given.diff().max()) > 1:
        return given
    return pointers(given.bincount())


def _check_rising(name: str, given: Tensor) -> Tensor:
    given = unwrapped(name, check_index(name, given, "pass a vector of integers."))
    if not torch.compiler.is_compiling():
        mend = "make the layout before, on the CPU, and move it with layout.to(device);"
        check_readable(name, given, f"{mend} torch.export takes it as an input.")
    given = given.long()
    first = int(given[0]) if given.numel() else 0
    least = int(given.diff().min()) if given.numel() > 1 else 0
    if first != 0 or least < 0:
        found = f"'{name}' goes from {first} with steps of {least} and more"
        mend = "it must start at 0 and never fall; sort the atoms by graph."
        raise AtomEncodingError(f"{found}: {mend}")
    return given
