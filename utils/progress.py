"""Progress bars: on a terminal or in a notebook only, so that a pipe, a log file or nohup holds lines to read."""

import time
from collections.abc import Iterable
from threading import RLock
from types import TracebackType
from typing import Any

from utils.time_left import TimeLeft, duration


def progress_bar(
    items: Iterable[Any] | None, title: str, unit: str = "batch", total: int | None = None, hidden: bool = False
) -> Any:
    """A tqdm bar over items, `total` of them if they have no length; it disappears when it is done."""
    from tqdm.auto import tqdm
    from tqdm.autonotebook import tqdm as kind
    from tqdm.std import tqdm as of_terminal

    of_terminal.set_lock(RLock())  # its own lock is a semaphore that a kill -9 would leave behind
    in_notebook = kind is not of_terminal
    disabled = hidden or (False if in_notebook else None)  # None: unless on a terminal
    return tqdm(items, desc=title, unit=unit, total=total, leave=False, dynamic_ncols=True, disable=disabled)


class EpochBar:
    """The bar of one epoch: images a second, the mean loss so far, and the time left for the whole run.

    Args:
        title: such as "epoch 3/50".
        n_images: that the epoch will see.
        left: what knows the epochs before; None for an epoch that stands alone.
        hidden: show nothing at all.
    """

    def __init__(self, title: str, n_images: int, left: TimeLeft | None = None, hidden: bool = False) -> None:
        self.title, self._left, self._n_images, self._seen = title, left, n_images, 0
        self._began = time.perf_counter()
        self._bar = progress_bar(None, title, " images", n_images, hidden)

    def add(self, n_images: int, loss: float | None = None) -> None:
        """So many images more; `loss` where it has been looked at."""
        self._seen += n_images
        if loss is not None:
            self._bar.set_postfix_str(", ".join([f"loss {loss:.4f}", *self._time_left()]), refresh=False)
        self._bar.update(n_images)

    def _time_left(self) -> list[str]:
        if self._left is None:
            return []
        seconds = self._left.seconds(self._seen / self._n_images, time.perf_counter() - self._began)
        return [] if seconds is None else [f"run {duration(seconds)} left"]

    def __enter__(self) -> "EpochBar":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._bar.close()
