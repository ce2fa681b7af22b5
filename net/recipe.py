"""The recipe: choose every training flag that was left out, from the images and the time.

RULES is a table of functions; each looks at the facts and returns flags with a reason, which is printed at the start of
a run. docs/recipe.md has the figures behind the reasons. A flag that is given on the command line overrides its part of
the recipe; `--recipe original` replaces the whole by the defaults of 2018.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from net.architectures import STRATA
from net.network_kinds import ImageKind, Kind
from net.snapshot import load_snapshot
from net.tasks import Task
from utils.core.errors import UsageError, UserError
from utils.core.settings import as_typed, to_flat
from utils.core.training_settings import parse_stage
from utils.data.formats import read_format
from utils.data.packed_data import PackedImages
from utils.runs.run_folder import find_snapshots
from utils.scoring.mask_metrics import METRICS

S = TypeVar("S")

STEPS = 2500
"""Optimizer steps of a run if neither its time nor its epochs are given."""
TIME_SHARES = (0.30, 0.35, 0.35)
"""Shares of the time at the three image sizes of a run, smallest first."""
SCALES = (0.5, 0.77, 1.0)
"""These sizes, as shares of the full size."""
WARMUP = 0.05
"""Share of the steps in which the learning rate rises."""
LARGEST_WHOLE = 384
"""Images with a longer side are learned in crops, or shrunk if their objects are thick."""
CROP = 256
"""Side of crops, and of shrunk images."""
THICK = 10.0
"""Thickness in pixels that objects must have after shrinking: crops show only parts of large objects."""
RARE = 0.05
"""Share of foreground below which it is rare: objects may have few pixels, and Lovász alone does not find them."""
THIN = 4.0
"""Thickness in pixels below which objects are thin: IoU then changes much with the position of their outline."""
WHOLE_FOLD = 4000
"""Images of the largest fold that is validated as a whole after each epoch."""
VAL_LIMIT = 2000
"""Images of larger folds that are."""
ROUGHER = 0.5
"""Mean difference in roughness of upper and lower half, in standard deviations over the images, of upright images."""
STRUCTURES = 13
"""Blocks per side that images are averaged to before their structures are compared."""
LOOKED_AT = 400
"""Images that the facts are measured on, spread evenly over the set."""

ORIGINAL: dict[str, Any] = {
    "arch": "unet_resnet34_v1",
    "encoder_weights": "imagenet",
    "train_augs": "train_128_v1",
    "val_augs": "val_128",
    "loss": ("BCE",),
    "optimizer": "adam_1e-4",
    "scheduler": "none",
    "n_epochs": 100,
    "batch_size": 32,
    "warmup": 0,
    "head_bias": "zero",
    "encoder_rate": 1.0,
}
"""The defaults of 2018; border networks have the loss boundary_bce and classifiers the network resnet18."""
CHOSEN = {*ORIGINAL, "stages", "crop", "epoch_size", "metric", "val_limit", "score_fold"}
"""Flags that the recipe may choose."""


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


class Choice(NamedTuple):
    """Flags that a rule has chosen, and its reason."""

    flags: dict[str, Any]
    why: str


def network(facts: Facts) -> Choice:
    """Choose a small network that learns fast; the size follows the time."""
    if facts.start:
        return Choice({"arch": facts.start, "encoder_weights": "none"}, "the network of --snapshot")
    if not facts.from_scratch:
        return Choice({"arch": "unet_resnet34"}, "pretrained weights were asked for")
    minutes = facts.minutes or 12
    if facts.on_gpu:
        arch, why = ("strata_l", "5 minutes or more on a GPU") if minutes >= 5 else ("strata_m", "less than 5 minutes")
    elif minutes < 6:
        arch, why = "strata_s", "less than 6 minutes on a CPU"
    elif minutes <= 120:
        arch, why = "strata_m", "6 minutes to 2 hours on a CPU"
    else:
        arch, why = "strata_l", "more than 2 hours on a CPU"
    return Choice({"arch": arch, "encoder_weights": "none"}, why)


def augmentation(facts: Facts) -> Choice:
    """Choose mirror images for images with an up and a down, else all eight symmetries of the square."""
    named = facts.given.get("train_augs") or facts.given.get("val_augs")
    size = (256 if "256" in named else 128) if named else 128 if full_size(facts) <= 160 else 256
    kind = "affine" if not facts.mixed else "stained" if facts.coloured else "scaled"
    suffix = "" if facts.upright else "_d4"
    why = (
        "horizontal and vertical differ in the images: mirrored, not turned"
        if facts.upright
        else "horizontal and vertical look alike: turned and mirrored"
    )
    if facts.shrunk:
        why += f"; objects are thick ({facts.thickness:.0f} of {facts.side} pixels), so images are shrunk to {size}"
    if facts.mixed:
        why += "; sizes differ, so the scale varies" + (", and so do stains" if facts.coloured else "")
    return Choice({"train_augs": f"{kind}_{size}{suffix}", "val_augs": f"val_{size}"}, why)


def batches(facts: Facts) -> Choice:
    """Choose small batches for small sets, so that an epoch has steps enough."""
    size = 32 if facts.images >= 400 else 16 if facts.images >= 100 else 8
    return Choice({"batch_size": size}, f"{facts.images} images to train on")


def steps(facts: Facts) -> Choice:
    """Choose Muon for small networks from scratch, else AdamW; both fall linearly to zero."""
    if facts.start:
        flags = {"optimizer": "adamw_1e-3", "scheduler": "linear", "encoder_rate": 1.0}
        return Choice(flags, "the weights of --snapshot change in small steps")
    if not facts.from_scratch:
        flags = {"optimizer": "adamw_1e-3", "scheduler": "linear", "encoder_rate": 0.1}
        return Choice(flags, "pretrained weights change little, the new layers much")
    if facts.given.get("arch", "strata_m") in STRATA:
        flags = {"optimizer": "muon_0.02", "scheduler": "linear", "encoder_rate": 1.0}
        return Choice(flags, "from scratch, Muon learns most per minute")
    flags = {"optimizer": "adamw_1e-3", "scheduler": "linear", "encoder_rate": 1.0}
    return Choice(flags, "Muon costs too much in a large network")


def loss(facts: Facts) -> Choice:
    """Choose Lovász, which optimises the overlap; rare objects have to be found by cross-entropy before."""
    if not facts.pixel_level:
        return Choice({"loss": ("BCE",), "head_bias": "prior"}, "cross-entropy; the bias starts at the classes' shares")
    prefix = "boundary_" if facts.kind == "border" else ""
    if facts.foreground >= RARE:
        flags = {"loss": (f"{prefix}symmetric_lovasz_bce",), "head_bias": "prior"}
        return Choice(flags, "Lovász optimises the overlap; the bias starts at the share of foreground")
    names = ("boundary_bce" if prefix else "BCE", f"{prefix}symmetric_lovasz_bce:.55")
    why = "foreground is rare: cross-entropy finds it, then Lovász optimises the overlap; the bias starts at its share"
    return Choice({"loss": names, "head_bias": "prior"}, why)


def metric(facts: Facts) -> Choice:
    """Choose the score that ranks the snapshots of a mask network; border networks and classifiers have their own."""
    if facts.kind != "mask":
        return Choice({}, "")
    if facts.competition in METRICS:
        return Choice({"metric": facts.competition}, "the metric of this competition")
    if facts.foreground < RARE or facts.thickness < THIN:
        return Choice({"metric": "pooled_iou"}, "objects are small or thin, so the IoU of a single image is unsteady")
    return Choice({"metric": "iou"}, "IoU of each image")


def validation(facts: Facts) -> Choice:
    """Choose a part of a large fold, so that validation does not take longer than training."""
    if facts.fold_images <= WHOLE_FOLD:
        return Choice({}, "")
    return Choice({"val_limit": VAL_LIMIT}, f"after each epoch; the fold has {facts.fold_images} images")


RULES: dict[str, Callable[[Facts], Choice]] = {
    "network": network,
    "augmentation": augmentation,
    "batches": batches,
    "steps": steps,
    "loss": loss,
    "metric": metric,
    "validation": validation,
}
"""Rules by the part of the recipe that they choose; `sizes` follows, because it depends on network and time."""


def full_size(facts: Facts) -> int:
    """Return the input size at which images keep their pixels, a multiple of 4; for large images the size of a crop."""
    if facts.cropped:
        return min(CROP, facts.short_side)
    if facts.shrunk:
        return CROP
    return max(16, -(-facts.side // 4) * 4)


def sizes_of(facts: Facts, arch: str) -> dict[int, float]:
    """Return the input sizes of a run, ascending, and the share of the time of each.

    Training starts at half size, where a step is four times as fast. The sizes are multiples of 4 for the strata
    networks and of 32 for others, whose decoders need that.
    """
    multiple = 4 if arch in STRATA else 32
    full = -(-full_size(facts) // multiple) * multiple
    if facts.cropped:  # a crop that is larger than the image shows nothing more
        full = max(1, full_size(facts) // multiple) * multiple
    scales = SCALES[1:] if facts.foreground < RARE else SCALES
    sizes = sorted({max(multiple, round(full * scale / multiple) * multiple) for scale in scales})
    sizes = sizes if full > 48 else [full]
    return _normalised(dict(zip(sizes, TIME_SHARES[-len(sizes) :], strict=True)))


def _normalised(shares: Mapping[int, float]) -> dict[int, float]:
    return {size: share / sum(shares.values()) for size, share in shares.items()}


def asked_sizes(stages: Sequence[str]) -> dict[int, float]:
    """Return the sizes and shares of the time in --stages that name no epochs, such as 64 128 or 64:.4 128:.6.

    The result is empty if a stage names its epochs.
    """
    found = [re.fullmatch(r"(\d+)(?::(0?\.\d+))?", text) for text in stages]
    if not found or not all(found):
        return {}
    return _normalised({int(match[1]): float(match[2] or 1) for match in found})


def stages_for(sizes: Mapping[int, float], n_epochs: int) -> list[str]:
    """Divide epochs among sizes by their shares of the time, if the time of an epoch grows with the pixels.

    Returns:
        stages `<size>:<epochs>`; the first sizes are left out if there are too few epochs for all.
    """
    kept = dict(list(sizes.items())[-n_epochs:])
    epochs = divided(n_epochs, np.array([share / size**2 for size, share in kept.items()]))
    return [f"{size}:{count}" for size, count in zip(kept, epochs, strict=True)]


def divided(total: int, weights: np.ndarray) -> list[int]:
    """Divide a number into whole parts of at least 1 in proportion to weights, by largest remainders."""
    exact = weights / weights.sum() * total
    parts = np.maximum(1, np.floor(exact)).astype(int)
    while parts.sum() > total:
        parts[np.argmax(parts)] -= 1
    for place in np.argsort(-(exact - parts), kind="stable")[: total - parts.sum()]:
        parts[place] += 1
    return parts.tolist()


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
        start=load_snapshot(find_snapshots([settings.net.snapshot])[0]).info.arch if settings.net.snapshot else None,
        asked=asked,
    )


def _foreground(packed: PackedImages, kind: Kind, rows: np.ndarray) -> float:
    if isinstance(kind, ImageKind) or packed.masks is None:
        return 1.0
    shares = packed.foreground(rows)
    return float(shares[shares > 0].mean()) if (shares > 0).any() else 0.0


def _thickness(packed: PackedImages, kind: Kind, rows: np.ndarray) -> float:
    """Return the median thickness of the foreground: 2 x its pixels / those at its rim, infinite if there is none."""
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


def is_upright(images: Iterable[np.ndarray]) -> bool:
    """Tell whether horizontal and vertical differ in images (h, w, C) uint8.

    They differ if the large structures of the images change faster in one direction than in the other (layers under the
    ground), by a sixth on average; if the mean of the images is brighter on one side by a tenth of their contrast
    (a horizon); or if one half is rougher than the other in most images (a street under the sky). Cells, tissue and
    aerial views look the same in all directions.
    """
    changes, halves, squares, roughness = [], [], [], []
    for image in images:
        grey = image.astype(np.float32).mean(axis=2)
        block = max(1, min(grey.shape) // STRUCTURES)
        height, width = (side // block * block for side in grey.shape)
        cut = grey[:height, :width].reshape(height // block, block, width // block, block)
        blocks, rough = cut.mean((1, 3)), np.log1p(cut.std((1, 3)))
        middle = len(rough) // 2
        roughness.append((rough[:middle].mean() - rough[-middle:].mean()) / (rough.std() + 1e-6) if middle else 0)
        changes.append([(np.diff(blocks, axis=axis) ** 2).mean() if blocks.shape[axis] > 1 else 0 for axis in (1, 0)])
        half = grey.shape[0] // 2
        halves.append(grey[:half].mean() - grey[-half:].mean() if half else 0)
        squares.append([grey.mean(), (grey**2).mean()])
    across, down = np.array(changes).T
    varied = across + down > 1e-3  # images of one grey value say nothing
    if varied.any() and abs(np.log((across[varied] + 1e-6) / (down[varied] + 1e-6)).mean() / 2) > 0.15:
        return True
    # by how many of its standard deviations the mean differs from 0, and by how many of its standard errors
    sure = max(ROUGHER, 3 / len(roughness) ** 0.5)
    if len(roughness) >= 8 and abs(np.mean(roughness)) > sure * (np.std(roughness) + 1e-6):
        return True
    mean, square = np.mean(squares, axis=0)
    return bool(abs(np.mean(halves)) > 0.1 * np.sqrt(max(0, square - mean**2) + 1e-12))


def given_flags(settings: Any) -> dict[str, Any]:
    """Return the flags that have a value, by name."""
    return {name: value for name, value in to_flat(settings).items() if value is not None and value != []}


def filled(settings: S, facts: Facts) -> tuple[S, list[str]]:
    """Choose the flags that were left out; return the settings, and a line for each part with its reason.

    Without a time, the number of epochs follows from the number of images, and epochs are divided among the sizes. With
    a time, `net.time_plan` does that, and sizes and epochs stay open here.
    """
    given, lines = dict(facts.given), []
    if facts.asked:
        settings = dataclasses.replace(settings, sizes=dataclasses.replace(settings.sizes, stages=()))
    if settings.recipe.recipe == "original":
        flags = dict(ORIGINAL)
        if not facts.pixel_level:
            flags["arch"] = "resnet18"
        if facts.kind == "border":
            flags["loss"] = ("boundary_bce",)
        if "stages" in given:
            flags["n_epochs"] = sum(epochs for _, epochs in map(parse_stage, given["stages"]))
        if facts.asked:
            flags["stages"] = tuple(stages_for(facts.asked, settings.learn.n_epochs or ORIGINAL["n_epochs"]))
        return with_flags(settings, flags), []
    chosen: dict[str, Any] = {}
    for part, rule in RULES.items():
        choice = rule(facts)
        if settings.run.resume:  # a run that was started without them goes on without them
            choice.flags.pop("metric", None)
            choice.flags.pop("val_limit", None)
        new = {name: value for name, value in choice.flags.items() if name not in given}
        chosen |= new
        if new:
            lines.append(f"{part}: {flags_line(new)} ({choice.why})")
    settings = with_flags(settings, chosen)
    if facts.minutes is not None and not {"n_epochs", "stages"} & given.keys():
        return settings, lines
    settings, line = _with_length(settings, facts)
    return settings, [*lines, line] if line else lines


def sizes_to_train(settings: Any, facts: Facts) -> dict[int, float]:
    """Return the sizes of a run and the share of the time of each; empty if they are not for the recipe to choose.

    They are not if a flag that decides about them was given, with several cycles (each would need all sizes), and for
    classifiers.
    """
    if facts.asked:
        return dict(facts.asked)
    decided = {"stages", "train_augs", "val_augs", "crop"} & facts.given.keys()
    if decided or settings.step.cycles > 1 or not facts.pixel_level:
        return {}
    return sizes_of(facts, settings.net.arch)


def size_flags(facts: Facts, stages: Sequence[str]) -> dict[str, Any]:
    """Return the flags of the sizes: the stages, and the crop for large images."""
    return {"stages": tuple(stages), **({"crop": full_size(facts)} if facts.cropped else {})}


def _with_length(settings: S, facts: Facts) -> tuple[S, str]:
    """Choose epochs and sizes for a run without a given time."""
    flags: dict[str, Any] = {}
    batch = settings.learn.batch_size * settings.step.accumulate
    images = settings.step.epoch_size or facts.images
    if "stages" in facts.given:
        n_epochs = sum(epochs for _, epochs in map(parse_stage, settings.sizes.stages))
    else:
        n_epochs = settings.learn.n_epochs or int(np.clip(round(STEPS * batch / images), 10, 300))
    flags["n_epochs"] = n_epochs
    if sizes := sizes_to_train(settings, facts):
        flags |= size_flags(facts, stages_for(sizes, n_epochs))
    flags["warmup"] = warmup_steps(n_epochs // settings.step.cycles, -(-images // batch))
    new = {name: value for name, value in flags.items() if name not in facts.given}
    return with_flags(settings, new), f"length: {flags_line(new)}" if new else ""


def warmup_steps(epochs: int, steps_an_epoch: int) -> int:
    """Return the number of warm-up steps of a cycle."""
    return round(WARMUP * epochs * steps_an_epoch)


def with_flags(settings: S, flags: Mapping[str, Any]) -> S:
    """Return the settings with the flags that have no value yet filled in, over all groups."""
    values: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if dataclasses.is_dataclass(value):
            values[entry.name] = with_flags(value, flags)
        elif entry.name in flags and value in (None, ()):
            values[entry.name] = flags[entry.name]
    return dataclasses.replace(settings, **values)


def flags_line(flags: Mapping[str, Any]) -> str:
    """Return flags as they are typed."""
    return " ".join(f"--{name} {as_typed(value)}" for name, value in flags.items())


def check_recipe(settings: Any) -> None:
    """Raise UsageError if the time is not a positive number, or --minutes_hard has no --minutes."""
    minutes, hard = settings.recipe.minutes, settings.step.minutes_hard
    if minutes is not None and not 0 < minutes < 60 * 24 * 30:
        raise UsageError(f"--minutes {minutes:g}: expected a number of minutes greater than 0, such as 12")
    if hard and minutes is None:
        raise UsageError("--minutes_hard: expected --minutes as well, the time after which the run is cut")
