"""Cross-fitting: score each part of the images with what was fitted on the other parts."""

from dataclasses import dataclass

PARTS_OF_ONE_FILE = 5


@dataclass(frozen=True)
class CrossFitted:
    """The score when no image has a say in its own threshold."""

    score: float
    """0..1."""
    low: float
    """95 % bootstrap interval over images ..."""
    high: float
    """... of the score."""
    n_parts: int
    """files, or parts of the one file."""


def cross_fitted_line(cross: CrossFitted | None, n_files: int) -> str:
    """The last row of the table."""
    if cross is None:
        return "cross-fitted     not with one image"
    parts = "files" if n_files > 1 else "interleaved parts of the one file"
    interval = f"95 % interval {cross.low:.5f} to {cross.high:.5f}"
    return f"cross-fitted     {cross.score:.5f}   ({interval}; {cross.n_parts} {parts}) <- believe this"
