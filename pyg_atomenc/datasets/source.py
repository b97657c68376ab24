"""`Source`: what a data set is made of."""

from collections.abc import Sequence
from typing import Any, Optional, Protocol

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.tokenizers.base import Tokenizer


class Source(Protocol):
    """Files or rows, each of which gives one graph or several.

    A source of one's own has these members, and is sent to the processes that read. The
    names are unique, and give the order of the data set. It may also have a method
    ``warm_up()``, called once before processes are forked, for what they can share.
    """

    @property
    def names(self) -> Sequence[str]:
        """What each item is called in the report, and in the graph's ``source``."""
        ...

    @property
    def options(self) -> Any:
        """All that changes what is read, but the content: see :func:`describe`."""
        ...

    def stamp(self, index: int) -> str:
        """What changes when the content of an item changes."""
        ...

    def read(self, index: int, tokenizer: Optional[Tokenizer]) -> list[AtomTokenData]:
        """Read an item; a ValueError or any other exception says why it cannot be."""
        ...
