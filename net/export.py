"""Export a network to one file that predicts probabilities from images without this project.

The exported module prepares the images, runs the network and returns probabilities, in torch operations that exporters
can follow. It maps images (B, C, h, w) uint8, [0, 255], to (B, K, h, w) float32, [0, 1], or to (B, K) for labels.
"""

import hashlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from net.dataset import normalised
from net.device import Machine
from net.export_formats import FORMATS, Run
from net.facts import CROP
from net.geometry import PERCENTILES, STEP, Fit, ValAug, contrast_stretched
from net.network_kinds import Kind, PixelKind
from net.predictor import Predictor, kind_of, rebuild, val_of
from net.snapshot import SnapshotInfo, load_snapshot
from net.tta import VIEWS
from utils.core.errors import UserError
from utils.core.files import atomic_file
from utils.scoring.stored_thresholds import read_class_thresholds, read_instance_rules, read_threshold, run_folder_of

LEAST = STEP + 1
"""Minimum side in pixels of images of any size, so that the deepest map has several pixels and one reflection pads."""


class Predictions(nn.Module):
    """Module that maps images at the input size (B, C, H, W) uint8 to probabilities (B, K, H, W) or (B, K) float32.

    Args:
        network: network with its weights, in evaluation mode.
        kind: kind of the network, which turns its output into probabilities.
        channels: C, 1 or 3.
    """

    def __init__(self, network: nn.Module, kind: Kind, channels: int) -> None:
        super().__init__()
        self.network, self.kind = network, kind
        # constants of `normalised` as buffers, because buffers move to a GPU with the file and graph constants do not
        black, white = (normalised(torch.full((1, channels, 1, 1), grey, dtype=torch.uint8)) for grey in (0, 255))
        self.register_buffer("black", black.contiguous())
        self.register_buffer("gain", ((white - black) / 255).contiguous())

    def forward(self, images: Tensor) -> Tensor:
        return self.kind.probabilities(self.network(self.black + images.float() * self.gain))


class OneSize(nn.Module):
    """Module that maps images scaled for a Fit, (B, C, height, width) uint8, to predictions at its `shape`."""

    def __init__(self, predictions: Predictions, fit: Fit) -> None:
        super().__init__()
        self.predictions, self.fit = predictions, fit
        places = fit.pad(np.stack(np.indices((fit.height, fit.width)), axis=-1))
        self.register_buffer("rows", torch.tensor(places[:, 0, 0]))
        self.register_buffer("columns", torch.tensor(places[0, :, 1]))

    def forward(self, images: Tensor) -> Tensor:
        found = self.predictions(images.index_select(2, self.rows).index_select(3, self.columns))
        return self.predictions.kind.at_image_size(found, self.fit)


class AnySize(nn.Module):
    """Module that maps images (B, C, h, w) uint8 of any size from LEAST up to predictions at their size.

    Pads images as `Fit.native` does. Sizes are unknown when the graph is built, so indices are computed in the graph;
    slices would fix the size.
    """

    def __init__(self, predictions: Predictions) -> None:
        super().__init__()
        self.predictions = predictions

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2], images.shape[3]
        rows, top = _reflected(height, images.device)
        columns, left = _reflected(width, images.device)
        found = self.predictions(images.index_select(2, rows).index_select(3, columns))
        if not isinstance(self.predictions.kind, PixelKind):
            return found
        inner_rows = torch.arange(height, device=images.device) + top
        inner_columns = torch.arange(width, device=images.device) + left
        return found.index_select(2, inner_rows).index_select(3, inner_columns)


def _reflected(length: int, device: torch.device) -> tuple[Tensor, int]:
    """Return, for one side, the pixel at each place of its frame (int64) and the number of places before pixel 0."""
    frame = (length + STEP - 1) // STEP * STEP
    before = (frame - length) // 2
    place = (torch.arange(frame, device=device) - before).abs()
    return torch.minimum(place, 2 * (length - 1) - place), before


TOLERANCE = 1e-3
"""Maximum allowed difference between probabilities of the file and of the network; other files are removed."""
BATCHES = (1, 2, 3, 5)
"""Batch sizes in the comparison."""
ANY_SIZES = ((160, 128), (101, 150), (192, 128), (130, 160))
"""(height, width) of the images in the comparison if the file takes any size."""


