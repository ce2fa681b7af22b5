"""A network with its way in and its way out as one module of torch's operations alone, which exporters can follow.

images (B, C, h, w) uint8, [0, 255] -> probabilities (B, K, h, w) float32, [0, 1], or (B, K) for labels.
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
from net.geometry import STEP, Fit, ValAug
from net.network_kinds import Kind, PixelKind
from net.predictor import Predictor, kind_of, rebuild, val_of
from net.snapshot import SnapshotInfo, load_snapshot
from net.tta import VIEWS
from utils.core.errors import UserError
from utils.core.files import whole_file
from utils.scoring.stored_thresholds import read_class_thresholds, read_instance_rules, read_threshold, run_folder_of

LEAST = STEP + 1
"""Pixels a side of images of any size: the deepest map has more than one, and a reflection turns round but once."""


class Predictions(nn.Module):
    """Images at the network's size (B, C, H, W) uint8 -> probabilities (B, K, H, W) or (B, K) float32.

    Args:
        network: with its weights, in evaluation mode.
        kind: what it answers.
        channels: C, 1 or 3.
    """

    def __init__(self, network: nn.Module, kind: Kind, channels: int) -> None:
        super().__init__()
        self.network, self.kind = network, kind
        # the numbers of `normalised`, as buffers: those move to a GPU with the file, constants of a graph do not
        black, white = (normalised(torch.full((1, channels, 1, 1), grey, dtype=torch.uint8)) for grey in (0, 255))
        self.register_buffer("black", black.contiguous())
        self.register_buffer("gain", ((white - black) / 255).contiguous())

    def forward(self, images: Tensor) -> Tensor:
        return self.kind.probabilities(self.network(self.black + images.float() * self.gain))


class OneSize(nn.Module):
    """Images scaled for a Fit, (B, C, height, width) uint8 -> answers at the size of its shape."""

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
    """Images (B, C, h, w) uint8 of any size from LEAST on -> answers at their size, as `Fit.native` has it.

    Sizes are unknown while the graph is made, so that indices are computed in it; slices would tie it to one size.
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
    """For a side: the pixel at each place of its frame (int64), and how many places come before the first pixel."""
    frame = (length + STEP - 1) // STEP * STEP
    before = (frame - length) // 2
    place = (torch.arange(frame, device=device) - before).abs()
    return torch.minimum(place, 2 * (length - 1) - place), before


TOLERANCE = 1e-3
"""Of a probability: a file that is further than this from the network is not left."""
BATCHES = (1, 2, 3, 5)
"""Images at a time in the comparison."""
ANY_SIZES = ((160, 128), (101, 150), (192, 128), (130, 160))
"""(height, width) of its images, where they may have any."""


class Unexportable(UserError):
    """A network that an exporter cannot follow, or a file that is not what the network is.

    Args:
        message: for the user.
        reason: the same in a few words, for where there is a way around it.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Exported:
    """What has been written."""

    about: dict[str, Any]
    """The description in the file."""
    difference: float
    """The greatest one between a probability of the file and the network's."""
    tied: str | None = None
    """Why images are of one size alone, where the network would take any."""


def export(path: Path, to: str, out: Path) -> Exported:
    """Write the network of a snapshot to the file `out`, whole or not at all.

    Args:
        path: the snapshot.
        to: onnx, torchscript or torch_export; the packages that it takes are there.
        out: the file; what stands there is replaced.

    Raises:
        UserError: no snapshot, a network that cannot be exported to this format, or a file that answers otherwise than
            the network by more than TOLERANCE.
    """
    snapshot = load_snapshot(path)
    network, kind, val = rebuild(snapshot, path).requires_grad_(False), kind_of(snapshot.info), val_of(snapshot.info)
    predictor = Predictor(network, kind, val, Machine(torch.device("cpu"), torch.float32))
    origin, fit = _origin(path, snapshot.info, kind), val(snapshot.info.shape)
    tied = None
    if val.size is None:
        try:
            return _written(predictor, None, origin, to, out)
        except Unexportable as error:
            tied = error.reason
    return replace(_written(predictor, fit, origin, to, out), tied=tied)


def _written(predictor: Predictor, fit: Fit | None, origin: dict[str, Any], to: str, out: Path) -> Exported:
    """Write the file for images of one shape, or (`fit` None) of any, and compare it with the network.

    Raises:
        Unexportable: it was not to be had, or is not what the network is.
    """
    channels = origin["channels_in"]
    predictions = Predictions(predictor.network, predictor.kind, channels)
    if fit is None:
        module, shapes = AnySize(predictions), ANY_SIZES
        free = {0: ("batch", 1), 2: ("height", LEAST), 3: ("width", LEAST)}
    else:
        module, shapes, free = OneSize(predictions, fit), [fit.shape], {0: ("batch", 1)}
    about = {**_interface(predictor.kind, channels, fit), **origin}
    example = torch.from_numpy(_planes(_images(2, shapes[0], channels), predictor.val))
    with whole_file(out) as part:
        with _in_one_line(to, about["arch"]):
            part.write_bytes(FORMATS[to].write(module.eval(), example, free, about))
        with _in_one_line(to, about["arch"]):
            difference = _greatest_difference(FORMATS[to].read(part), predictor, shapes, channels)
        if not difference <= TOLERANCE:  # nor may it be no number at all
            raise Unexportable(
                f"{out}: answers otherwise than the network, by up to {difference:.2g} where {TOLERANCE} is allowed, "
                f"and was not left; try --to {_others(to)}",
                "it answers otherwise than the network",
            )
    return Exported(about, difference)


