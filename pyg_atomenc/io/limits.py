"""A file → its bytes or text, within limits: bytes, bytes when unpacked, atoms."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from pyg_atomenc.checks import check_integer
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
        for name, value in vars(self).items():
            check_integer(name, value)

    def check_atoms(self, file: Path, count: int) -> None:
        """Raise a ValueError if a file holds more than ``atoms``."""
        if count > self.atoms:
            raise FileFormatError(
                f"{file}: holds more than {self.atoms:,} atoms, which is the limit. "
                f"Pass limits=Limits(atoms=...) if you trust the file."
            )


def read_bytes(file: Path, limits: Limits) -> bytes:
    """The content of a file, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: If it cannot be read, is empty, damaged, or over a limit.
    """
    try:
        size = file.stat().st_size
        if not file.is_file() and not file.is_dir():
            raise ValueError("it is no regular file")
        if size > limits.file_bytes:
            raise FileFormatError(
                f"{file}: has {size:,} bytes, and the limit is {limits.file_bytes:,}. "
                f"Pass limits=Limits(file_bytes=...) if you trust the file."
            )
        if file.suffix.lower() == ".gz":
            most = min(limits.unpacked_bytes, max(2**26, limits.unpacked_ratio * size))
            with gzip.open(file) as stream:
                content = stream.read(most + 1)
        else:
            content = file.read_bytes()
    except FileFormatError:
        raise
    except FileNotFoundError:
        raise FileFormatError(f"{file}: does not exist. Check the path.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(
            f"{file}: is no complete gzip file ({error}). Fetch it anew, or drop '.gz' "
            f"from its name if it is not compressed."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileFormatError(
            f"{file}: cannot be read ({reason}). Check the path and its permissions."
        ) from error
    if file.suffix.lower() == ".gz" and len(content) > most:
        name = "bytes" if most == limits.unpacked_bytes else "ratio"
        raise FileFormatError(
            f"{file}: unpacks to more than {most:,} bytes, which is the limit. Pass "
            f"limits=Limits(unpacked_{name}=...) if you trust the file."
        )
    if not content or content.isspace():
        raise FileFormatError(f"{file}: is empty. Fetch it anew.")
    return content


def check_text(content: bytes) -> bytes:
    r"""A text file with ``\n`` as line ends, and no mark at its start.

    Raises:
        ValueError: If it holds control characters, as no text does.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if len(content.translate(None, _CONTROL)) < len(content):
        place = next(i for i, byte in enumerate(content) if byte in _CONTROL)
        line = content.count(b"\n", 0, place) + 1
        raise AtomEncodingError(f"it has the byte {content[place]} in line {line}")
    return content
