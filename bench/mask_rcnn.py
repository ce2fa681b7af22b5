"""Train torchvision's Mask R-CNN from scratch for a given time, as a baseline for instances, and score it.

python utils/hold_out.py --data_dir nuclei --fold 4 --out_dir nuclei_held
python bench/mask_rcnn.py --data_dir nuclei_held --fold 0 --model small --minutes 25 --out experiments/mask_rcnn_small
python bench/mask_rcnn.py --data_dir nuclei_held --fold 0 --model resnet50 --minutes 25 --out experiments/mask_rcnn_r50

The network learns from all folds but --fold; the thresholds of scores and masks are then fitted on --fold. The test
part is not used for any choice; the command that is printed last scores it. Try a few values of --rate (1e-4, 3e-4,
1e-3) and keep the one with the best score on the fold.

val_labels.npy, test_labels.npy   (N, H, W) uint16 label maps, 0 = background; their ids are in .json files
test_submission.csv               ImageId,EncodedPixels: one row per object, at the size of the source images
summary.json                      speed, score and thresholds; written last
"""

import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from bench.mask_rcnn_objects import fit_thresholds, write_instance_maps, write_objects
from utils.core.cli import run
from utils.core.errors import UsageError, UserError
from utils.core.files import write_json
from utils.core.training_settings import MachineSettings
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed, read_manifest

SUBMISSION = "test_submission.csv"


@dataclass(frozen=True)
class Settings:
    out: str
    """output folder; it must not hold a finished run."""
    data_dir: str = "nuclei_held"
    """packed folder with label maps and folds."""
    fold: int = 0
    """fold to validate on."""
    model: Literal["small", "resnet50"] = "small"
    """resnet18 with narrow heads, or maskrcnn_resnet50_fpn."""
    minutes: float = 25.0
    """training time in minutes of wall clock; prediction takes additional time."""
    max_steps: int = 0
    """stop after this many steps if that is sooner than --minutes; 0: no limit."""
    batch_size: int = 4
    """images per step."""
    rate: float = 3e-4
    """peak learning rate of AdamW."""
    seed: int = 4545
    """seed of the weights, the order of the images and their rotations and flips."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto is bfloat16 on machines that compute fast with it, float32 on others."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Train, fit the thresholds on the fold, and write the label maps, the submission and the summary."""
    out = Path(settings.out)
    _check(settings, out)
    packed = open_packed(settings.data_dir)
    train_rows, val_rows = fold_rows(settings.data_dir, packed.ids, settings.fold)
    if not len(train_rows):
        raise UserError(
            f"{settings.data_dir}: all images are in fold {settings.fold}, leaving none to train on; make more folds"
        )
    if packed.instances is None:
        raise UserError(
            f"{settings.data_dir}: packed without label maps, which Mask R-CNN needs; use data with separate objects"
        )

    import torch

    from bench import mask_rcnn_parts as parts
    from net.device import machine

    place = machine(MachineSettings(device=settings.device, precision=settings.precision, autotune=True))
    place.tune()
    torch.manual_seed(settings.seed)
    model = parts.build(settings.model, packed.shape, place)
    n_weights = sum(weights.numel() for weights in model.parameters())
    print(f"Mask R-CNN {settings.model}, {n_weights / 1e6:.1f} million weights, on {place}")
    print(f"{len(train_rows)} training images, {len(val_rows)} validation images", flush=True)
    done = parts.train(model, packed.images, packed.instances, train_rows, settings, place.device)
    print(parts.as_line(done, settings.minutes), flush=True)

    start = time.perf_counter()
    detections = list(parts.detect(model, packed.images, val_rows, settings.batch_size, place.device))
    best = fit_thresholds(detections, [packed.instances[row] for row in val_rows])
    print(
        f"fold {settings.fold}: DSB2018 score {best.score:.5f} with fitted thresholds: "
        f"score > {best.score_th}, mask > {best.mask_th}"
    )
    about = {"data_dir": settings.data_dir, "part": "train", "fold": settings.fold}
    write_instance_maps(out / "val_labels.npy", packed, val_rows, detections, best, about)
    if "test" in read_manifest(settings.data_dir).parts:
        test = open_packed(settings.data_dir, "test")
        rows = np.arange(len(test.ids))
        found = list(parts.detect(model, test.images, rows, settings.batch_size, place.device))
        write_instance_maps(out / "test_labels.npy", test, rows, found, best, {**about, "part": "test"})
        write_objects(out / SUBMISSION, test, found, best)
    summary = {
        "model": settings.model,
        "minutes": done.seconds / 60,
        "minutes_after": (time.perf_counter() - start) / 60,
        "steps": done.steps,
        "images_per_s": done.images / done.seconds,
        "loss": done.loss,
        "val_score": best.score,
        "score_th": best.score_th,
        "mask_th": best.mask_th,
        "machine": str(place),
        **{package: version(package) for package in ("torch", "torchvision")},
        "settings": asdict(settings),
    }
    write_json(out / "summary.json", summary)
    print(f"written to {out}")
    if (truth := Path(settings.data_dir) / "truth.csv").is_file() and (out / SUBMISSION).is_file():
        flags = f"--truth {truth} --format dsb2018 --data_dir {settings.data_dir}"
        print(f"score it with: python utils/submission.py score {out / SUBMISSION} {flags}")


def _check(settings: Settings, out: Path) -> None:
    """Raise UsageError if a flag is out of range or the output folder holds a finished run."""
    for flag in ("minutes", "batch_size", "rate"):
        if not 0 < getattr(settings, flag) < float("inf"):
            raise UsageError(f"--{flag} {getattr(settings, flag)}: expected more than 0")
    for flag in ("max_steps", "seed"):
        if getattr(settings, flag) < 0:
            raise UsageError(f"--{flag} {getattr(settings, flag)}: expected 0 or more")
    if (out / "summary.json").is_file():
        raise UsageError(f"--out {out}: already holds a finished run; choose another folder")


if __name__ == "__main__":
    run(main, Settings)