class Unexportable(UserError):
    """A network that an exporter cannot follow, or a file that differs from the network.

    Args:
        message: message for the user.
        reason: short reason, shown if another way of exporting works.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Exported:
    """Result of an export."""

    about: dict[str, Any]
    """Description stored in the file."""
    difference: float
    """Maximum difference between probabilities of the file and of the network."""
    tied: str | None = None
    """Reason why the file takes images of one size although the network takes any; None if this is not the case."""


def export(path: Path, to: str, out: Path) -> Exported:
    """Write the network of a snapshot to the file `out`, completely or not at all.

    Args:
        path: the snapshot.
        to: onnx, torchscript or torch_export; the packages for this format must be installed.
        out: output file; an existing file is replaced.

    Raises:
        UserError: the snapshot cannot be read, the network cannot be exported to this format, or predictions of the
            file differ from those of the network by more than TOLERANCE.
    """
    snapshot = load_snapshot(path)
    network, kind, val = rebuild(snapshot, path).requires_grad_(False), kind_of(snapshot.info), val_of(snapshot.info)
    predictor = Predictor(network, kind, val, Machine(torch.device("cpu"), torch.float32))
    side = snapshot.info.size or CROP
    shape = snapshot.info.shape or (side, side)  # trained on images of different sizes
    origin, fit = _origin(path, snapshot.info, kind), val(shape)
    tied = None
    if val.size is None:
        try:
            return _written(predictor, None, origin, to, out)
        except Unexportable as error:
            tied = error.reason
    return replace(_written(predictor, fit, origin, to, out), tied=tied)


def _written(predictor: Predictor, fit: Fit | None, origin: dict[str, Any], to: str, out: Path) -> Exported:
    """Write the file for images of one shape, or of any shape if `fit` is None, and compare it with the network.

    Raises:
        Unexportable: the exporter failed, or the file differs from the network.
    """
    channels = origin["channels_in"]
    predictions = Predictions(predictor.network, predictor.kind, channels)
    if fit is None:
        module, shapes = AnySize(predictions), ANY_SIZES
        free = {0: ("batch", 1), 2: ("height", LEAST), 3: ("width", LEAST)}
    else:
        module, shapes, free = OneSize(predictions, fit), [fit.shape], {0: ("batch", 1)}
    about = {**_interface(predictor.kind, channels, fit, predictor.val.contrast_stretch), **origin}
    example = torch.from_numpy(_planes(_images(2, shapes[0], channels), predictor.val))
    with atomic_file(out) as part:
        with _in_one_line(to, about["arch"]):
            part.write_bytes(FORMATS[to].write(module.eval(), example, free, about))
        with _in_one_line(to, about["arch"]):
            difference = _greatest_difference(FORMATS[to].read(part), predictor, shapes, channels)
        if not difference <= TOLERANCE:  # also true for NaN
            raise Unexportable(
                f"{out}: predictions differ from those of the network by up to {difference:.2g}, expected at most "
                f"{TOLERANCE}; the file was removed, try --to {_others(to)}",
                "its predictions differ from those of the network",
            )
    return Exported(about, difference)


def _interface(kind: Kind, channels: int, fit: Fit | None, contrast_stretch: bool) -> dict[str, Any]:
    """Return the description of the file's input and output; `fit` is None if images may have any size."""
    inside, outside, scaled = ["height", "width"], ["height", "width"], None
    stretched = {"of": "each channel of an image", "percentiles": PERCENTILES, "to": [0, 255], "least range": 8}
    if fit is not None:
        inside, outside = [fit.height, fit.width], list(fit.shape)
        if inside != outside:
            how = "INTER_AREA" if fit.height < fit.shape[0] else "INTER_LINEAR"  # as in Fit.scale
            scaled = {"from": outside, "to": inside, "by": f"cv2.resize, {how}"}
    return {
        "images": {
            "shape": ["batch", channels, *inside],
            "dtype": "uint8",
            "range": [0, 255],
            "channels": "RGB" if channels == 3 else "grey",
            "contrast_stretched": stretched if contrast_stretch else None,
            "scaled": scaled,
        },
        "probabilities": {
            "shape": ["batch", len(kind.outputs), *(outside if isinstance(kind, PixelKind) else [])],
            "dtype": "float32",
            "of": list(kind.outputs),
        },
    }


