"""What a reader assumed of one file, told once."""

import warnings
from collections import Counter
from pathlib import Path

from pyg_atomenc.errors import FileFormatError


class Notes:
    """What a reader assumed of a file, by kind."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._found: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Keep that something was assumed, for ``count`` atoms or residues."""
        if count:
            self._found[what] += int(count)

    @property
    def text(self) -> str:
        """All that was assumed, one kind a line, with how often; ``""`` for nothing."""
        return "\n".join(f"{what}: {n}" for what, n in self._found.items())

    def tell(self, strict: bool) -> None:
        """Warn of all together, or raise a ValueError that holds them."""
        told = f"{self.file}: {self.text}.".replace("\n", "; ")
        if self._found and strict:
            raise FileFormatError(f"{told} Mend it, or pass strict=False to read it.")
        if self._found:
            # As if the line that calls from_structure warned.
            warnings.warn(told, stacklevel=3)
