"""Measure what the recipe looks at: image sizes, foreground, directions of the images, number, time and machine."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from net.network_kinds import ImageKind, Kind
from net.snapshot import load_snapshot
from net.tasks import Task
from utils.core.errors import UserError
from utils.core.settings import to_flat
from utils.data.formats import read_format
from utils.data.packed_data import PackedImages
from utils.runs.run_folder import find_snapshots

LARGEST_WHOLE = 384
"""Images with a longer side are learned in crops, or shrunk if their objects are thick."""
CROP = 256
"""Side of crops, and of shrunk images."""
THICK = 10.0
"""Thickness in pixels that objects must have after shrinking: crops show only parts of large objects."""
FASTER = 0.15
"""Mean log ratio of the changes in both directions, of upright images."""
BRIGHTER = 0.1
"""Mean difference in brightness of upper and lower half, as a share of the contrast, of upright images."""
ROUGHER = 0.5
"""Mean difference in roughness of upper and lower half, in standard deviations over the images, of upright images."""
STRUCTURES = 13
"""Blocks per side that images are averaged to before their structures are compared."""
LOOKED_AT = 400
"""Images that the facts are measured on, spread evenly over the set."""


@dataclass(frozen=True)
class Facts:
    """Facts about task, images, time and machine, for the rules to look at."""

    kind: str
    """Kind of the task: mask, border, label or labels."""
    images: int
    """Images to train on."""
    fold_images: int
    """Images of the fold to validate on."""
    side: int
    """Longest side of the images in pixels; of images of different sizes, the median of their longest sides."""
    short_side: int
    """Shortest side of the images in pixels; of images of different sizes, as `side`."""
    foreground: float
    """Share of foreground pixels in the images that have any."""
    thickness: float
    """Median thickness of the foreground in pixels."""
    upright: bool
    """True if the images have an up and a down: horizontal and vertical differ in them."""
    minutes: float | None
    """Time for one run, in minutes, if it is given."""
    on_gpu: bool
    given: Mapping[str, Any]
    """Flags that were given, by name."""
    start: str | None = None
    """Architecture of the snapshot to start from, if one is given."""
    asked: Mapping[int, float] = field(default_factory=dict)
    """Sizes that were asked for without their epochs, and the share of the time of each."""
    competition: str | None = None
    """Metric of the competition whose format train.csv has."""
    mixed: bool = False
    """True if the images have different sizes."""
    coloured: bool = False

    @property
    def cropped(self) -> bool:
        """True if the images are learned in crops at their own scale."""
        return self.mixed or (self.side > LARGEST_WHOLE and not self.shrunk)

    @property
    def shrunk(self) -> bool:
        """True if the images are large, but can be shrunk to the size of a crop because their objects are thick."""
        large = not self.mixed and self.side > LARGEST_WHOLE
        return large and self.kind == "mask" and self.thickness * CROP / self.side >= THICK

    @property
    def pixel_level(self) -> bool:
        return self.kind in ("mask", "border")

    @property
    def from_scratch(self) -> bool:
        """True unless weights to start from were asked for."""
        return self.given.get("encoder_weights", "none") == "none" and self.start is None


def facts_of(
    settings: Any,
    packed: PackedImages,
    task: Task,
    train_rows: np.ndarray,
    fold_images: int,
    n_runs: int,
    on_gpu: bool,
) -> Facts:
    """Measure the facts on the training images; `settings` are those of a training script, for `n_runs` folds."""
    given = given_flags(settings)
    asked = asked_sizes(given.get("stages", ()))
    if asked:
        del given["stages"]
    some = train_rows[np.linspace(0, len(train_rows) - 1, min(len(train_rows), LOOKED_AT)).astype(int)]
    side = int(np.median([max(packed.shapes[row]) for row in train_rows]))
    return Facts(
        kind=task.kind.name,
        images=len(train_rows),
        fold_images=fold_images,
        side=side if packed.mixed else max(packed.shapes[0]),
        short_side=side if packed.mixed else min(packed.shapes[0]),
        mixed=packed.mixed,
        coloured=packed.channels == 3,
        foreground=_foreground(packed, task.kind, some),
        thickness=_thickness(packed, task.kind, some),
        competition=_competition(Path(settings.data.data_dir) / "train.csv"),
        upright=is_upright(packed.images[row] for row in some),  # one at a time, because they may be large
        minutes=settings.recipe.minutes and settings.recipe.minutes / n_runs,
        on_gpu=on_gpu,
        given=given,
        start=_starting_arch(settings.net),
        asked=asked,
    )


def _starting_arch(net: Any) -> str | None:
    """Return the architecture of the snapshot to start from; --arch names that of weights from elsewhere."""
    if net.snapshot is None or net.arch:
        return net.snapshot and net.arch
    path = find_snapshots([net.snapshot])[0]
    try:
        return load_snapshot(path).info.arch
    except UserError as error:
        raise UserError(f"{error}; for weights from elsewhere add --arch") from None


def _foreground(packed: PackedImages, kind: Kind, rows: np.ndarray) -> float:
    if isinstance(kind, ImageKind) or packed.masks is None:
        return 1.0
    shares = packed.foreground(rows)
    return float(shares[shares > 0].mean()) if (shares > 0).any() else 0.0


def _thickness(packed: PackedImages, kind: Kind, rows: np.ndarray) -> float:
    """Return the median thickness of the foreground, in pixels, or infinity without foreground.

    The thickness of a mask is twice its area divided by the number of its boundary pixels.
    """
    if isinstance(kind, ImageKind) or packed.masks is None:
        return float("inf")
    found = []
    for row in rows:
        mask = np.pad(packed.masks[row] != 0, 1)
        inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        if mask.any():
            found.append(2 * mask.sum() / (mask.sum() - inner.sum()))
    return float(np.median(found)) if found else float("inf")


def _competition(table: Path) -> str | None:
    """Return the metric of the competition whose format a train.csv has; None if it has no run-lengths."""
    try:
        return read_format(table).metric
    except UserError:
        return None


class Directions(NamedTuple):
    """Differences between the directions of an image."""

    across: float
    """Mean squared difference between blocks and their right neighbours; blocks are STRUCTURES by STRUCTURES means."""
    down: float
    """The same between blocks and their lower neighbours."""
    brightness: float
    """Mean of the upper half minus that of the lower half."""
    roughness: float
    """Log of the deviation inside blocks, upper half minus lower half, in standard deviations over the blocks."""
    mean: float
    square: float
    """Mean of the squared pixels."""


def directions_of(image: np.ndarray) -> Directions:
    """Compare the directions of an image (h, w, C) uint8."""
    grey = image.astype(np.float32).mean(axis=2)
    side = max(1, min(grey.shape) // STRUCTURES)
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    cut = grey[: rows * side, : columns * side].reshape(rows, side, columns, side)
    blocks, rough = cut.mean((1, 3)), np.log1p(cut.std((1, 3)))
    across, down = ((np.diff(blocks, axis=axis) ** 2).mean() if blocks.shape[axis] > 1 else 0 for axis in (1, 0))
    middle, half = rows // 2, grey.shape[0] // 2
    roughness = (rough[:middle].mean() - rough[-middle:].mean()) / (rough.std() + 1e-6) if middle else 0
    brightness = grey[:half].mean() - grey[-half:].mean() if half else 0
    return Directions(across, down, brightness, roughness, grey.mean(), (grey**2).mean())


def is_upright(images: Iterable[np.ndarray]) -> bool:
    """Tell whether horizontal and vertical differ in images (h, w, C) uint8.

    They differ if the large structures of the images change faster in one direction than in the other (layers under the
    ground), by a sixth on average; if the mean of the images is brighter on one side by a tenth of their contrast
    (a horizon); or if one half is rougher than the other in most images (a street under the sky). Cells, tissue and
    aerial views look the same in all directions.
    """
    measured = np.array([directions_of(image) for image in images])
    across, down, brightness, roughness, mean, square = measured.T
    varied = across + down > 1e-3  # images of one grey value say nothing
    ratios = np.log((across[varied] + 1e-6) / (down[varied] + 1e-6)) / 2
    if varied.any() and abs(ratios.mean()) > FASTER:
        return True
    # by how many of its standard deviations the mean differs from 0, and by how many of its standard errors
    sure = max(ROUGHER, 3 / len(roughness) ** 0.5)
    if len(roughness) >= 8 and abs(roughness.mean()) > sure * (roughness.std() + 1e-6):
        return True
    contrast = np.sqrt(max(0, square.mean() - mean.mean() ** 2) + 1e-12)
    return bool(abs(brightness.mean()) > BRIGHTER * contrast)


def given_flags(settings: Any) -> dict[str, Any]:
    """Return the flags that have a value, by name."""
    return {name: value for name, value in to_flat(settings).items() if value is not None and value != []}


def asked_sizes(stages: Sequence[str]) -> dict[int, float]:
    """Return the sizes and shares of the time in --stages that name no epochs, such as 64 128 or 64:.4 128:.6.

    The result is empty if a stage names its epochs.
    """
    found = [re.fullmatch(r"(\d+)(?::(0?\.\d+))?", text) for text in stages]
    if not found or not all(found):
        return {}
    return normalised({int(match[1]): float(match[2] or 1) for match in found})


def normalised(shares: Mapping[int, float]) -> dict[int, float]:
    """Return shares by size that add up to 1."""
    return {size: share / sum(shares.values()) for size, share in shares.items()}
