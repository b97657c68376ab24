"""A file → its bytes or text, within limits, and what a reader assumed of it."""

import gzip
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from pyg_atomenc.checks import check, check_file, check_sizes
from pyg_atomenc.errors import AtomEncodingError, FileFormatError

# What no text holds: all control characters but tabs and line breaks.
_CONTROL = bytes(byte for byte in (*range(32), 127) if byte not in b"\t\n\r")


@dataclass(frozen=True)
class Limits:
    """The most that a structure file may hold before it is refused.

    Args:
        file_bytes (int): Of the file. (default: 1 GiB)
        unpacked_bytes (int): Of what a gzip file unpacks to. (default: 4 GiB)
        unpacked_ratio (int): How many times its size a gzip file unpacks to, above 64
            MiB; structures have less than 20. (default: 50)
        atoms (int): Of all models together, and of an assembly. (default: 10 million)

    Raises:
        ValueError: If a limit is no positive integer.
    """

    file_bytes: int = 2**30
    unpacked_bytes: int = 2**32
    unpacked_ratio: int = 50
    atoms: int = 10_000_000

    def __post_init__(self) -> None:
        check_sizes(**vars(self))

    def check(self, file: Path, name: str, count: int) -> None:
        """Raise a ValueError if a file holds more of what a limit counts."""
        most = getattr(self, name)
        what = name.replace("_", " ").replace("ratio", "bytes for each of its own")
        mend = f"which is the limit. Pass limits=Limits({name}=...) if you trust it."
        check_file(file, count <= most, f"holds more than {most:,} {what}, {mend}")


class Notes:
    """What a reader assumed of a file, by kind, and what the file may hold."""

    def __init__(self, file: Path, limits: Optional[Limits] = None) -> None:
        self.file, self.limits = file, limits or Limits()
        self._found: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Keep that something was assumed, for ``count`` atoms or residues."""
        if count:
            self._found[what] += int(count)

    def check_atoms(self, count: int) -> None:
        """Raise a ValueError if the file holds more atoms than it may."""
        self.limits.check(self.file, "atoms", count)

    @property
    def text(self) -> str:
        """All that was assumed, one kind a line, with how often; ``""`` for nothing."""
        return "\n".join(f"{what}: {n}" for what, n in self._found.items())

    def tell(self, strict: bool) -> None:
        """Warn of all together, or raise a ValueError that holds them."""
        told = f"{self.text}.".replace("\n", "; ")
        mend = "Mend it, or pass strict=False to read it."
        check_file(self.file, not (self._found and strict), f"{told} {mend}")
        if self._found:
            # As if the line that calls from_structure warned.
            warnings.warn(f"{self.file}: {told}", stacklevel=3)


def read_bytes(file: Path, limits: Limits) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz``, or a ValueError."""
    packed = file.suffix.lower() == ".gz"
    try:
        size = file.stat().st_size
        check(file.is_file(), "it is no regular file")
        limits.check(file, "file_bytes", size)
        most = min(limits.unpacked_bytes, max(2**26, limits.unpacked_ratio * size))
        with gzip.open(file) if packed else file.open("rb") as stream:
            content = stream.read(most + 1 if packed else -1)
    except FileFormatError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        mend = f"is no complete gzip file ({error}). Fetch or rename it."
        raise FileFormatError(f"{file}: {mend}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        mend = f"cannot be read ({reason}). Check the path and its permissions."
        raise FileFormatError(f"{file}: does not exist or {mend}") from error
    if packed:
        limits.check(file, "unpacked_bytes", len(content))
        if len(content) > 2**26:
            limits.check(file, "unpacked_ratio", -(-len(content) // size))
    check_file(file, content and not content.isspace(), "is empty. Fetch it anew.")
    return content


def check_text(content: bytes) -> bytes:
    r"""A text file with ``\n`` as line ends and no mark, or a ValueError."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if len(content.translate(None, _CONTROL)) < len(content):
        place = next(i for i, byte in enumerate(content) if byte in _CONTROL)
        line = content.count(b"\n", 0, place) + 1
        raise AtomEncodingError(f"it has the byte {content[place]} in line {line}")
    return content
