"""Progress bars that show the time left for the entire run.

Bars appear only on a terminal or in a notebook, so that the output in a pipe, a log file or nohup is plain lines.
"""

import time
from collections.abc import Iterable, Sequence
from threading import RLock
from types import TracebackType
from typing import Any

TEN_MINUTES = 600


class TimeLeft:
    """Estimate of the time left in a run, from the duration of the latest epoch and the weight of each epoch.

    Args:
        weights: weight of every epoch of the run, proportional to its expected duration (larger images weigh more).
        done: number of finished epochs.
        latest: duration of the last finished epoch in seconds; None if unknown.
    """

    def __init__(self, weights: Sequence[float], done: int = 0, latest: float | None = None) -> None:
        self._weights, self._done = list(weights), done
        self._rate = latest / self._weights[done - 1] if latest and done else None

    def epoch_finished(self, seconds: float) -> None:
        """Record that another epoch has finished, and its duration in seconds."""
        self._rate = seconds / self._weights[self._done]
        self._done += 1

    def seconds(self, share: float = 0.0, elapsed: float = 0.0) -> float | None:
        """Return the estimated seconds until the end of the last epoch.

        Args:
            share: finished share of the current epoch, 0..1.
            elapsed: seconds since the start of the current epoch.

        Returns:
            None if there is nothing to base an estimate on yet.
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
    """Format a duration as "45 s", "3 min 20 s", "22 min", "1 h 12 min" or "2 d 3 h"."""
    seconds = round(seconds)
    if seconds >= TEN_MINUTES:
        seconds = round(seconds / 60) * 60  # seconds do not matter in a long duration
    for large, small, unit, smaller in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= large:
            rest = seconds % large // small
            return f"{seconds // large} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


def progress_bar(
    items: Iterable[Any] | None, title: str, unit: str = "batch", total: int | None = None, hidden: bool = False
) -> Any:
    """Return a tqdm bar over `items` that disappears when it is done.

    Args:
        items: what to iterate over; None for a bar that is updated by hand.
        title: text in front of the bar.
        unit: name of one item.
        total: number of items, needed if they have no length.
        hidden: show nothing.
    """
    from tqdm.auto import tqdm
    from tqdm.autonotebook import tqdm as autonotebook_tqdm
    from tqdm.std import tqdm as terminal_tqdm

    terminal_tqdm.set_lock(RLock())  # tqdm's default lock is a semaphore, which a kill -9 would leave behind
    in_notebook = autonotebook_tqdm is not terminal_tqdm
    disabled = hidden or (False if in_notebook else None)  # None: tqdm shows the bar only on a terminal
    return tqdm(items, desc=title, unit=unit, total=total, leave=False, dynamic_ncols=True, disable=disabled)


class EpochBar:
    """Progress bar of one epoch: images per second, the mean loss so far, and the time left for the entire run.

    Args:
        title: text in front of the bar, such as "epoch 3/50".
        n_images: number of images in the epoch.
        left: estimate of the time left in the run; None shows no such time.
        hidden: show nothing.
    """

    def __init__(self, title: str, n_images: int, left: TimeLeft | None = None, hidden: bool = False) -> None:
        self.title, self._left, self._n_images, self._seen = title, left, n_images, 0
        self._started = time.perf_counter()
        self._bar = progress_bar(None, title, " images", n_images, hidden)

    def add(self, n_images: int, loss: float | None = None) -> None:
        """Advance the bar by `n_images`, and show `loss` if it is given."""
        self._seen += n_images
        if loss is not None:
            self._bar.set_postfix_str(", ".join([f"loss {loss:.4f}", *self._time_left()]), refresh=False)
        self._bar.update(n_images)

    def _time_left(self) -> list[str]:
        if self._left is None:
            return []
        seconds = self._left.seconds(self._seen / self._n_images, time.perf_counter() - self._started)
        return [] if seconds is None else [f"run {duration(seconds)} left"]

    def __enter__(self) -> "EpochBar":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._bar.close()
