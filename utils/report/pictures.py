"""Galleries as small pictures embedded in the page: image | truth | probability | overlay, limited by total size."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.masks.drawing import as_rgb, outlined
from utils.masks.mask_file import binarize
from utils.report.facts import GalleryRow, Judged, RunFacts

BUDGET = 8_500_000
"""Limit for the pictures of all runs in bytes; leaves room for the rest of 200 runs in a page below 20 MB."""
WIDEST = 160
"""Longest side of a picture in pixels; larger pictures are shrunk to it."""
PANELS = ("image", "truth", "probability", "overlay")


@dataclass(frozen=True)
class Strip:
    """The drawn panels of one image in a gallery."""

    row: GalleryRow
    panels: tuple[str, ...]
    """A data URI for each of PANELS."""
    size: tuple[int, int]
    """(width, height) of each panel in pixels."""


@dataclass
class Pictures:
    """Drawn galleries; the strips of a run are kept until its masks are scored again."""

    budget: int = BUDGET
    drawn: dict[Path, tuple[Judged, dict[int, Strip]]] = field(default_factory=dict)
    """Folder of a run -> (the result that was drawn, row of the mask file -> strip)."""

    def galleries(self, runs: Sequence[RunFacts]) -> dict[Path, dict[str, list[Strip]]]:
        """Return folder of the run -> title -> strips, for the runs whose masks were scored.

        Each run gets an equal share of the budget. The share is spent on the first row of each gallery, then on the
        second row of each, and so on, until a row does not fit.
        """
        judged = {run.path: run.judged for run in runs if run.judged is not None}
        self.drawn = {path: self._still_good(path, one) for path, one in judged.items()}
        share = self.budget // max(len(judged), 1)
        return {path: _of_run(one, share, self.drawn[path][1]) for path, one in judged.items()}

    def _still_good(self, path: Path, judged: Judged) -> tuple[Judged, dict[int, Strip]]:
        before, strips = self.drawn.get(path, (None, {}))
        return judged, strips if before is judged else {}


def _of_run(judged: Judged, share: int, strips: dict[int, Strip]) -> dict[str, list[Strip]]:
    chosen: dict[str, list[Strip]] = {title: [] for title in judged.galleries}
    for place in range(max(map(len, judged.galleries.values()), default=0)):
        for title, rows in judged.galleries.items():
            if place >= len(rows):
                continue
            row = rows[place]
            if row.row not in strips:
                strips[row.row] = draw(judged, row)
            panels, size = strips[row.row].panels, strips[row.row].size
            share -= sum(map(len, panels))
            if share < 0:
                return chosen
            chosen[title].append(Strip(row, panels, size))
    return chosen


def draw(judged: Judged, row: GalleryRow) -> Strip:
    """Draw the four panels of one validation image."""
    drawn = panels(judged, row)
    height, width = drawn[1].shape
    factor = max(1.0, max(height, width) / WIDEST)
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return Strip(row, tuple(data_uri(panel, size, crisp=place == 1) for place, panel in enumerate(drawn)), size)


def panels(judged: Judged, row: GalleryRow) -> tuple[np.ndarray, ...]:
    """Return image, true mask (H, W) bool, probability (H, W) float32 and the image with both outlines."""
    probability = np.asarray(judged.masks.array[row.row], dtype=np.float32)
    place = judged.place[row.name]
    image, truth = np.asarray(judged.packed.images[place]), judged.packed.masks[place] != 0
    mask = binarize(judged.masks.array[row.row], judged.threshold)
    if mask.sum() < judged.min_area:
        mask = np.zeros_like(mask)
    return image, truth, probability, outlined(image, truth, mask)


def data_uri(picture: np.ndarray, size: tuple[int, int], crisp: bool = False) -> str:
    """Return a picture as a WebP data URI.

    Args:
        picture: array in any form that `as_rgb` accepts.
        size: (width, height) in pixels to resize it to.
        crisp: compress without loss, which also makes plain masks smaller.
    """
    from PIL import Image

    drawn = Image.fromarray(np.ascontiguousarray(as_rgb(picture)))
    if drawn.size != size:
        drawn = drawn.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    drawn.save(file, "WEBP", lossless=crisp, quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
