"""What a file may cost: bytes, bytes when unpacked, atoms."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyg_atomenc.errors import AtomEncodingError, FileFormatError


@dataclass(frozen=True)
class Limits:
    """The most that a structure file may hold before it is refused.

    Args:
        file_bytes (int): Of the file. (default: 1 GiB)
        unpacked_bytes (int): Of what a gzip file unpacks to. (default: 4 GiB)
        atoms (int): Of all models together, and of an assembly. (default: 10 million)

    Raises:
        ValueError: If a limit is no positive integer.
    """

    file_bytes: int = 2**30
    unpacked_bytes: int = 2**32
    atoms: int = 10_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise AtomEncodingError(
                    f"'{name}' is {value!r}: pass the limit as a positive integer."
                )

    def check_atoms(self, file: Path, count: int) -> None:
        """Raise a ValueError if a file holds more than ``atoms``."""
        if count > self.atoms:
            raise FileFormatError(
                f"{file}: holds {count:,} atoms, and the limit is {self.atoms:,}. Pass "
                f"limits=Limits(atoms=...) if you trust the file."
            )


def read_bytes(file: Path, limits: Limits) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: If it cannot be read, is empty, damaged, or over a limit.
    """
    try:
        size = file.stat().st_size
        if size > limits.file_bytes:
            raise FileFormatError(
                f"{file}: has {size:,} bytes, and the limit is {limits.file_bytes:,}. "
                f"Pass limits=Limits(file_bytes=...) if you trust the file."
            )
        if file.suffix.lower() == ".gz":
            with gzip.open(file) as stream:
                content = stream.read(limits.unpacked_bytes + 1)
        else:
            content = file.read_bytes()
    except FileNotFoundError:
        raise FileFormatError(f"{file}: does not exist. Check the path.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(
            f"{file}: is no complete gzip file ({error}). Fetch it anew, or drop '.gz' "
            f"from its name if it is not compressed."
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise FileFormatError(
            f"{file}: cannot be read ({reason}). Check the path and its permissions."
        ) from error
    if len(content) > limits.unpacked_bytes:
        raise FileFormatError(
            f"{file}: unpacks to more than {limits.unpacked_bytes:,} bytes, which is "
            f"the limit. Pass limits=Limits(unpacked_bytes=...) if you trust the file."
        )
    if not content.strip():
        raise FileFormatError(f"{file}: is empty. Fetch it anew.")
    return content


def check_encoded_sizes(content: Any, limit: int) -> None:
    """Raise a ValueError if BinaryCIF announces arrays of more than ``limit`` rows."""
    stack = [content]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for key in ("srcSize", "rowCount"):
                size = item.get(key, 0)
                if not isinstance(size, int) or not 0 <= size <= limit:
                    raise AtomEncodingError(f"{key} is {size!r}")
            if item.get("kind") == "RunLength" and "srcSize" not in item:
                raise AtomEncodingError("a run-length encoding without srcSize")
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
