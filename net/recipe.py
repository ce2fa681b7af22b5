"""The recipe: choose every training flag that was left out, from the images and the time.

RULES is a table of functions; each looks at the facts and returns flags with a reason, which is printed at the start of
a run. docs/recipe.md has the figures behind the reasons. A flag that is given on the command line overrides its part of
the recipe; `--recipe original` replaces the whole by the defaults of 2018.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from net.architectures import STRATA, has_encoder
from net.facts import CROP, Facts, normalised
from utils.core.errors import UsageError
from utils.core.settings import as_typed
from utils.core.training_settings import parse_stage
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
RARE = 0.05
"""Share of foreground below which it is rare: objects may have few pixels, and Lovász alone does not find them."""
THIN = 4.0
"""Thickness in pixels below which objects are thin: IoU then changes much with the position of their outline."""
WHOLE_FOLD = 4000
"""Images of the largest fold that is validated as a whole after each epoch."""
VAL_LIMIT = 2000
"""Images of a larger fold that are validated after each epoch."""
OFTEN = 60
"""Passes over the training images from which on they are changed more strongly."""
STRONGER = 1.5
"""Strength of the augmentation then."""
DROPPED = 0.2
"""Share of the channels of the deepest map that are dropped then."""
FEW = 450
"""Images up to which samples get rectangles of other images as well."""
MIXED = 0.5
"""Share of the samples that do."""

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
CHOSEN = {*ORIGINAL, "stages", "crop", "contrast_stretch", "aug_strength", "cutmix", "channel_dropout"}
CHOSEN |= {"epoch_size", "metric", "val_limit", "score_fold"}
"""Flags that the recipe may choose."""


class Choice(NamedTuple):
    """Flags that a rule has chosen, and its reason."""

    flags: dict[str, Any]
    why: str


def network(facts: Facts) -> Choice:
    """Choose a small network that learns fast; the size follows the time."""
    if facts.start:
        return Choice({"arch": facts.start, "encoder_weights": "none"}, "the network of --snapshot")
    if not facts.from_scratch:
        arch = "unet_resnet34" if facts.pixel_level else "resnet34"
        return Choice({"arch": arch}, "pretrained weights were asked for")
    minutes = facts.minutes or 20
    if facts.on_gpu:
        arch, why = ("strata_l", "a minute or more on a GPU") if minutes >= 1 else ("strata_m", "less than a minute")
    elif minutes < 15:
        arch, why = "strata_s", "less than 15 minutes on a CPU"
    elif minutes <= 120:
        arch, why = "strata_m", "15 minutes to 2 hours on a CPU"
    else:
        arch, why = "strata_l", "more than 2 hours on a CPU"
    if facts.minutes is None:
        why = "no time is given"
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
        why += "; sizes differ, so the scale varies" + (", and so do stains and exposures" if facts.coloured else "")
    flags: dict[str, Any] = {"train_augs": f"{kind}_{size}{suffix}", "val_augs": f"val_{size}"}
    stretch = kind == "stained" and facts.pixel_level
    return Choice(flags | ({"contrast_stretch": True} if stretch else {}), why)


def batches(facts: Facts) -> Choice:
    """Choose small batches for small sets, so that an epoch has steps enough."""
    size = 32 if facts.images >= 400 else 16 if facts.images >= 100 else 8
    if facts.on_gpu and facts.images >= 1000:  # a GPU takes hardly longer for twice the images
        size = 64
    return Choice({"batch_size": size}, f"{facts.images} images to train on")


def steps(facts: Facts) -> Choice:
    """Choose Muon for small networks from scratch, else AdamW; both fall linearly to zero."""
    if facts.start:
        flags = {"optimizer": "adamw_1e-3", "scheduler": "linear", "encoder_rate": 1.0}
        return Choice(flags, "the weights of --snapshot change in small steps")
    if not facts.from_scratch:
        flags = {"optimizer": "adamw_1e-3", "scheduler": "linear", "encoder_rate": 0.1}
        if not facts.pixel_level and not has_encoder(facts.given.get("arch", "resnet34")):
            return Choice({**flags, "optimizer": "adamw_1e-4", "encoder_rate": 1.0}, "pretrained weights change little")
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
    return normalised(dict(zip(sizes, TIME_SHARES[-len(sizes) :], strict=True)))


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
        flags["n_epochs"] = in_cycles(ORIGINAL["n_epochs"], settings)
        if "stages" in given:
            flags["n_epochs"] = sum(epochs for _, epochs in map(parse_stage, given["stages"]))
        if facts.asked:
            flags["stages"] = tuple(stages_for(facts.asked, settings.learn.n_epochs or flags["n_epochs"]))
        return with_flags(settings, flags), []
    chosen: dict[str, Any] = {}
    for part, rule in RULES.items():
        choice = rule(facts)
        if settings.run.resume:  # a run that was started without them goes on without them
            for name in ("metric", "val_limit", "contrast_stretch"):
                choice.flags.pop(name, None)
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


def strength_flags(settings: Any, facts: Facts, images_seen: int) -> dict[str, Any]:
    """Return stronger augmentation and dropped channels for runs that see images often, and learn them by heart.

    Few images get rectangles of each other as well; with many, the network would learn less. All this was measured for
    images of one size only; those of different sizes are changed strongly as it is.
    """
    fitting = settings.data.train_augs.startswith("affine") and facts.pixel_level and not settings.run.resume
    if not fitting or images_seen < OFTEN * facts.images:
        return {}
    if not settings.net.arch.startswith("strata"):
        return {"aug_strength": STRONGER}
    mixes = {"cutmix": MIXED} if facts.images <= FEW and facts.kind == "mask" else {}
    return {"aug_strength": STRONGER, **mixes, "channel_dropout": DROPPED}


def _with_length(settings: S, facts: Facts) -> tuple[S, str]:
    """Choose epochs and sizes for a run without a given time."""
    flags: dict[str, Any] = {}
    batch = settings.learn.batch_size * settings.step.accumulate
    images = settings.step.epoch_size or facts.images
    if "stages" in facts.given:
        n_epochs = sum(epochs for _, epochs in map(parse_stage, settings.sizes.stages))
    else:
        n_epochs = settings.learn.n_epochs or in_cycles(int(np.clip(round(STEPS * batch / images), 10, 300)), settings)
    flags["n_epochs"] = n_epochs
    if sizes := sizes_to_train(settings, facts):
        flags |= size_flags(facts, stages_for(sizes, n_epochs))
    flags["warmup"] = warmup_steps(n_epochs // settings.step.cycles, -(-images // batch))
    flags |= strength_flags(settings, facts, n_epochs * images)
    new = {name: value for name, value in flags.items() if name not in facts.given}
    return with_flags(settings, new), f"length: {flags_line(new)}" if new else ""


def in_cycles(n_epochs: int, settings: Any) -> int:
    """Return the multiple of --cycles below a number of epochs."""
    cycles = max(1, settings.step.cycles)
    return max(1, n_epochs // cycles) * cycles


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
