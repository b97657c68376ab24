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
        if not self._found:
            return
        what = "; ".join(self.text.split("\n"))
        if strict:
            raise FileFormatError(
                f"{self.file}: {what}. Mend the file, or pass strict=False to read it."
            )
        # As if the line that calls from_structure warned.
        warnings.warn(f"{self.file}: {what}.", stacklevel=3)
