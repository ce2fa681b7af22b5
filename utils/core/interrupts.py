"""Ctrl-C and SIGTERM, handled at the next safe moment instead of in the middle of a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.core.errors import Interrupted


class StopRequest:
    """Signal that asked the script to stop; `signal_number` is 0 until one arrives."""

    def __init__(self) -> None:
        self.signal_number = 0

    def obey(self, message: str) -> None:
        """Raise Interrupted if a signal has arrived.

        Call this where nothing is lost by stopping.

        Args:
            message: what was kept and how to continue.

        Raises:
            Interrupted: a signal has arrived.
        """
        if self.signal_number:
            raise Interrupted(self.signal_number, message)


@contextmanager
def stop_requests(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Record the first SIGINT or SIGTERM within the block instead of acting on it; a second one acts as usual.

    The signal is stored in `request`, which can also be read after the block. In threads other than the main one,
    nothing is recorded, because Python delivers signals to the main thread only.
    """
    request = request or StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, note)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
