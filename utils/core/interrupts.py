"""Ctrl-C and SIGTERM, obeyed at the next safe moment instead of in the middle of a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.core.errors import Interrupted


class StopRequest:
    """Remembers the signal that asked to stop."""

    def __init__(self) -> None:
        self.signal_number = 0

    def obey(self, message: str) -> None:
        """Called where stopping loses nothing; `message` says how to go on.

        Raises:
            Interrupted: a signal has come since.
        """
        if self.signal_number:
            raise Interrupted(self.signal_number, message)


@contextmanager
def stop_requests(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Within the block the first SIGINT or SIGTERM is only noted; a second one acts as it does elsewhere.

    It is noted in `request`, which whoever goes on after the block may look at. In another thread than the main one,
    which no signal reaches, nothing is ever noted.
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
