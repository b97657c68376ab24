"""`StructureDataset`: structure files or SMILES as graphs, read once and kept."""

import os
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch_geometric.data import Dataset

from pyg_atomenc.checks import check_callable, check_integer, check_positive
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.datasets.file_lock import file_lock
from pyg_atomenc.datasets.fingerprint import describe, fingerprint
from pyg_atomenc.datasets.graph_table import GraphTable
from pyg_atomenc.datasets.job import Job
from pyg_atomenc.datasets.on_disk_structure_dataset import OnDiskStructureDataset
from pyg_atomenc.datasets.pool import Pool
from pyg_atomenc.datasets.record import from_bytes
from pyg_atomenc.datasets.shard import PART, SUFFIX
from pyg_atomenc.datasets.smiles_table import SmilesTable
from pyg_atomenc.datasets.source import Source
from pyg_atomenc.datasets.structure_files import StructureFiles
from pyg_atomenc.datasets.worker import Saver
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.tokenizers.base import Tokenizer

# Part of the fingerprint: other bytes, another folder.
_CACHE_VERSION = 1
_ON_ERROR = ("skip", "raise")


class Skipped(NamedTuple):
    """A file or row that gave no graph, and why."""

    source: str
    reason: str


class StructureDataset(Dataset):
    r"""Graphs of structure files, or of SMILES, that are read once and kept on disk.

    Every file is read, tokenized and transformed once; the graphs are kept in
    ``root/processed`` in files of tensors and text that hold no pickle. They are in the
    order of the files' names, and each knows its file as ``source``. An access reads
    one graph, so that the set may be larger than memory.

    What is kept goes by the file's name, size and time of change, and by all options
    (the source code of own functions included): files that are new or have changed are
    read when the data set is opened, other options have another folder. A run that was
    stopped goes on where it was, but for the last ``save_every`` seconds. Of several
    processes that open one data set, the first reads and the others wait.

    A file that cannot be read is skipped with a warning; :attr:`report` and
    ``skipped.tsv`` beside the graphs tell the reason, ``manifest.tsv`` tells of all
    files. :meth:`graph_sizes` serves
    :class:`~pyg_atomenc.data.TokenBudgetSampler` without loading any graph.

    Args:
        root (str or os.PathLike): Where the graphs are kept.
        source (str, os.PathLike, sequence or Source, optional): A folder of structure
            files, a list of files, or a table ending in ``.csv`` or ``.csv.gz`` with a
            column ``smiles``; with options
            :class:`~pyg_atomenc.datasets.StructureFiles` or
            :class:`~pyg_atomenc.datasets.SmilesTable`. (default: ``root/raw``)
        tokenizer (callable, optional): As for the reader. (default: the reader's)
        transform (callable, optional): At every access. (default: ``None``)
        pre_transform (callable, optional): Once, before a graph is stored; gives an
            ``AtomTokenData``. (default: ``None``)
        pre_filter (callable, optional): Whether a graph is kept; before
            ``pre_transform``. (default: ``None``)
        on_error (str): ``"skip"`` a file that cannot be read, or ``"raise"``.
            (default: ``"skip"``)
        num_workers (int): How many processes read; 0 for this one. (default: ``0``)
        multiprocessing_context (str, optional): How they start, such as ``"spawn"``.
            (default: the platform's way)
        save_every (float): How many seconds of reading a stopped run may lose.
            (default: ``5.0``)
        progress (bool): Show a progress bar where tqdm is installed.
            (default: ``True``)
        force_reload (bool): Read everything anew. (default: ``False``)
        retry_skipped (bool): Try the skipped files once more. (default: ``False``)

    Raises:
        ValueError: If the source or an option cannot be, if no file can be read, if one
            cannot and ``on_error="raise"``, or if what is kept is damaged.
        ImportError: If the reader's package is not installed.

    Example:
        >>> dataset = StructureDataset(  # doctest: +SKIP
        ...     "cache", StructureFiles("pdb", waters=False), num_workers=8
        ... )
        >>> sampler = TokenBudgetSampler(dataset, max_pairs=10**6)  # doctest: +SKIP
        >>> loader = AtomTokenLoader(dataset, batch_sampler=sampler)  # doctest: +SKIP
    """

    def __init__(
        self,
        root: Union[str, "os.PathLike[str]"],
        source: Any = None,
        tokenizer: Optional[Tokenizer] = None,
        transform: Optional[Callable[[Any], Any]] = None,
        pre_transform: Optional[Callable[[Any], Any]] = None,
        pre_filter: Optional[Callable[[Any], bool]] = None,
        *,
        on_error: str = "skip",
        num_workers: int = 0,
        multiprocessing_context: Optional[str] = None,
        save_every: float = 5.0,
        progress: bool = True,
        force_reload: bool = False,
        retry_skipped: bool = False,
    ) -> None:
        for name, value in (
            ("tokenizer", tokenizer),
            ("transform", transform),
            ("pre_transform", pre_transform),
            ("pre_filter", pre_filter),
        ):
            check_callable(name, value)
        super().__init__(os.fspath(root), transform, pre_transform, pre_filter)
        if on_error not in _ON_ERROR:
            raise AtomEncodingError(
                f"'on_error' is {on_error!r}: pass one of {_ON_ERROR}."
            )
        num_workers = check_integer("num_workers", num_workers, 0)
        check_positive("save_every", save_every, "of seconds")
        known = get_all_start_methods()
        if multiprocessing_context not in (None, *known):
            raise AtomEncodingError(
                f"'multiprocessing_context' is {multiprocessing_context!r}: pass one "
                f"of {known}."
            )
        job = Job(
            _as_source(self.raw_dir if source is None else source),
            tokenizer,
            pre_filter,
            pre_transform,
        )
        self.folder = self._make_folder(job)
        with file_lock(self.folder / ".lock"):
            # Whoever holds the lock is alone: these are of runs that were killed.
            for path in self.folder.glob(f"*{SUFFIX if force_reload else PART}"):
                path.unlink()
            table = GraphTable(self.folder, job.source, retry_skipped)
            if table.missing:
                run = _Run(job, self.folder, table, on_error, save_every, progress)
                run.read(num_workers, multiprocessing_context)
                table = GraphTable(self.folder, job.source)
                table.write_tsv(self.folder)
        self._table = table
        self._check_report(on_error)

    def _make_folder(self, job: Job) -> Path:
        parts = (
            _CACHE_VERSION,
            _package_version(),
            type(job.source).__qualname__,
            job.source.options,
            job.tokenizer,
            job.pre_filter,
            job.pre_transform,
        )
        folder = Path(self.processed_dir) / fingerprint(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        options = folder / "options.txt"
        if not options.exists():
            options.write_text("\n".join(map(describe, parts)) + "\n", errors="replace")
        return folder

    def _check_report(self, on_error: str) -> None:
        report = self.report
        if not report:
            return
        text = f"{len(report)} of {len(self._table.source.names)} files or rows"
        if on_error == "raise" or len(self._table) == 0:
            raise FileFormatError(
                f"{report[0].reason} ({text} cannot be read, see "
                f"{self.folder / 'skipped.tsv'})"
            )
        warnings.warn(
            f"{text} were skipped, the first is {report[0].source} ({report[0].reason})"
            f": see 'report' of the data set, or {self.folder / 'skipped.tsv'}.",
            stacklevel=3,
        )

    @property
    def report(self) -> list[Skipped]:
        """The files or rows that were skipped, with the reasons."""
        reasons, names = self._table.reasons, self._table.source.names
        return [Skipped(names[index], reasons[index]) for index in sorted(reasons)]

    @property
    def names(self) -> list[str]:
        """The file or row of every graph."""
        items = self._table["item"][self._rows()].tolist()
        return [self._table.source.names[item] for item in items]

    @property
    def processed_file_names(self) -> list[str]:
        """The files that hold the graphs, below ``processed``."""
        return [f"{self.folder.name}/{path.name}" for path in self._table.shards]

    def graph_sizes(self) -> tuple[Tensor, Tensor]:
        """Atoms and Σ n² over the tokens of every graph ``[S]``, int64, as stored."""
        rows = self._rows()
        return self._table["atoms"][rows], self._table["pairs"][rows]

    def _rows(self) -> Tensor:
        return torch.as_tensor(self.indices(), dtype=torch.long)

    def len(self) -> int:
        """How many graphs there are."""
        return len(self._table)

    def get(self, idx: int) -> AtomTokenData:
        """Read a graph, as it is stored."""
        table = self._table
        path = table.shards[int(table["shard"][idx])]
        content = self._read(path, int(table["offset"][idx]), int(table["length"][idx]))
        name = table.source.names[int(table["item"][idx])]
        return from_bytes(content, f"{path}: {name}", int(table["checksum"][idx]))

    def _read(self, path: Path, offset: int, length: int) -> bytearray:
        content = bytearray(length)
        try:
            # Opened at every access: nothing is shared with DataLoader workers.
            with open(path, "rb") as file:
                file.seek(offset)
                file.readinto(content)
        except OSError as error:
            raise FileFormatError(
                f"{path}: cannot be read ({error.strerror}). Open the data set again, "
                f"so that what is missing is made anew."
            ) from error
        return content

    def to_on_disk(
        self,
        root: Union[str, "os.PathLike[str]"],
        transform: Optional[Callable[[Any], Any]] = None,
    ) -> OnDiskStructureDataset:
        """Copy the graphs, as they are stored, into one SQLite file.

        Args:
            root (str or os.PathLike): Where to; there must be no data set yet.
            transform (callable, optional): At every access to the copy.
                (default: ``None``)

        Returns:
            OnDiskStructureDataset: With the same graphs in the same order.

        Raises:
            ValueError: If there is one.
        """
        graphs = (self.get(index) for index in self.indices())
        return OnDiskStructureDataset.create(root, graphs, transform)


class _Run:
    """Reads what is missing."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        table: GraphTable,
        on_error: str,
        save_every: float,
        progress: bool,
    ) -> None:
        self.job, self.folder, self.save_every = job, folder, save_every
        self.missing, self.total = table.missing, len(job.source.names)
        self.on_error = on_error
        self.bar = _make_bar(self.total, len(self.missing)) if progress else None

    def read(self, num_workers: int, method: Optional[str]) -> None:
        try:
            if num_workers:
                pool = Pool(self.job, self.folder, num_workers, method, self.save_every)
                pool.run(self.missing, self._on_read, self._on_skip)
            else:
                self._read_here()
        finally:
            if self.bar is not None:
                self.bar.close()

    def _read_here(self) -> None:
        saver = Saver(self.job, self.folder, self.save_every)
        try:
            for index in self.missing:
                reason = saver.run(index)
                self._on_read(1)
                if reason:
                    self._on_skip(index, reason)
                if saver.is_due:
                    saver.save()
        finally:
            saver.save()

    def _on_read(self, count: int) -> None:
        if self.bar is not None:
            self.bar.update(count)

    def _on_skip(self, index: int, reason: str) -> None:
        if self.on_error == "raise":
            name = self.job.source.names[index]
            where = "" if name in reason else f"{name}: "
            raise FileFormatError(f"{where}{reason}")


def _make_bar(total: int, missing: int) -> Any:
    try:
        tqdm = require_package("tqdm", "the progress bar")
    except ImportError:
        return None
    return tqdm.tqdm(total=total, initial=total - missing, desc="reading")


def _as_source(source: Any) -> Source:
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source).lower()
        if name.endswith((".csv", ".csv.gz")):
            return SmilesTable.from_csv(source)
        return StructureFiles(source)
    if isinstance(source, Sequence):
        return StructureFiles(source)
    if not all(hasattr(source, name) for name in ("names", "options", "stamp", "read")):
        raise AtomEncodingError(
            f"'source' is of type {type(source).__name__}: pass a folder, a list of "
            f"files, StructureFiles or SmilesTable."
        )
    return source


def _package_version() -> str:
    try:
        return version("pyg_atomenc")
    except PackageNotFoundError:
        return "unknown"
