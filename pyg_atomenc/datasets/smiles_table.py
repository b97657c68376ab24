"""`SmilesTable`: molecules as SMILES, with labels."""

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError
from pyg_atomenc.io.limits import Limits, read_bytes
from pyg_atomenc.io.rdmol import from_smiles
from pyg_atomenc.tokenizers.base import Tokenizer


class SmilesTable:
    """SMILES and labels, for :class:`~pyg_atomenc.datasets.StructureDataset`.

    Every graph has as ``source`` its row, such as ``"row 17"``, counted from 1 without
    the header, and its labels as ``y`` ``[1, L]``, which batch to ``[B, L]``.

    Args:
        smiles (sequence): The SMILES.
        labels (Tensor or sequence, optional): Numbers, one for each SMILES ``[S]``, or
            a row of them ``[S, L]``; ``y`` keeps their type. (default: ``None``)
        hydrogens (bool): As for :func:`~pyg_atomenc.io.from_smiles`.
            (default: ``False``)
        max_length (int): Likewise. (default: ``5_000``)

    Raises:
        ValueError: If the lengths differ, or there is no SMILES.

    Example:
        >>> table = SmilesTable(["CCO", "c1ccccc1"], labels=[0.5, 1.5])
        >>> table.read(1, None)[0].y
        tensor([[1.5000]])
    """

    def __init__(
        self,
        smiles: Sequence[str],
        labels: Any = None,
        *,
        hydrogens: bool = False,
        max_length: int = 5_000,
    ) -> None:
        # Arrays and series are lists as well.
        listed = hasattr(smiles, "__len__") and hasattr(smiles, "__iter__")
        if not listed or isinstance(smiles, (str, bytes)) or len(smiles) == 0:
            raise AtomEncodingError(
                f"'smiles' is {smiles!r}: pass a list with at least one SMILES, or for "
                f"a file SmilesTable.from_csv(path)."
            )
        self._smiles = list(smiles)
        self._labels: Any = None
        if labels is not None:
            self._labels = _label_rows(labels, len(self._smiles))
        self._reading: dict[str, Any] = {
            "hydrogens": hydrogens,
            "max_length": max_length,
        }
        self.names = [f"row {number}" for number in range(1, len(self._smiles) + 1)]

    @classmethod
    def from_csv(
        cls,
        path: Union[str, "os.PathLike[str]"],
        smiles_column: str = "smiles",
        label_columns: Sequence[str] = (),
        *,
        delimiter: str = ",",
        limits: Optional[Limits] = None,
        **options: Any,
    ) -> "SmilesTable":
        """Read a table whose first line names the columns, also gzipped.

        Args:
            path (str or os.PathLike): The file, in UTF-8.
            smiles_column (str): Where the SMILES are. (default: ``"smiles"``)
            label_columns (sequence): Which columns become ``y``, float32; an empty cell
                is NaN. (default: none)
            delimiter (str): What stands between cells. (default: ``","``)
            limits (Limits, optional): What the file may hold at most.
                (default: :class:`~pyg_atomenc.io.Limits`)
            **options: ``hydrogens`` and ``max_length``.

        Returns:
            SmilesTable: Of all rows. One with a missing cell, or a label that is no
            number, is skipped with the reason by the data set.

        Raises:
            ValueError: If the file cannot be read, or lacks a column.
        """
        if isinstance(label_columns, str):
            label_columns = [label_columns]
        columns = [smiles_column, *label_columns]
        rows = _read_rows(Path(path), columns, delimiter, limits or Limits())
        table = cls([row[0] for row in rows], **options)
        # Text until a row is read: a wrong label is a fault of its row alone.
        table._labels = [row[1:] for row in rows] if label_columns else None
        return table

    @property
    def options(self) -> Any:
        """The options of reading; labels and SMILES are in the stamps."""
        return self._reading

    def stamp(self, index: int) -> str:
        """A hash of the row."""
        row = repr((self._smiles[index], self._label(index)))
        return hashlib.blake2b(row.encode(), digest_size=12).hexdigest()

    def read(self, index: int, tokenizer: Optional[Tokenizer]) -> list[AtomTokenData]:
        """The graph of a row."""
        label = self._label(index)
        if isinstance(label, list):
            label = torch.tensor([[_number(text) for text in label]])
        data = from_smiles(self._smiles[index], tokenizer, **self._reading)
        data.source = self.names[index]
        if label is not None:
            data.y = label
        return [data]

    def _label(self, index: int) -> Any:
        if self._labels is None or isinstance(self._labels, list):
            return None if self._labels is None else self._labels[index]
        return self._labels[index : index + 1].clone()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.names)} rows)"


def _label_rows(labels: Any, count: int) -> Tensor:
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AtomEncodingError(
            f"'labels' cannot be a tensor ({error}): pass one number, or one row of "
            f"numbers, for each SMILES."
        ) from error
    if found.dim() not in (1, 2) or len(found) != count:
        raise AtomEncodingError(
            f"'labels' has shape {list(found.shape)} for {count} SMILES: pass one "
            f"number, or one row of numbers, for each."
        )
    return found.view(count, -1) if found.dim() == 1 else found


def _number(text: Any) -> float:
    if text is None:
        raise AtomEncodingError("the row is too short for its labels: mend the row.")
    try:
        return float(text) if text.strip() else float("nan")
    except ValueError:
        raise AtomEncodingError(
            f"the label {text!r} is no number: mend the row, or leave the cell empty."
        ) from None


def _read_rows(
    path: Path, columns: Sequence[str], delimiter: str, limits: Limits
) -> list[list[Any]]:
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise AtomEncodingError(f"'delimiter' is {delimiter!r}: pass one character.")
    content = read_bytes(path, limits)
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        # Strict: a quote that nobody closes would take the rows behind it.
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        there = reader.fieldnames or []
        twice = [name for name in columns if list(there).count(name) > 1]
        if twice:
            raise FileFormatError(
                f"{path}: has several columns {twice[0]!r}. Rename all but one."
            )
        missing = [name for name in columns if name not in there]
        if missing:
            raise FileFormatError(
                f"{path}: has no column {missing[0]!r}, but {list(there)}. Check "
                f"'smiles_column', 'label_columns' and 'delimiter'."
            )
        rows = [[row[name] for name in columns] for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(
            f"{path}: cannot be read as a table in UTF-8 ({error}). Save it as CSV."
        ) from error
    if not rows:
        raise FileFormatError(f"{path}: has no row below its header. Check the file.")
    return rows
