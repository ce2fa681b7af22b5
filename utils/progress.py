"""Progress bars: on a terminal only, so that a pipe, a log file or nohup holds lines to read."""

from collections.abc import Iterable
from typing import Any


def progress_bar(items: Iterable[Any], title: str, unit: str = "batch") -> Any:
    """A tqdm bar over items with a length; it disappears when it is done."""
    from tqdm import tqdm

    return tqdm(items, desc=title, unit=unit, leave=False, dynamic_ncols=True, disable=None)
