"""`Job`: one file or row → its records."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from pyg_atomenc.data import AtomTokenData, graph_size
from pyg_atomenc.datasets.record import to_bytes
from pyg_atomenc.datasets.shard import ShardWriter
from pyg_atomenc.datasets.source import Source
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Job:
    """What is done to every file or row, in whatever process.

    Args:
        source (Source): Reads it.
        tokenizer (callable, optional): As for the readers.
        pre_filter (callable, optional): Whether a graph is kept.
        pre_transform (callable, optional): What is done to a graph before it is stored.
    """

    source: Source
    tokenizer: Optional[Tokenizer]
    pre_filter: Optional[Callable[[AtomTokenData], bool]]
    pre_transform: Optional[Callable[[AtomTokenData], AtomTokenData]]

    def write(self, index: int, writer: ShardWriter) -> str:
        """Read an item, and write its graphs, or why there are none.

        Returns:
            str: Why it was skipped, else ``""``.

        Raises:
            ImportError: If an optional package is missing: that is no file's fault.
        """
        # Before reading: a file that changes meanwhile is read again the next time.
        stamp = self.source.stamp(index)
        graphs: list[Any] = []
        reason = ""
        try:
            graphs = [self._record(data) for data in self._graphs(index)]
        except ImportError:
            raise
        except Exception as error:
            reason = reason_of(error)
        writer.add(self.source.names[index], stamp, reason, graphs)
        return reason

    def _graphs(self, index: int) -> list[AtomTokenData]:
        graphs = self.source.read(index, self.tokenizer)
        if self.pre_filter is not None:
            graphs = [data for data in graphs if self.pre_filter(data)]
        if self.pre_transform is not None:
            graphs = [self.pre_transform(data) for data in graphs]
        return graphs

    def _record(self, data: Any) -> tuple[bytes, tuple[int, int, int]]:
        if not isinstance(data, AtomTokenData):
            raise AtomEncodingError(
                f"'pre_transform' gave a {type(data).__name__}: only AtomTokenData is "
                f"stored; turn it into other types at access, with 'transform'."
            )
        atoms, pairs = graph_size(data)
        return to_bytes(data), (atoms, data.total_num_tokens, pairs)


def reason_of(error: BaseException) -> str:
    """What an exception says, in one line, with its type unless it is a ValueError."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