def _origin(path: Path, info: SnapshotInfo, kind: Kind) -> dict[str, Any]:
    """Return the identity of the snapshot, fields of its record, and the rules that its run has stored."""
    copied = ("arch", "task", "channels_in", "fold", "data_digest", "val_ids_digest", "metrics")
    return {
        **{name: getattr(info, name) for name in copied},
        "snapshot": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "rules": _rules(kind, run_folder_of(path)),
        "torch": torch.__version__,
    }


def _rules(kind: Kind, folder: Path | None) -> dict[str, Any] | None:
    """Return the thresholds and rules in the JSON files of the run, for masks, objects or labels; None if missing."""
    if folder is None:
        return None
    if not isinstance(kind, PixelKind):
        return (classes := read_class_thresholds(folder)) and classes.thresholds
    if kind.name == "border" and (instances := read_instance_rules(folder)):
        return asdict(instances.rules)
    stored = read_threshold(folder)
    return stored and {"threshold": stored.threshold, "min_area": stored.min_area}


def _greatest_difference(run: Run, predictor: Predictor, shapes: Sequence[tuple[int, int]], channels: int) -> float:
    """Return the maximum difference between predictions of a file and of the network, over batches of several sizes."""
    differences = []
    for place, size in enumerate(BATCHES):
        images = _images(size, shapes[place % len(shapes)], channels)
        with torch.inference_mode():
            expected = predictor.predict(images, [VIEWS["null"]]).numpy()
        found = run(_planes(images, predictor.val))
        if found.shape != expected.shape:
            raise ValueError(f"expected predictions of shape {expected.shape} for {size} images, found {found.shape}")
        differences.append(np.abs(found - expected).max())
    return float(np.max(differences))


def _images(number: int, shape: tuple[int, int], channels: int) -> np.ndarray:
    """Return the images of the comparison, (number, h, w, C) uint8, the same in every call.

    The first image is pure noise, the others are soft shapes with a little noise.
    """
    rng = np.random.default_rng([number, *shape])
    coarse = rng.uniform(-60, 316, (number, 1, 5, 5)) + rng.normal(0, 30, (number, channels, 5, 5))
    soft = interpolate(torch.from_numpy(coarse), shape, mode="bicubic").permute(0, 2, 3, 1).numpy()
    images = soft + rng.normal(0, 6, soft.shape)
    images[0] = rng.uniform(0, 255, images[0].shape)
    return images.clip(0, 255).astype(np.uint8)


def _planes(images: np.ndarray, val: ValAug) -> np.ndarray:
    """Return images (B, h, w, C) as a file takes them: stretched if need be, scaled, (B, C, height, width)."""
    fit = val(images.shape[1:3])
    seen = map(contrast_stretched, images) if val.contrast_stretch else images
    return np.ascontiguousarray(np.stack([fit.scale(image) for image in seen]).transpose(0, 3, 1, 2))


def _others(to: str) -> str:
    return " or ".join(name for name in FORMATS if name != to)


@contextmanager
def _in_one_line(to: str, arch: str) -> Iterator[None]:
    """Raise Unexportable with the innermost cause, in one line, if an exporter fails in the block.

    Exporters raise errors of many types with very long messages. What they log is suppressed, because the comparison
    shows whether the file is right. What they write to stderr is attached to the error, where --debug shows it; without
    an error it is written after the block.
    """
    pages = io.StringIO()
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(pages):
            yield
    except (UserError, OSError, MemoryError):
        raise  # caused by the user, the disk or the machine
    except Exception as error:
        error.add_note(pages.getvalue())
        innermost: BaseException = error
        while innermost.__cause__ is not None:
            innermost = innermost.__cause__
        reason = f"{type(innermost).__name__}: {(str(innermost).strip().splitlines() or [''])[0][:160]}"
        raise Unexportable(
            f"--to {to}: {arch} cannot be exported to this format ({reason}); try --to {_others(to)}", reason
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    sys.stderr.write(pages.getvalue())
