"""Progress bars: on a terminal only, so that a pipe, a log file or nohup holds lines to read."""

from collections.abc import Iterable
from threading import RLock
from typing import Any


def progress_bar(
    items: Iterable[Any], title: str, unit: str = "batch", total: int | None = None, hidden: bool = False
) -> Any:
    """A tqdm bar over items, `total` of them if they have no length; it disappears when it is done."""
    from tqdm import tqdm

    tqdm.set_lock(RLock())  # its own lock is a semaphore that a kill -9 would leave behind
    shown = True if hidden else None  # None: on a terminal
    return tqdm(items, desc=title, unit=unit, total=total, leave=False, dynamic_ncols=True, disable=shown)