def _interface(kind: Kind, channels: int, fit: Fit | None) -> dict[str, Any]:
    """What the file takes and gives; `fit` is None where images may have any size."""
    inside, outside, scaled = ["height", "width"], ["height", "width"], None
    if fit is not None:
        inside, outside = [fit.height, fit.width], list(fit.shape)
        if inside != outside:
            how = "INTER_AREA" if fit.height < fit.shape[0] else "INTER_LINEAR"  # as Fit.scale has it
            scaled = {"from": outside, "to": inside, "by": f"cv2.resize, {how}"}
    return {
        "images": {
            "shape": ["batch", channels, *inside],
            "dtype": "uint8",
            "range": [0, 255],
            "channels": "RGB" if channels == 3 else "grey",
            "scaled": scaled,
        },
        "probabilities": {
            "shape": ["batch", len(kind.outputs), *(outside if isinstance(kind, PixelKind) else [])],
            "dtype": "float32",
            "of": list(kind.outputs),
        },
    }


def _origin(path: Path, info: SnapshotInfo, kind: Kind) -> dict[str, Any]:
    """Which snapshot it is, what that says of itself, and the rules that its run has stored."""
    said = ("arch", "task", "channels_in", "fold", "data_digest", "val_ids_digest", "metrics")
    return {
        **{name: getattr(info, name) for name in said},
        "snapshot": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "rules": _rules(kind, run_folder_of(path)),
        "torch": torch.__version__,
    }


def _rules(kind: Kind, folder: Path | None) -> dict[str, Any] | None:
    """How probabilities become masks, objects or labels by the JSON files of the run; None where it has none."""
    if folder is None:
        return None
    if not isinstance(kind, PixelKind):
        return (classes := read_class_thresholds(folder)) and classes.thresholds
    if kind.name == "border" and (instances := read_instance_rules(folder)):
        return asdict(instances.rules)
    stored = read_threshold(folder)
    return stored and {"threshold": stored.threshold, "min_area": stored.min_area}


def _greatest_difference(run: Run, predictor: Predictor, shapes: Sequence[tuple[int, int]], channels: int) -> float:
    """Between what a file and the network find in the same images, over batches of several sizes."""
    differences = []
    for place, size in enumerate(BATCHES):
        images = _images(size, shapes[place % len(shapes)], channels)
        with torch.inference_mode():
            expected = predictor.predict(images, [VIEWS["null"]]).numpy()
        found = run(_planes(images, predictor.val))
        if found.shape != expected.shape:
            raise ValueError(f"gives {found.shape} for {size} images instead of {expected.shape}")
        differences.append(np.abs(found - expected).max())
    return float(np.max(differences))


def _images(number: int, shape: tuple[int, int], channels: int) -> np.ndarray:
    """(number, h, w, C) uint8, the same each time: noise alone in the first, soft shapes with a grain in the others."""
    rng = np.random.default_rng([number, *shape])
    coarse = rng.uniform(-60, 316, (number, 1, 5, 5)) + rng.normal(0, 30, (number, channels, 5, 5))
    soft = interpolate(torch.from_numpy(coarse), shape, mode="bicubic").permute(0, 2, 3, 1).numpy()
    images = soft + rng.normal(0, 6, soft.shape)
    images[0] = rng.uniform(0, 255, images[0].shape)
    return images.clip(0, 255).astype(np.uint8)


def _planes(images: np.ndarray, val: ValAug) -> np.ndarray:
    """Images (B, h, w, C) as a file takes them: scaled, (B, C, height, width)."""
    fit = val(images.shape[1:3])
    return np.ascontiguousarray(np.stack([fit.scale(image) for image in images]).transpose(0, 3, 1, 2))


def _others(to: str) -> str:
    return " or ".join(name for name in FORMATS if name != to)


@contextmanager
def _in_one_line(to: str, arch: str) -> Iterator[None]:
    """Exporters fail in any way there is and over pages: the innermost reason is the one that says something.

    What they log is held back: whether the file is right, the comparison says. Their pages come with --debug.
    """
    pages = io.StringIO()
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(pages):
            yield
    except (UserError, OSError, MemoryError):
        raise  # the user's, the disk's or the machine's
    except Exception as error:
        error.add_note(pages.getvalue())
        innermost: BaseException = error
        while innermost.__cause__ is not None:
            innermost = innermost.__cause__
        reason = f"{type(innermost).__name__}: {(str(innermost).strip().splitlines() or [''])[0][:160]}"
        raise Unexportable(
            f"--to {to}: {arch} cannot be exported to it ({reason}); try --to {_others(to)}", reason
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    sys.stderr.write(pages.getvalue())
