"""`file_lock`: one process at a time."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait until no other process is inside; the lock of a dead one is free.

    Where the platform or the file system has no ``flock``, nobody waits.

    Args:
        path (Path): A file for this alone; it is made, and stays.
    """
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        yield
        return
    with open(path, "w") as file:
        # Some network file systems have no locks, and say so.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
