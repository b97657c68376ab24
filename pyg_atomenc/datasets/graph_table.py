"""`GraphTable`: where every graph of a data set is, and what became of every file."""

import csv
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pyg_atomenc.datasets.shard import SUFFIX, Entry, read_index
from pyg_atomenc.datasets.source import Source

_COLUMNS = "item shard offset length checksum atoms tokens pairs".split()
_MISSING, _SKIPPED, _READ = 0, 1, 2


class GraphTable:
    """What the shards of a folder tell of a source.

    Graphs are in the order of the source, whichever process wrote which shard.

    Args:
        folder (Path): Where the shards are.
        source (Source): Whose items count; a shard may tell of others, too, and of
            what a file was before it changed.
        retry_skipped (bool): Take skipped items for missing. (default: ``False``)

    Raises:
        ValueError: If a shard is damaged.
    """

    def __init__(
        self, folder: Path, source: Source, retry_skipped: bool = False
    ) -> None:
        self.source = source
        self.shards = sorted(folder.glob(f"*{SUFFIX}"))
        self.reasons: dict[int, str] = {}
        self._state = bytearray(len(source.names))
        position = {name: index for index, name in enumerate(source.names)}
        # Vectors of numbers: a data set may have millions of graphs.
        columns = {name: array("q") for name in _COLUMNS}
        for shard, path in enumerate(self.shards):
            for entry in read_index(path):
                index = position.get(entry.name)
                if index is not None and not (entry.reason and retry_skipped):
                    self._take(index, shard, entry, columns)
        table = torch.stack(
            [torch.tensor(columns[name], dtype=torch.long) for name in _COLUMNS]
        )
        # Stable, so that the models of a file stay in order.
        table = table[:, table[0].argsort(stable=True)]
        self._columns = dict(zip(_COLUMNS, table, strict=True))

    def _take(self, index: int, shard: int, entry: Entry, columns: Any) -> None:
        # A later run may have read what an earlier one could not.
        state = _SKIPPED if entry.reason else _READ
        if self._state[index] >= state or entry.stamp != self.source.stamp(index):
            return
        self._state[index] = state
        self.reasons.pop(index, None)
        if entry.reason:
            self.reasons[index] = entry.reason
        for place in entry.graphs:
            row = dict(vars(place), item=index, shard=shard)
            for name in _COLUMNS:
                columns[name].append(row[name])

    def __len__(self) -> int:
        return len(self._columns["item"])

    def __getitem__(self, name: str) -> torch.Tensor:
        """A column of all graphs: item, shard, offset, length, checksum and so on."""
        return self._columns[name]

    @property
    def missing(self) -> list[int]:
        """The items that no shard tells of."""
        return [i for i, state in enumerate(self._state) if state == _MISSING]

    def write_tsv(self, folder: Path) -> None:
        """Write ``manifest.tsv``, a line for every item, and ``skipped.tsv``."""
        names = self.source.names
        graphs = self["item"].bincount(minlength=len(names))
        sums = [
            torch.zeros(len(names), dtype=torch.long)
            .index_add_(0, self["item"], self[name])
            .tolist()
            for name in ("atoms", "tokens", "pairs")
        ]
        header = ["source", "status", "graphs", "atoms", "tokens", "pairs", "stamp"]
        rows = (
            [
                names[i],
                self._status(i, count),
                count,
                *(column[i] for column in sums),
                self.source.stamp(i),
            ]
            for i, count in enumerate(graphs.tolist())
        )
        _write(folder / "manifest.tsv", header, rows)
        skipped = ([names[i], self.reasons[i]] for i in sorted(self.reasons))
        _write(folder / "skipped.tsv", ["source", "reason"], skipped)

    def _status(self, index: int, graphs: int) -> str:
        if self._state[index] == _READ:
            return "read" if graphs else "left out by pre_filter"
        return "skipped" if self._state[index] == _SKIPPED else "missing"


def _write(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(part, path)
