"""A process that reads files and writes shards."""

import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from pyg_atomenc.datasets.job import Job
from pyg_atomenc.datasets.shard import ShardWriter

# What a shard holds at most, and how often a process says how far it is.
_SHARD_BYTES = 2**26
_TELL_SECONDS = 0.1
# The value of `current` before the first item.
NOTHING = -1


class Saver:
    """Runs a job item by item, and closes its shard every so often.

    Args:
        job (Job): What to do.
        folder (Path): Where the shards go.
        save_every (float): How many seconds of work a shard holds at most.
    """

    def __init__(self, job: Job, folder: Path, save_every: float) -> None:
        self.job, self.folder, self.save_every = job, folder, save_every
        self._open()

    def _open(self) -> None:
        self.writer = ShardWriter(self.folder)
        self.unsaved: list[int] = []
        self._begin = time.monotonic()

    def run(self, index: int) -> str:
        """Do one item; gives the reason why it was skipped, or ``""``."""
        reason = self.job.write(index, self.writer)
        self.unsaved.append(index)
        return reason

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        late = time.monotonic() - self._begin > self.save_every
        return late or self.writer.length > _SHARD_BYTES

    def save(self) -> list[int]:
        """Close the shard; gives the items that are safe by now."""
        self.writer.close()
        saved = self.unsaved
        self._open()
        return saved


class _ParentIsGone(Exception):
    pass


def work(
    job: Job,
    folder: Path,
    connection: Connection,
    other_end: Connection,
    current: Any,
    stop: Any,
    save_every: float,
) -> None:
    """What a process does: takes lists of items until it gets ``None``.

    It sends ``("read", count)``, ``("failed", (index, reason))``, ``("saved", items)``,
    ``("next", None)`` when it has no more to do, and ``("fatal", error)``.

    Args:
        job (Job): What to do.
        folder (Path): Where the shards go.
        connection (Connection): To the process that started this one.
        other_end (Connection): The end of that process, open here where it forked.
        current (Value): Tells, even when this process dies, at which item it was.
        stop (Value): Set from outside to end it after the present item.
        save_every (float): Seconds between savings.
    """
    # Ctrl-C reaches all processes; the first one ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As long as it is open here, nobody learns that the first process is gone.
    other_end.close()
    torch.set_num_threads(1)
    saver = Saver(job, folder, save_every)
    try:
        _take_items(saver, connection, current, stop)
        _tell(connection, "saved", saver.save())
    except _ParentIsGone:
        saver.save()
    except Exception as error:
        saver.writer.discard()
        with suppress(_ParentIsGone):
            _tell(connection, "fatal", error)
    connection.close()


def _take_items(saver: Saver, connection: Connection, current: Any, stop: Any) -> None:
    told = time.monotonic()
    count = 0
    while (items := _next(connection)) is not None:
        for index in items:
            if stop.value:
                return
            current.value = index
            reason = saver.run(index)
            count += 1
            if reason:
                _tell(connection, "failed", (index, reason))
            if saver.is_due:
                _tell(connection, "saved", saver.save())
            if time.monotonic() - told > _TELL_SECONDS:
                _tell(connection, "read", count)
                told, count = time.monotonic(), 0
        _tell(connection, "read", count)
        _tell(connection, "next", None)
        told, count = time.monotonic(), 0


def _next(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError):
        raise _ParentIsGone from None


def _tell(connection: Connection, kind: str, value: Any) -> None:
    try:
        connection.send((kind, value))
    except OSError:
        raise _ParentIsGone from None
    except Exception:
        # An error that cannot be sent as it is, is sent as text.
        connection.send((kind, RuntimeError(f"{type(value).__name__}: {value}")))
