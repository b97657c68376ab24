"""`OnDiskStructureDataset`: graphs in one SQLite file."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch_geometric.data import OnDiskDataset

from pyg_atomenc.data import AtomTokenData, graph_size
from pyg_atomenc.datasets.record import checksum_of, from_bytes, to_bytes
from pyg_atomenc.errors import AtomEncodingError, FileFormatError

# With a schema, PyG stores these as they are and pickles nothing.
_SCHEMA = {
    "checksum": int,
    "atoms": int,
    "tokens": int,
    "pairs": int,
    # The last, so that sizes are read without it.
    "graph": {"dtype": torch.uint8, "size": (-1,)},
}
_BLOCK = 64
# Connections of the parent process: kept, since to drop one is to close it.
_INHERITED: list[Any] = []


class OnDiskStructureDataset(OnDiskDataset):
    """PyG's ``OnDiskDataset`` of graphs that know their tokens.

    One SQLite file in ``root/processed``, each row a graph in the bytes of
    :mod:`~pyg_atomenc.datasets.record` and its sizes; no pickle. It is filled by
    :meth:`append` and :meth:`extend`, by :meth:`create`, or by
    :meth:`StructureDataset.to_on_disk`. It may travel to ``DataLoader`` workers,
    started by any method, and be indexed as any data set of PyG.

    Args:
        root (str or os.PathLike): The folder.
        transform (callable, optional): At every access. (default: ``None``)

    Raises:
        ValueError: If the file is no such data set; at access, if a graph is damaged.

    Example:
        >>> dataset = StructureDataset("cache", "pdb")  # doctest: +SKIP
        >>> copy = dataset.to_on_disk("one_file")  # doctest: +SKIP
        >>> copy = OnDiskStructureDataset("one_file")  # doctest: +SKIP
    """

    _db: Any

    def __init__(
        self,
        root: Union[str, "os.PathLike[str]"],
        transform: Optional[Callable[[Any], Any]] = None,
    ) -> None:
        self._pid = os.getpid()
        super().__init__(os.fspath(root), transform, schema=_SCHEMA, log=False)

    @classmethod
    def create(
        cls,
        root: Union[str, "os.PathLike[str]"],
        graphs: Iterable[AtomTokenData],
        transform: Optional[Callable[[Any], Any]] = None,
    ) -> "OnDiskStructureDataset":
        """Write a new data set; the file appears when it is complete.

        Args:
            root (str or os.PathLike): The folder; there must be no data set in it yet.
            graphs (iterable): What to write, taken a few at a time.
            transform (callable, optional): As for the class. (default: ``None``)

        Raises:
            ValueError: If there is one, or a graph cannot be stored.
        """
        dataset = cls(root, transform)
        path = Path(dataset.processed_paths[0])
        if path.exists():
            raise AtomEncodingError(
                f"{path}: is there already. Pass another 'root', or delete the file."
            )
        building = Path(root) / "building"
        shutil.rmtree(building, ignore_errors=True)
        partial = cls(building)
        iterator = iter(graphs)
        while block := list(islice(iterator, _BLOCK)):
            partial.extend(block)
        # Of no graphs there is a file, too.
        len(partial)
        partial.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial.processed_paths[0], path)
        shutil.rmtree(building, ignore_errors=True)
        return dataset

    @property
    def db(self) -> Any:
        """The database, opened anew in every process."""
        if self._db is not None and self._pid != os.getpid():
            # A connection of SQLite must not be used, nor closed, behind a fork.
            _INHERITED.append(self._db)
            self._db = None
        self._pid = os.getpid()
        try:
            return super().db
        except Exception as error:
            raise FileFormatError(
                f"{self.processed_paths[0]}: is no data set of graphs ({error}). "
                f"Delete the file, so that it can be made anew."
            ) from error

    def close(self) -> None:
        """Close the file; the next access opens it again."""
        super().close()
        self._db = None

    def serialize(self, data: AtomTokenData) -> dict[str, Any]:
        """A graph as a row of the database."""
        record = to_bytes(data)
        atoms, pairs = graph_size(data)
        return {
            "checksum": checksum_of(record),
            "atoms": atoms,
            "tokens": data.total_num_tokens,
            "pairs": pairs,
            "graph": torch.frombuffer(bytearray(record), dtype=torch.uint8),
        }

    def deserialize(self, data: dict[str, Any]) -> AtomTokenData:
        """A row of the database as a graph."""
        content = bytearray(data["graph"].numpy())
        return from_bytes(content, self.processed_paths[0], data["checksum"])

    def get(self, idx: int) -> AtomTokenData:
        """Read a graph."""
        (data,) = self._rows([idx])
        return self.deserialize(data)

    def multi_get(
        self,
        indices: Union[Iterable[int], Tensor, slice, range],
        batch_size: Optional[int] = None,
    ) -> list[Any]:
        """Read several graphs at once, and transform them.

        Args:
            indices (slice, range, Tensor or iterable): Which, of the whole data set.
            batch_size (int, optional): As in PyG. (default: ``None``)
        """
        if isinstance(indices, slice):
            indices = range(self.len())[indices]
        graphs = map(
            self.deserialize, self._rows([int(i) for i in indices], batch_size)
        )
        return [g if self.transform is None else self.transform(g) for g in graphs]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """What a ``DataLoader`` asks for: positions in this data set or subset."""
        # PyG's own method takes them for positions in the whole data set.
        return self.multi_get([self.indices()[index] for index in indices])

    def _rows(self, indices: Sequence[int], batch_size: Optional[int] = None) -> Any:
        try:
            rows = self.db.multi_get(indices, batch_size)
        except FileFormatError:
            raise
        except Exception as error:
            raise FileFormatError(
                f"{self.processed_paths[0]}: cannot be read ({error}). Make it anew."
            ) from error
        if len(rows) != len(indices):
            raise IndexError(
                f"one of the indices {list(indices)[:8]} … is not in the data set of "
                f"{self.len()} graphs."
            )
        return rows

    def graph_sizes(self) -> tuple[Tensor, Tensor]:
        """Atoms and Σ n² over the tokens of every graph ``[S]``, int64."""
        query = f"SELECT COL_atoms, COL_pairs FROM {self.db.name} ORDER BY id"
        self.db.cursor.execute(query)
        sizes = torch.tensor(self.db.cursor.fetchall(), dtype=torch.long).view(-1, 2)
        sizes = sizes[torch.as_tensor(self.indices(), dtype=torch.long)]
        return sizes[:, 0], sizes[:, 1]

    def __getstate__(self) -> dict[str, Any]:
        # A connection does not travel; whoever gets the data set opens its own.
        return {**self.__dict__, "_db": None}
