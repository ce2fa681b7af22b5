"""A run to share, and the files of it that should arrive."""

import numpy as np

from helpers.masks import blobs, write_masks
from helpers.runs import best_snapshot, write_run, write_val_masks
from helpers.scripts import run_here
from utils.core.files import write_json, write_text

IDS = [f"image{row}" for row in range(6)]
ELSEWHERE = "/home/ann/data"
"""Folder of the images on the machine that trained."""
BEST = "epoch_2.loss_1.2000.iout_0.800"
SHARED = {
    "MODEL_CARD.md",
    "config.json",
    "log.csv",
    f"snapshots/{BEST}",
    f"snapshots/val_masks_{BEST}.json",
    f"snapshots/val_masks_{BEST}.npy",
    "summary.json",
    "threshold.json",
    "val_tta.json",
    "val_tta.npy",
}


def run_to_share(folder, ids=IDS, probabilities=None):
    """Write a finished run with masks in its folder, stored thresholds, and files that must not be shared."""
    probabilities = blobs(len(ids))[0] if probabilities is None else probabilities
    write_run(folder, data_dir=ELSEWHERE)
    write_val_masks(folder, ids, probabilities.astype(np.float16), ELSEWHERE)
    write_masks(folder / "val_tta.npy", ids, probabilities.astype(np.float16), data_dir=ELSEWHERE, part="train")
    there = f"/home/ann/experiments/{folder.name}"
    write_json(
        folder / "threshold.json", {"threshold": 0.4, "min_area": 0, "masks": [f"{there}/val_tta.npy", "/x.npy"]}
    )
    write_text(folder / "MODEL_CARD.md", "# a run\n")
    (folder / "state.pt").write_bytes(b"state")
    second = folder / "snapshots" / "epoch_1.loss_1.5000.iout_0.500"
    second.write_bytes(b"older weights")
    write_masks(second.with_name(f"val_masks_{second.name}.npy"), ids, probabilities, data_dir=ELSEWHERE)
    assert best_snapshot(folder).name == BEST
    return folder


def share(command, *words, cwd):
    """Run `utils/share.py COMMAND words...`; return the exit code and the output."""
    return run_here("utils/share.py", command, *words, cwd=cwd)


def shared(command, *words, cwd):
    """Run `utils/share.py COMMAND words...`, which has to succeed; return its standard output."""
    done = share(command, *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
