"""Work divided among processes or threads, one for each core."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from utils.core.errors import UserError

A, B = TypeVar("A"), TypeVar("B")


class ProcessEnded(UserError):
    """A process was ended from outside, so its work is not done."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
    """Yield the result of every job in order; with a single job or core, no process is started.

    Args:
        function: a function of a module, because its name is sent to the processes.
        jobs: its arguments, which are sent as well.

    Raises:
        ProcessEnded: a process was ended from outside.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    count = min(cores(), len(jobs))
    if count < 2:
        yield from map(function, jobs)
        return
    pool = ProcessPoolExecutor(count, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield from pool.map(function, jobs)
    except BrokenProcessPool:
        raise ProcessEnded(
            "a process was ended from outside, perhaps because memory ran out; run the same command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def in_threads(function: Callable[[A], B], jobs: Sequence[A]) -> list[B]:
    """Return the result of every job, in order; for work in C that leaves Python to other threads, such as decoding."""
    from concurrent.futures import ThreadPoolExecutor

    count = min(cores(), len(jobs))
    if count < 2:
        return list(map(function, jobs))
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, jobs))


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed; otherwise it would wait for work forever.

    Ctrl-C goes to all processes; the parent alone answers it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
