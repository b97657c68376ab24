"""Bytes of a text file → its text."""

import re

from pyg_atomenc.errors import AtomEncodingError

# Python breaks lines at these, other readers do not; NUL ends a NumPy string.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")


def decode(content: bytes) -> str:
    r"""The text of a structure file, with ``\n`` as line ends.

    Raises:
        ValueError: If it is no UTF-8, holds control characters, or one line so long
            that a table of it would fill the memory.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AtomEncodingError(f"it is no UTF-8 text: {error}") from error
    if "\r" in text:
        text = re.sub("\r\n?", "\n", text)
    found = _CONTROL.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise AtomEncodingError(f"it has the character {found[0]!r} in line {line}")
    # NumPy makes all texts of a column as wide as the longest of them.
    lines = text.split("\n")
    longest = max(map(len, lines))
    if longest * len(lines) > max(2**28, 200 * len(text)):
        raise AtomEncodingError(f"it has a line of {longest:,} characters")
    return text
