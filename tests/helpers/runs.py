"""Handmade experiment folders, written without any training."""

from pathlib import Path

from helpers.masks import write_masks
from utils.core.files import write_json
from utils.core.settings import to_flat
from utils.core.tables import write_table
from utils.core.training_settings import TrainSettings
from utils.runs.run_folder import stored_flags

COLUMNS = ("epoch", "cycle", "train_loss", "val_loss", "iou", "iout", "lr", "images_per_s", "seconds")


CHOSEN = {
    "recipe": "original",
    "arch": "unet_resnet34_v1",
    "encoder_weights": "imagenet",
    "train_augs": "train_128_v1",
    "val_augs": "val_128",
    "loss": ["BCE"],
    "optimizer": "adam_1e-4",
    "scheduler": "none",
    "batch_size": 32,
    "warmup": 0,
}
"""Flags that training fills in."""


def log_rows(scores, measure="iout"):
    """Return the columns of log.csv: one epoch per score, each of 10 s at 50 images/s."""
    columns = {name: [1] * len(scores) for name in COLUMNS if name != "iout"}
    columns |= {"epoch": range(1, len(scores) + 1), "val_loss": [2 - score for score in scores], measure: scores}
    return {**columns, "images_per_s": [50] * len(scores), "seconds": [10.0] * len(scores)}


def write_run(folder, scores=(0.5, 0.8, 0.7), measure="iout", finished=True, **flags):
    """Write a run of train.py with config.json, log.csv, summary.json and one snapshot, of the best epoch."""
    folder = Path(folder)
    settings = {**to_flat(TrainSettings()), **CHOSEN, "experiment_dir": str(folder), "n_epochs": len(scores), **flags}
    write_json(folder / "config.json", stored_flags(settings))
    if scores:
        write_table(folder / "log.csv", log_rows(scores, measure))
        best_snapshot(folder, scores, measure).write_bytes(b"weights")
    if finished:
        write_json(folder / "summary.json", {"seconds": 10.0 * len(scores), "machine": "cpu (2 threads), bfloat16"})
    return folder


def best_snapshot(folder, scores=(0.5, 0.8, 0.7), measure="iout"):
    """Return the path of the snapshot of the best epoch; create its folder."""
    best = max(range(len(scores)), key=scores.__getitem__)
    (Path(folder) / "snapshots").mkdir(parents=True, exist_ok=True)
    return Path(folder) / "snapshots" / f"epoch_{best + 1}.loss_{2 - scores[best]:.4f}.{measure}_{scores[best]:.3f}"


def write_val_masks(folder, ids, probabilities, data_dir, scores=(0.5, 0.8, 0.7), measure="iout"):
    """Write the validation masks of the snapshot of the best epoch; return their path."""
    path = best_snapshot(folder, scores, measure)
    return write_masks(path.with_name(f"val_masks_{path.name}.npy"), ids, probabilities, data_dir=str(data_dir))
