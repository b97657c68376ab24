"""What a reader assumed of one file, told once, and what it may hold."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Optional

from pyg_atomenc.errors import FileFormatError
from pyg_atomenc.io.limits import Limits


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
        told = f"{self.file}: {self.text}.".replace("\n", "; ")
        if self._found and strict:
            raise FileFormatError(f"{told} Mend it, or pass strict=False to read it.")
        if self._found:
            # As if the line that calls from_structure warned.
            warnings.warn(told, stacklevel=3)
