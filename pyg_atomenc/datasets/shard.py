"""Shards: files of many graphs, each written as a whole or not at all."""

import io
import json
import os
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from pyg_atomenc.errors import FileFormatError

# The index is the last part of a shard; behind it its length, checksum and this.
_MAGIC = b"ATOMSH1\n"
_TAIL = 8 + 4 + len(_MAGIC)
SUFFIX = ".shard"
PART = ".part"


@dataclass(frozen=True)
class Place:
    """Where a graph's record is in its shard, and how large the graph is.

    Args:
        offset (int): The first byte of the record.
        length (int): How many bytes it has.
        checksum (int): Of the record.
        atoms (int): The atoms of the graph.
        tokens (int): Its tokens.
        pairs (int): Σ n² over its tokens.
    """

    offset: int
    length: int
    checksum: int
    atoms: int
    tokens: int
    pairs: int


@dataclass(frozen=True)
class Entry:
    """What became of one file or row.

    Args:
        name (str): Its name.
        stamp (str): What changes when its content changes.
        reason (str): Why it was skipped, else ``""``. (default: ``""``)
        graphs (list): Where its graphs are; none where ``pre_filter`` left them out.
            (default: ``[]``)
    """

    name: str
    stamp: str
    reason: str = ""
    graphs: Sequence[Place] = field(default_factory=list)


class ShardWriter:
    """Writes one shard, which appears under its name when it is closed.

    Args:
        folder (Path): Where.
    """

    def __init__(self, folder: Path) -> None:
        # Processes write at the same time, and runs after each other.
        self.path = folder / f"{uuid.uuid4().hex[:16]}{SUFFIX}"
        self._part = self.path.with_suffix(PART)
        self._file: Optional[io.BufferedWriter] = None
        self._index: list[Any] = []
        self.length = 0

    def add(
        self,
        name: str,
        stamp: str,
        reason: str = "",
        graphs: Sequence[tuple[bytes, tuple[int, int, int]]] = (),
    ) -> None:
        """Write what became of one file or row.

        Args:
            name (str): As for :class:`Entry`.
            stamp (str): Likewise.
            reason (str): Likewise. (default: ``""``)
            graphs (sequence): Records, each with atoms, tokens and pairs.
                (default: ``()``)
        """
        if self._file is None:
            self._file = open(self._part, "wb")
        places = []
        for record, sizes in graphs:
            self._file.write(record)
            places.append([self.length, len(record), zlib.crc32(record), *sizes])
            self.length += len(record)
        self._index.append([name, stamp, reason, places])

    def close(self) -> int:
        """Write the index, and give the shard its name.

        Returns:
            int: How many files or rows it tells of; with none there is no shard.
        """
        if self._file is None:
            return 0
        text = json.dumps(self._index).encode("ascii")
        self._file.write(text)
        self._file.write(len(text).to_bytes(8, "little"))
        self._file.write(zlib.crc32(text).to_bytes(4, "little") + _MAGIC)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self.path)
        return len(self._index)

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            self._part.unlink(missing_ok=True)


def read_index(path: Path) -> list[Entry]:
    """What a shard tells of.

    Raises:
        ValueError: If the file is damaged, or no shard.
    """
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _TAIL))
            tail = file.read()
            length = int.from_bytes(tail[:8], "little")
            if len(tail) < _TAIL or tail[12:] != _MAGIC or length > end - _TAIL:
                raise ValueError("it does not end as a shard does")
            file.seek(end - _TAIL - length)
            text = file.read(length)
        if zlib.crc32(text) != int.from_bytes(tail[8:12], "little"):
            raise ValueError("the checksum of its index is wrong")
        return [_entry(item, end) for item in json.loads(text)]
    except Exception as error:
        raise FileFormatError(
            f"{path}: is damaged, or no shard of pyg_atomenc ({error}). Delete the "
            f"file, so that it is made anew."
        ) from error


def _entry(item: Any, end: int) -> Entry:
    name, stamp, reason, places = item
    if not all(type(text) is str for text in (name, stamp, reason)):
        raise ValueError("its index holds other than text")
    graphs = [Place(*place) for place in places]
    for place in graphs:
        if not all(type(n) is int and 0 <= n < 2**62 for n in vars(place).values()):
            raise ValueError("its index holds other than counts")
        if place.offset + place.length > end:
            raise ValueError("its index points behind its end")
    return Entry(name, stamp, reason, graphs)
