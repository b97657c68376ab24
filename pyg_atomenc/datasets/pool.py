"""Several processes that read files, and what to do when one of them dies."""

import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Optional

from pyg_atomenc.datasets.job import Job
from pyg_atomenc.datasets.shard import ShardWriter
from pyg_atomenc.datasets.worker import NOTHING, work
from pyg_atomenc.errors import AtomEncodingError

_LONGEST_TASK = 64
# Seconds to finish the present file when the run ends early.
_PATIENCE = 10.0


class _Worker:
    def __init__(self, context: Any, job: Job, folder: Path, save_every: float) -> None:
        self.connection, other = context.Pipe()
        self.current = context.RawValue("q", NOTHING)
        self.stop = context.RawValue("b", 0)
        self.unsaved: dict[int, None] = {}
        self.is_idle = False
        ends = (other, self.connection)
        self.process = context.Process(
            target=work,
            args=(job, folder, *ends, self.current, self.stop, save_every),
            daemon=True,
        )
        self.process.start()
        # So that the death of the process ends the connection.
        other.close()

    def send(self, items: Optional[list[int]]) -> None:
        self.is_idle = False
        self.unsaved.update(dict.fromkeys(items or []))
        try:
            self.connection.send(items)
        except OSError:
            # It is dead; its connection is read to the end, and then it is buried.
            pass


class Pool:
    """Reads items in processes that write what they read, and send none of it.

    A process that dies takes with it what it had not saved, which is read again. The
    item at which it was is tried once more, after all others; if a process dies of it
    again, it is skipped with that as reason.

    Args:
        job (Job): What to do.
        folder (Path): Where the shards go.
        num_workers (int): How many processes.
        method (str, optional): How they start. (default: the platform's way)
        save_every (float): Seconds between savings. (default: ``5.0``)

    Raises:
        ValueError: If the platform has no such method, or the job cannot be sent to
            the processes.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        num_workers: int,
        method: Optional[str] = None,
        save_every: float = 5.0,
    ) -> None:
        methods = multiprocessing.get_all_start_methods()
        if method is not None and method not in methods:
            raise AtomEncodingError(
                f"'multiprocessing_context' is {method!r}: pass one of {methods}."
            )
        self._context = multiprocessing.get_context(method)
        if self._context.get_start_method() != "fork":
            _check_sendable(job)
        elif hasattr(job.source, "warm_up"):
            job.source.warm_up()
        self._arguments = (self._context, job, folder, save_every)
        self._num_workers = num_workers
        self._job, self._folder = job, folder
        self._workers: list[_Worker] = []
        self._queue: deque[int] = deque()
        self._suspects: deque[int] = deque()
        self._died_at: set[int] = set()

    def run(
        self,
        items: Iterable[int],
        on_read: Callable[[int], Any],
        on_skip: Callable[[int, str], Any],
    ) -> None:
        """Read all items.

        Args:
            items (iterable): Their indices.
            on_read (callable): Called with how many more were read.
            on_skip (callable): Called with the index and the reason. What it raises
                ends the run; what was read till then is saved.
        """
        self._queue.extend(items)
        self._on_read, self._on_skip = on_read, on_skip
        try:
            while self._fill():
                ready = wait([worker.connection for worker in self._workers])
                for worker in [w for w in self._workers if w.connection in ready]:
                    self._listen(worker)
        finally:
            self._end()

    def _fill(self) -> int:
        """Start and feed processes; gives how many there are."""
        open_items = len(self._queue) + len(self._suspects)
        while len(self._workers) < min(self._num_workers, open_items):
            worker = _Worker(*self._arguments)
            self._workers.append(worker)
            worker.send(self._task())
            open_items = len(self._queue) + len(self._suspects)
        for worker in self._workers:
            if worker.is_idle and (self._queue or self._suspects):
                worker.send(self._task())
        if all(worker.is_idle for worker in self._workers):
            for worker in self._workers:
                worker.send(None)
        return len(self._workers)

    def _task(self) -> list[int]:
        """Long tasks at first, short ones at last, so that all end together."""
        if not self._queue:
            return [self._suspects.popleft()]
        length = len(self._queue) // (4 * self._num_workers)
        length = max(1, min(length, _LONGEST_TASK))
        return [self._queue.popleft() for _ in range(length)]

    def _listen(self, worker: _Worker) -> None:
        try:
            while worker.connection.poll():
                kind, value = worker.connection.recv()
                self._hear(worker, kind, value)
        except (EOFError, OSError):
            self._bury(worker)

    def _hear(self, worker: _Worker, kind: str, value: Any) -> None:
        if kind == "read":
            self._on_read(value)
        elif kind == "saved":
            for index in value:
                worker.unsaved.pop(index, None)
        elif kind == "next":
            worker.is_idle = True
        elif kind == "failed":
            self._on_skip(*value)
        else:
            raise value

    def _bury(self, worker: _Worker) -> None:
        worker.connection.close()
        worker.process.join()
        self._workers.remove(worker)
        lost = worker.unsaved
        if not lost and worker.process.exitcode == 0:
            return
        index = worker.current.value
        how = _how_it_ended(worker.process.exitcode)
        if index not in lost:
            raise AtomEncodingError(
                f"a process that reads files {how} before it read one: see above for "
                f"its own message. A script that starts processes by 'spawn' must do "
                f"so below if __name__ == '__main__':."
            )
        del lost[index]
        self._queue.extendleft(reversed(list(lost)))
        if index in self._died_at:
            self._skip(index, f"the process that read it {how}, twice")
        else:
            self._died_at.add(index)
            self._suspects.append(index)

    def _skip(self, index: int, reason: str) -> None:
        source = self._job.source
        reason = f"{source.names[index]}: {reason}. Read it alone to see why."
        writer = ShardWriter(self._folder)
        writer.add(source.names[index], source.stamp(index), reason)
        writer.close()
        self._on_read(1)
        self._on_skip(index, reason)

    def _end(self) -> None:
        for worker in self._workers:
            worker.stop.value = 1
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()


def _how_it_ended(exitcode: Optional[int]) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"ended with exit code {exitcode}"


def _check_sendable(job: Job) -> None:
    for name, value in vars(job).items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise AtomEncodingError(
                f"'{name}' cannot be sent to another process ({error}): define it at "
                f"the top of a module, pass num_workers=0, or where the platform has "
                f"it multiprocessing_context='fork'."
            ) from error
