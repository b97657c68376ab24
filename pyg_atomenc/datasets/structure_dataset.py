"""`StructureDataset`: structure files or SMILES as graphs, read once and kept."""

import hashlib
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch_geometric.data import Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from pyg_atomenc.checks import check_callable, check_choice, check_integer, found
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.datasets import storage
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.io.molecule_file import SUFFIXES, MoleculeFile
from pyg_atomenc.io.sources import PathLike, SmilesTable, StructureFiles

# What a killed run may lose of its reading, and how many files are under way at most.
_SAVE_SECONDS, _FILES_AT_ONCE = 1.0, 256
_dataset: "StructureDataset"
Rows = list[dict[str, Any]]


class Skipped(NamedTuple):
    """A file or row that gave no graph, and why."""

    source: str
    reason: str


class StructureDataset(Dataset):
    """Graphs of structure files, or of SMILES, that are read once and kept on disk.

    They are kept in one SQLite file, :attr:`folder` ``/graphs.db`` below ``root``,
    without pickle. An access reads one graph: the set may be larger than memory.
    New and changed files, by name, size and time of change, are read when the data set
    is opened; other options have another folder. A function counts by its name and an
    object by its attributes: pass another ``version`` when their code has changed. A
    run that was stopped goes on. Of several at once the first reads, the others wait.

    Args:
        root (str or os.PathLike): Where the graphs are kept.
        source (Any, optional): A folder or list of structure files, a table ``*.csv``
            with a column ``smiles``, an SDF or MOL2 file, or what has ``names``,
            ``options``, ``stamp`` and ``read``, as ``StructureFiles``.
            (default: what :meth:`to_on_disk` wrote to ``root``, else ``root/raw``)
        tokenizer (callable, optional): As for the reader. (default: the reader's)
        transform (callable, optional): At every access. (default: ``None``)
        pre_transform, pre_filter (callable, optional): Once, before a graph is stored:
            the one gives an ``AtomTokenData``, the other, called first, whether the
            graph is kept. (default: ``None``)
        version (str): Of the code of own functions. (default: ``""``)
        on_error (str): ``"skip"`` what cannot be read, with a warning and an entry in
            :attr:`report`, or ``"raise"``. (default: ``"skip"``)
        num_workers (int): How many processes read; 0 for this one. (default: ``0``)
        multiprocessing_context (str, optional): How they start, such as ``"spawn"``.
        progress (bool): Show a progress bar. (default: ``True``)
        force_reload (bool): Read everything anew. (default: ``False``)
        retry_skipped (bool): Try the skipped files once more. (default: ``False``)

    Raises:
        ValueError: If an option cannot be, no file can be read, with ``"raise"`` one
            cannot, a process that reads dies, or what is kept is damaged.
        ImportError: If safetensors, filelock or the reader's package is not installed.
    """

    def __init__(
        self, root: PathLike, source: Any = None,
        tokenizer: Optional[Callable[[Any], Any]] = None,
        transform: Optional[Callable[[Any], Any]] = None,
        pre_transform: Optional[Callable[[Any], Any]] = None,
        pre_filter: Optional[Callable[[Any], bool]] = None, *,
        version: str = "", on_error: str = "skip", num_workers: int = 0,
        multiprocessing_context: Optional[str] = None, progress: bool = True,
        force_reload: bool = False, retry_skipped: bool = False,
    ) -> None:  # fmt: skip
        own = dict(tokenizer=tokenizer, pre_filter=pre_filter)
        own["pre_transform"] = pre_transform
        for name, value in {**own, "transform": transform}.items():
            check_callable(name, value)
        check_choice("on_error", on_error, ("skip", "raise"))
        check_integer("num_workers", num_workers, 0)
        methods = [None, *multiprocessing.get_all_start_methods()]
        check_choice("multiprocessing_context", multiprocessing_context, methods)
        super().__init__(os.fspath(root), None, pre_transform, pre_filter)
        self.folder, self.source, self.tokenizer = Path(self.root), source, tokenizer
        if source is None and (self.folder / "graphs.db").exists():
            self._look_up()
        else:
            self.source = _as_source(self.raw_dir if source is None else source)
            known = (type(self.source), self.source.options, [*own.values()], version)
            text = _describe([import_module("pyg_atomenc").__version__, *known])
            digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
            self.folder = Path(self.processed_dir, digest)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "options.txt").write_text(text, "utf-8")
            lock = require_package("filelock", "StructureDataset").FileLock
            with lock(self.folder / ".lock"):
                if force_reload:
                    (self.folder / "graphs.db").unlink(missing_ok=True)
                if missing := self._look_up(retry_skipped):
                    rows = self._results(missing, num_workers, multiprocessing_context)
                    bar = tqdm(rows, "reading", len(missing), disable=not progress)
                    with closing(rows), bar:
                        self._keep(bar, on_error)
                    self._look_up()
                    lines = "\n".join(["source\treason", *map("\t".join, self.report)])
                    (self.folder / "skipped.tsv").write_text(lines + "\n", "utf-8")
        self.transform = transform
        if self.report:
            what = f"{len(self.report)} of {len(self.source.names)} files or rows"
            first = f"the first is {' - '.join(self.report[0])}"
            text = f"{what} cannot be read, {first} (see {self.folder}/skipped.tsv)."
            if on_error == "raise" or len(self) == 0:
                raise FileFormatError(text)
            warnings.warn(text, stacklevel=2)

    def _look_up(self, retry_skipped: bool = False) -> list[int]:
        """Find the graphs that are kept; gives the items that are not."""
        names = [] if self.source is None else map(_plain, self.source.names)
        items = {(name, self.source.stamp(i)): i for i, name in enumerate(names)}
        kept = []
        with storage.open_graphs(self.folder) as database:
            if retry_skipped:
                database.execute("DELETE FROM graphs WHERE reason != ''")
            query = "SELECT id, atoms, pairs, source, stamp, reason FROM graphs"
            for *row, name, stamp, reason in database.execute(query):
                index = row[0] if self.source is None else items.get((name, stamp))
                if index is not None:
                    kept.append((index, row, name, reason))
        kept.sort()
        self.report = [Skipped(name, why) for *_, name, why in kept if why]
        self._names = [name for *_, name, why in kept if why is None]
        # The row of every graph, its atoms and its pairs.
        rows = [row for _, row, _, why in kept if why is None]
        self._graphs = torch.tensor(rows).view(-1, 3).long()
        return sorted({*items.values()} - {index for index, *_ in kept})

    def _keep(self, results: Any, on_error: str) -> None:
        rows, saved = Rows(), time.monotonic()
        try:
            for item in results:
                rows += item
                if on_error == "raise" and item[0].get("reason"):
                    raise FileFormatError("{source}: {reason}".format(**item[0]))
                if time.monotonic() > saved + _SAVE_SECONDS:
                    # Forgotten first: Ctrl-C may come when they are written.
                    full, rows, saved = rows, [], time.monotonic()
                    storage.insert(self.folder, full)
        finally:
            storage.insert(self.folder, rows)

    def _results(
        self, missing: list[int], num_workers: int, method: Optional[str]
    ) -> Generator[Rows, None, None]:
        if num_workers == 0:
            return (yield from map(self._read, missing))
        context: Any = multiprocessing.get_context(method)
        if context.get_start_method() != "fork":
            for name in ("source", "tokenizer", "pre_filter", "pre_transform"):
                try:
                    pickle.dumps(getattr(self, name))
                except Exception as error:
                    text = f"'{name}' cannot be sent to another process ({error}): "
                    mend = "define it in a module, or pass num_workers=0."
                    raise AtomEncodingError(text + mend) from error
        elif hasattr(self.source, "warm_up"):
            self.source.warm_up()
        pool = ProcessPoolExecutor(num_workers, context, _start, (self,))
        try:
            for i in range(0, len(missing), _FILES_AT_ONCE):
                items = missing[i : i + _FILES_AT_ONCE]
                futures = [pool.submit(_read, item) for item in items]
                for done in as_completed(futures):
                    # What was read before a process died is kept first.
                    if not isinstance(done.exception(), BrokenExecutor):
                        yield done.result()
                for done in futures:
                    done.result()
        except BrokenExecutor as error:
            text = "a process died (no memory, or no `if __name__ == '__main__':`?)."
            mend = "What was read is kept: go on with num_workers=0."
            raise AtomEncodingError(f"'num_workers': {text} {mend}") from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, index: int) -> Rows:
        # Before reading: a file that changes meanwhile is read again the next time.
        stamp = self.source.stamp(index)
        try:
            graphs = self.source.read(index, self.tokenizer)
            keep = self.pre_filter or (lambda data: True)
            change = self.pre_transform or (lambda data: data)
            rows = [storage.pack(change(data)) for data in graphs if keep(data)]
        except ImportError:
            raise
        except Exception as error:
            own = isinstance(error, AtomEncodingError)
            text = str(error) if own else f"{type(error).__name__}: {error}"
            rows = [{"reason": _plain(" ".join(text.split()))}]
        known = {"source": _plain(self.source.names[index]), "stamp": stamp}
        return [{**row, **known} for row in rows or [{"reason": ""}]]

    @property
    def names(self) -> list[str]:
        """The file or row of every graph."""
        return [self._names[index] for index in self.indices()]

    def graph_sizes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Atoms and Σ n² over the tokens of every graph ``[S]``, int64, as stored."""
        rows = self._graphs[torch.as_tensor(self.indices(), dtype=torch.long)]
        return rows[:, 1], rows[:, 2]

    def len(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    def get(self, idx: int) -> AtomTokenData:
        """Read a graph, as it is stored."""
        query = "SELECT attributes, tensors FROM graphs WHERE id = ?"
        with storage.open_graphs(self.folder) as database:
            row = database.execute(query, (int(self._graphs[idx, 0]),)).fetchone()
        try:
            return storage.unpack(*row)
        except ImportError:
            raise
        except Exception as error:
            text = f"{self._names[idx]} is damaged, or gone ({error}): delete graphs.db"
            raise FileFormatError(f"{self.folder}: {text}.") from error

    def to_on_disk(
        self, root: PathLike, transform: Optional[Callable[[Any], Any]] = None
    ) -> "StructureDataset":
        """Copy the graphs to a new file ``root/graphs.db``, opened without a source."""
        folder = Path(root)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "graphs.db").exists() and len(StructureDataset(root)):
            raise AtomEncodingError(f"'root' is {root}, which holds graphs already.")
        graphs = ((self._names[index], self.get(index)) for index in self.indices())
        rows = ({**storage.pack(data), "source": name} for name, data in graphs)
        storage.insert(folder, rows)
        return StructureDataset(root, transform=transform)


def _start(dataset: StructureDataset) -> None:
    global _dataset
    _dataset = dataset
    torch.set_num_threads(1)
    # Ctrl-C reaches all processes; the first one ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = multiprocessing.process.parent_process()
    # What outlives a killed parent would wait, and hold the lock, for ever.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _read(index: int) -> Rows:
    return _dataset._read(index)


def _as_source(source: Any) -> Any:
    is_path = isinstance(source, (str, os.PathLike))
    name = os.fspath(source).lower().removesuffix(".gz") if is_path else ""
    if name.endswith(".csv"):
        return SmilesTable.from_csv(source)
    if name.endswith(SUFFIXES):
        return MoleculeFile(source)
    if is_path or isinstance(source, (list, tuple)):
        return StructureFiles(source)
    if not all(hasattr(source, name) for name in ("names", "options", "stamp", "read")):
        mend = "pass a folder, a list of files, StructureFiles or SmilesTable."
        raise AtomEncodingError(f"'source' is {found(source)}: {mend}")
    return source


def _plain(text: str) -> str:
    # Names of files may hold what UTF-8 cannot.
    return text.encode(errors="backslashreplace").decode()


def _describe(value: Any) -> str:
    """What an option is: module, repr without addresses, and attributes."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_describe, value))}]"
    if isinstance(value, dict):
        return _describe([*value.items()])
    if hasattr(value, "ToBinary"):
        # A molecule of RDKit, which its repr does not tell from another.
        return hashlib.blake2b(value.ToBinary()).hexdigest()
    if hasattr(value, "tolist") and not isinstance(value, type):
        return f"{type(value)}{value.tolist()}"
    text = f"{getattr(value, '__module__', '')} {value!r}"
    if hasattr(value, "__dict__") and not isinstance(value, type):
        text += _describe(vars(value))
    return _plain(re.sub(" at 0x[0-9a-fA-F]+", "", text))
