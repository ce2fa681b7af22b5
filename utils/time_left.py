"""How long a run will still take."""

from collections.abc import Sequence

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
