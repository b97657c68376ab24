"""What a data set is made of: structure files, or a table of SMILES."""

import csv
import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.checks import check, check_file, check_rows, listed
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.io.atom_array import from_atom_array
from pyg_atomenc.io.limits import Limits, read_bytes
from pyg_atomenc.io.rdmol import from_smiles
from pyg_atomenc.io.structure import SUFFIXES, from_structure

PathLike = Union[str, "os.PathLike[str]"]
_NAME = re.compile(rf"(?i)^[^.].*({'|'.join(map(re.escape, SUFFIXES))})(\.gz)?$")
_MISSING = {"", "-", "na", "n/a", "#n/a", "nan", "none", "null"}


class StructureFiles:
    """Structure files, for :class:`~pyg_atomenc.datasets.StructureDataset`.

    A graph's ``source`` is its file's path below the folder, or of a list the whole
    path; with ``model="all"``, ``"1abc.cif model 1"`` and so on.

    Args:
        files (str, os.PathLike or iterable): A folder, or paths of files.
        pattern (str, optional): Such as ``"*.cif.gz"``. (default: all structure files)
        recursive (bool): Look into folders of the folder, too. (default: ``False``)
        **options: As for :func:`~pyg_atomenc.io.from_structure`: ``waters`` and so on.

    Raises:
        ValueError: If there are no such files, or no such option.
    """

    def __init__(
        self, files: Union[PathLike, Iterable[PathLike]],
        pattern: Optional[str] = None, recursive: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self._reading, self._folder = check_options(from_structure, options), Path("/")
        if isinstance(files, (str, os.PathLike)):
            self._folder = Path(files).absolute()
            find = self._folder.rglob if recursive else self._folder.glob
            paths = [p for p in find(pattern or "*") if pattern or _NAME.search(p.name)]
            found = [path.relative_to(self._folder) for path in paths if path.is_file()]
        elif pattern is not None or recursive:
            raise AtomEncodingError("'pattern' and 'recursive' are for a folder only.")
        else:
            try:
                found = [Path(file).absolute() for file in files]
            except TypeError as why:
                raise AtomEncodingError(f"'files' is no list of paths: {why}.") from why
        self.names = sorted({path.as_posix() for path in found})
        what = f"is no folder, or holds no {pattern or SUFFIXES}. Check 'pattern'."
        check_file(files, found, what)
        self.options = {"folder": str(self._folder), **options}

    def warm_up(self) -> None:
        """Load the component dictionary, which processes then share by fork."""
        info = require_package("biotite.structure.info", "StructureFiles")
        from_atom_array(info.residue("GLY"))

    def stamp(self, index: int) -> str:
        """The file's size in bytes, and when it was last changed in nanoseconds."""
        try:
            status = (self._folder / self.names[index]).stat()
        except OSError as error:
            return f"cannot be found: {error.strerror}"
        return f"{status.st_size} bytes, {status.st_mtime_ns} ns"

    def read(self, index: int, tokenizer: Any = None) -> list[AtomTokenData]:
        """The graph of a file, or those of all its models."""
        name = self.names[index]
        found = from_structure(self._folder / name, tokenizer, **self._reading)
        graphs = [found] if isinstance(found, AtomTokenData) else found
        for model, data in enumerate(graphs, 1):
            data.source = name if data is found else f"{name} model {model}"
        return graphs


def check_options(read: Callable[..., Any], options: dict[str, Any]) -> Any:
    """The options, if the reader has them all."""
    try:
        inspect.signature(read).bind(None, None, **options)
    except TypeError as error:
        raise AtomEncodingError(f"{read.__name__} {error}: see its options.") from error
    return options


class SmilesTable:
    """SMILES and labels, for :class:`~pyg_atomenc.datasets.StructureDataset`.

    A graph's ``source`` is its row, such as ``"row 17"``, counted from 1 without the
    header, and ``y`` ``[1, L]`` its labels, which batch to ``[B, L]``.

    Args:
        smiles (sequence): The SMILES.
        labels (Tensor or sequence, optional): Numbers, one for each SMILES ``[S]``, or
            a row of them ``[S, L]``; ``y`` keeps their type. (default: ``None``)
        **options: As for :func:`~pyg_atomenc.io.from_smiles`: ``hydrogens`` and so on.

    Raises:
        ValueError: If the lengths differ, or there is no SMILES, or no such option.
    """

    def __init__(self, smiles: Any, labels: Any = None, **options: Any) -> None:
        if isinstance(smiles, (str, bytes)) or not isinstance(smiles, Iterable):
            mend = "pass a list, or SmilesTable.from_csv(path)."
            raise AtomEncodingError(f"'smiles' is {smiles!r}: {mend}")
        self.options, self._smiles = check_options(from_smiles, options), list(smiles)
        self.names = [f"row {number}" for number in range(1, len(self._smiles) + 1)]
        check(self.names, "'smiles' is empty: pass at least one.")
        # Of each row a tensor [1, L], or from a file the cells.
        self._labels: Any = [()] * len(self.names)
        if labels is not None:
            try:
                rows = torch.as_tensor(labels)
            except (TypeError, ValueError, RuntimeError) as error:
                mend = f"'labels' must be one number or row for each SMILES: {error}."
                raise AtomEncodingError(mend) from error
            check_rows("labels", rows, len(self.names), "SMILES")
            self._labels = rows.reshape(len(rows), 1, -1)

    @classmethod
    def from_csv(
        cls, path: PathLike, smiles_column: str = "smiles",
        label_columns: Union[str, Sequence[str]] = (), *,
        delimiter: str = ",", limits: Optional[Limits] = None, **options: Any,
    ) -> "SmilesTable":  # fmt: skip
        """Read a table in UTF-8 whose first line names the columns, also gzipped.

        Args:
            path (str or os.PathLike): The file.
            smiles_column (str): Where the SMILES are. (default: ``"smiles"``)
            label_columns (sequence): Which columns become ``y``, float32, NaN if empty,
                ``NA``, ``N/A``, ``null``, ``none`` or ``-``; the data set skips rows of
                other texts, of too few cells or of too many. (default: none)
            delimiter (str): What stands between cells. (default: ``","``)
            limits (Limits, optional): What the file may hold. (default: ``Limits()``)
            **options: As for the class.

        Raises:
            ValueError: If the file cannot be read, or lacks a column.
        """
        labels = [label_columns] if isinstance(label_columns, str) else label_columns
        content = read_bytes(Path(path), limits or Limits())
        try:
            text = io.StringIO(content.decode("utf-8-sig"), newline="")
            # Strict: a quote that nobody closes would take the rows behind it.
            reader = csv.DictReader(text, delimiter=delimiter, strict=True)
            header, rows = list(reader.fieldnames or []), list(reader)
        except (TypeError, ValueError, csv.Error) as error:
            why = f"cannot be read as a table in UTF-8 ({error}). Mend or convert it."
            raise FileFormatError(f"{path}: {why}") from error
        for name in (smiles_column, *labels):
            if (count := header.count(name)) != 1 or not rows:
                what = f"{len(rows)} rows, with {count} columns {name!r} among {header}"
                same = str(name).strip().lower()
                near = [h for h in header if h.strip().lower() == same]
                hint = f"Did you mean {listed(near)}? " if near and not count else ""
                mend = f"{hint}Check the columns' names and 'delimiter'."
                raise FileFormatError(f"{path}: has {what}. {mend}")
        table = cls([row[smiles_column] for row in rows], **options)
        # Text until a row is read: a wrong label is a fault of its row alone.
        # What has no column is below None.
        table._labels = [None if None in r else [r[n] for n in labels] for r in rows]
        return table

    def stamp(self, index: int) -> str:
        """The row itself."""
        label = self._labels[index]
        exact = (label.dtype, label.tolist()) if isinstance(label, Tensor) else label
        return ascii((self._smiles[index], exact))

    def read(self, index: int, tokenizer: Any = None) -> list[AtomTokenData]:
        """The graph of a row."""
        many = "the row has more cells than the header: quote what holds a delimiter."
        check(self._labels[index] is not None, many)
        data = from_smiles(self._smiles[index], tokenizer, **self.options)
        return [named(data, self.names[index], self._labels[index])]


def named(data: AtomTokenData, source: str, labels: Any) -> AtomTokenData:
    """The graph with its ``source`` and, of numbers or texts, its ``y`` ``[1, L]``."""
    data.source = source
    if isinstance(labels, Tensor):
        data.y = labels.clone()
    elif labels:
        data.y = torch.tensor([list(map(_number, labels))])
    return data


def _number(cell: Any) -> float:
    try:
        return float("nan" if cell.strip().lower() in _MISSING else cell)
    except (AttributeError, ValueError) as error:
        why = "the row is too short" if cell is None else f"{cell!r} is no number"
        mend = "mend the row; two classes are 0 and 1."
        raise AtomEncodingError(f"a label is bad, {why}: {mend}") from error
