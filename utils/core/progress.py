"""Progress bars with the time left for the whole run.

Bars appear on a terminal or in a notebook only, so that a pipe, a log file or nohup holds plain lines.
"""

import time
from collections.abc import Iterable, Sequence
from threading import RLock
from types import TracebackType
from typing import Any

TEN_MINUTES = 600


class TimeLeft:
    """The time left for a whole run, from its latest epoch and what each epoch weighs.

    Args:
        weights: of every epoch of the run, in proportion to the time it takes (larger images weigh more).
        done: epochs that are finished.
        latest: seconds that the last of these took; None where there is none.
    """

    def __init__(self, weights: Sequence[float], done: int = 0, latest: float | None = None) -> None:
        self._weights, self._done = list(weights), done
        self._rate = latest / self._weights[done - 1] if latest and done else None

    def epoch_took(self, seconds: float) -> None:
        """One epoch more is finished."""
        self._rate = seconds / self._weights[self._done]
        self._done += 1

    def seconds(self, share: float = 0.0, elapsed: float = 0.0) -> float | None:
        """Seconds to the end of the last epoch.

        Args:
            share: of the epoch that goes on, 0..1.
            elapsed: seconds that it has taken so far.

        Returns:
            None while nothing is known.
        """
        if self._done == len(self._weights):
            return 0.0
        now, ahead = self._weights[self._done], sum(self._weights[self._done + 1 :])
        if self._rate is not None:
            return max(self._rate * now - elapsed, 0.0) + self._rate * ahead
        if not share:
            return None
        whole = elapsed / share
        return whole - elapsed + whole / now * ahead


def duration(seconds: float) -> str:
    """Such as "45 s", "3 min 20 s", "22 min", "1 h 12 min", "2 d 3 h"."""
    seconds = round(seconds)
    if seconds >= TEN_MINUTES:
        seconds = round(seconds / 60) * 60  # nobody asks for the seconds of a long time
    for large, small, unit, smaller in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= large:
            rest = seconds % large // small
            return f"{seconds // large} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


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
