"""Which validation images are worth a look: the worst, the median, the best, the unsure and the wrongly empty ones."""

from collections.abc import Sequence

import numpy as np

from utils.report.counted import Counted
from utils.report.facts import GalleryRow

N_ROWS = 6
TITLES = ("Worst", "Median", "Best", "Most uncertain", "Wrongly empty", "Wrongly filled")


def galleries(ids: Sequence[str], tenths: np.ndarray, counted: Counted) -> dict[str, list[GalleryRow]]:
    """At most N_ROWS images for each of TITLES; of some titles there may be none.

    Worst, median and best are among the images with anything in truth or prediction, by score, then IoU, then wrong
    pixels. The unsure ones have the greatest `Counted.uncertain`; wrongly empty and wrongly filled ones the largest
    mask where there should be another answer.

    Args:
        ids: N names.
        tenths: (N,) int64, 0..10: scores at the threshold.
        counted: of the same images at the same threshold.
    """
    ours, theirs, ious, wrong = counted.ours, counted.theirs, counted.ious, counted.wrong
    order = np.lexsort((-wrong, ious, tenths))  # from the worst to the best, equal ones as in the file
    order = order[(ours + theirs)[order] > 0]
    middle = max(0, (len(order) - N_ROWS + 1) // 2)
    missed = np.flatnonzero((theirs > 0) & (ours == 0))
    invented = np.flatnonzero((theirs == 0) & (ours > 0))
    chosen = {
        "Worst": order,
        "Median": order[middle:],
        "Best": order[::-1],
        "Most uncertain": np.argsort(-counted.uncertain, kind="stable"),
        "Wrongly empty": missed[np.argsort(-theirs[missed], kind="stable")],
        "Wrongly filled": invented[np.argsort(-ours[invented], kind="stable")],
    }

    def row_of(row: int, title: str) -> GalleryRow:
        return GalleryRow(row, ids[row], int(tenths[row]) / 10, float(ious[row]), _note(row, title, counted))

    return {title: [row_of(row, title) for row in chosen[title][:N_ROWS].tolist()] for title in TITLES}


def _note(row: int, title: str, counted: Counted) -> str:
    """A few words: what the truth covers, and what is wrong with the answer."""
    covered, found = counted.coverage[row], counted.ours[row] / counted.n_pixels
    truth = f"truth covers {covered:.1%}" if covered else "truth is empty"
    if title == "Most uncertain":
        return f"{truth}, p(1 - p) is {counted.uncertain[row]:.3f} on average"
    prediction = f"prediction {found:.1%}" if found else "prediction is empty"
    return f"{truth}, {prediction}, {counted.wrong[row]:,} pixels wrong"
