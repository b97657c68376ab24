"""Graphs as rows of an SQLite file: tensors as safetensors, all else as JSON."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from pyg_atomenc.checks import check, check_type
from pyg_atomenc.data import AtomTokenData, graph_size
from pyg_atomenc.errors import FileFormatError, require_package

# Of a graph the reason is NULL, and "" where a filter left none of a file. What is
# large comes last: the columns before it are read without it.
_COLUMNS = ("source", "stamp", "reason", "atoms", "pairs", "attributes", "tensors")
_DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


@contextmanager
def open_graphs(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a folder's ``graphs.db`` in one thread; keep all that is written or none."""
    path = folder / "graphs.db"
    try:
        with closing(sqlite3.connect(path, timeout=60)) as database, database:
            columns = f"id INTEGER PRIMARY KEY, {', '.join(_COLUMNS)}"
            database.execute(f"CREATE TABLE IF NOT EXISTS graphs ({columns})")
            yield database
    except sqlite3.Error as error:
        text = f"{path}: is damaged, or no data set of graphs ({error}). Delete it."
        raise FileFormatError(text) from error


def insert(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows to the graphs of a folder; what a row lacks is NULL."""
    marks = ", ".join("?" * len(_COLUMNS))
    values = ([row.get(name) for name in _COLUMNS] for row in rows)
    with open_graphs(folder) as database:
        database.executemany(f"INSERT INTO graphs VALUES (NULL, {marks})", values)


def pack(data: Any) -> dict[str, Any]:
    """The columns of a graph, if it is an ``AtomTokenData`` that can be stored."""
    check_type("data", data, AtomTokenData, "only AtomTokenData can be stored.")
    plain, tensors = data.to_dict(), {}
    for key, value in plain.items():
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            what = f"{value.layout}, {value.dtype}".replace("torch.", "")
            fits = what.removeprefix("strided, ") in _DTYPES
            # A copy: safetensors refuses tensors that share memory.
            tensors[key] = value.detach().cpu().clone().contiguous() if fits else value
            plain[key] = None
        else:
            what, fits = f"of type {type(value).__name__}", False
            with suppress(TypeError, ValueError, RecursionError):
                fits = repr(json.loads(json.dumps(value))) == repr(value)
        mend = "make it a dense real tensor, or numbers and text, lists and dicts."
        check(fits, f"'{key}' is {what}, which is not stored: {mend}")
    if "reading_notes" in data.__dict__:
        plain["reading_notes"] = data.__dict__["reading_notes"]
    atoms, pairs = graph_size(data)
    blob = require_package("safetensors.torch", "a data set").save(tensors)
    return dict(atoms=atoms, pairs=pairs, attributes=json.dumps(plain), tensors=blob)


def unpack(attributes: str, blob: bytes) -> AtomTokenData:
    """A graph from its columns."""
    tensors = require_package("safetensors.torch", "a data set").load(blob)
    plain = json.loads(attributes)
    notes = plain.pop("reading_notes", None)
    data = AtomTokenData().update(plain | tensors)
    if notes is not None:
        data.__dict__["reading_notes"] = notes
    if "atom_to_token" in data:
        # Whoever wrote it: no token out of range gets to the layers.
        AtomTokenData(atom_to_token=data.atom_to_token, num_tokens=data.num_tokens)
    return data
