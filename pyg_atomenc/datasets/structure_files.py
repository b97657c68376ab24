"""`StructureFiles`: a folder or a list of structure files."""

import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional, Union

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.io.atom_array import from_atom_array
from pyg_atomenc.io.structure import SUFFIXES, from_structure
from pyg_atomenc.tokenizers.base import Tokenizer

PathLike = Union[str, "os.PathLike[str]"]


class StructureFiles:
    """Structure files, for :class:`~pyg_atomenc.datasets.StructureDataset`.

    Every graph has as ``source`` the file's name: its path below the folder, or of a
    list of files the whole path. With ``model="all"`` every model of a file is a graph,
    and ``source`` is ``"1abc.cif model 1"`` and so on.

    Args:
        files (str, os.PathLike or iterable): A folder, or paths of files.
        pattern (str, optional): Which files of the folder, such as ``"*.cif.gz"``.
            (default: all whose names end as structure files do)
        recursive (bool): Look into folders of the folder, too. (default: ``False``)
        **options: As for :func:`~pyg_atomenc.io.from_structure`: ``model``,
            ``assembly``, ``waters``, ``limits`` and so on.

    Raises:
        ValueError: If there is no such folder, or no such files in it, if a file is
            listed twice, or if an option is unknown.
    """

    def __init__(
        self,
        files: Union[PathLike, Iterable[PathLike]],
        pattern: Optional[str] = None,
        recursive: bool = False,
        **options: Any,
    ) -> None:
        _check_options(options)
        self._reading = options
        if isinstance(files, (str, os.PathLike)):
            self._folder = Path(files).absolute()
            self.names = _find(self._folder, pattern, recursive)
        else:
            if pattern is not None or recursive:
                raise AtomEncodingError(
                    "'pattern' and 'recursive' are for a folder, and 'files' is a list "
                    "of files: pass the folder, or leave them out."
                )
            files = list(files) if isinstance(files, Iterable) else [files]
            for file in files:
                if not isinstance(file, (str, os.PathLike)) or isinstance(files, bytes):
                    raise AtomEncodingError(
                        f"'files' holds {file!r}: pass a folder, or a list of paths."
                    )
            self._folder = Path("/")
            self.names = sorted(Path(file).absolute().as_posix() for file in files)
            twice = [
                a for a, b in zip(self.names, self.names[1:], strict=False) if a == b
            ]
            if twice:
                raise AtomEncodingError(
                    f"'files' lists {twice[0]} twice: list it once."
                )
            if not self.names:
                raise AtomEncodingError("'files' is empty: pass a folder, or files.")

    @property
    def options(self) -> Any:
        """The folder and the options of reading."""
        return {"folder": str(self._folder), **self._reading}

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

    def read(self, index: int, tokenizer: Optional[Tokenizer]) -> list[AtomTokenData]:
        """The graph of a file, or those of all its models."""
        name = self.names[index]
        found = from_structure(self._folder / name, tokenizer, **self._reading)
        if isinstance(found, AtomTokenData):
            found.source = name
            return [found]
        for model, data in enumerate(found, 1):
            data.source = f"{name} model {model}"
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._folder}, {len(self.names)} files)"


def _find(folder: Path, pattern: Optional[str], recursive: bool) -> list[str]:
    if not folder.is_dir():
        raise FileFormatError(
            f"{folder}: is no folder. Pass the folder of your structure files, or a "
            f"list of files."
        )
    glob = folder.rglob if recursive else folder.glob
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in glob(pattern or "*")
        if path.is_file() and (pattern or _is_structure(path.name))
    )
    if not names:
        ends = f"that ends in {', '.join(SUFFIXES)} (with or without .gz)"
        raise FileFormatError(
            f"{folder}: holds no file {pattern or ends}. Check the folder, 'pattern' "
            f"and 'recursive'."
        )
    return names


def _is_structure(name: str) -> bool:
    name = name.lower().removesuffix(".gz")
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _check_options(options: dict[str, Any]) -> None:
    known = set(inspect.signature(from_structure).parameters) - {"path", "tokenizer"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise AtomEncodingError(
            f"'{unknown[0]}' is no option of from_structure: pass some of "
            f"{sorted(known)}."
        )
