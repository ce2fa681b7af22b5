"""Mask files, packed folders and plausible probabilities for tests."""

from pathlib import Path

import numpy as np

from utils.competition.decisions import decide_masks
from utils.competition.submission_writing import write_mask_submission
from utils.core.files import write_json
from utils.masks.mask_file import PredictionInfo, binarize, mask_writer
from utils.scoring.mask_metrics import iout


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def write_masks(path, ids, probabilities, **info):
    """Write a mask file with its .json description; return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mask_writer(path, ids, [one.shape for one in probabilities], PredictionInfo(**info)) as writer:
        writer.append(probabilities)
    return path


def write_packed(folder, parts, sizes=None, labels=None):
    """Write a packed folder of black images, as described in utils/data/packed_data.py; return its path.

    Args:
        folder: where to write.
        parts: {"train": (ids, masks or None, shape), ...}.
        sizes: sizes of the source images.
        labels: label maps of the training images.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for part, (ids, masks, shape) in parts.items():
        arrays = {"images": np.zeros((len(ids), *shape, 1), np.uint8)}
        if masks is not None:
            arrays["masks"] = masks.astype(np.uint8)
        if labels is not None and part == "train":
            arrays["labels"] = labels.astype(np.uint16)
        entries = {}
        for name, array in arrays.items():
            file = f"{part}_{name}.npy"
            np.save(folder / file, array)
            entries[name] = {"file": file, "shape": list(array.shape), "dtype": str(array.dtype), "sha256": "0" * 64}
        described[part] = {"ids": list(ids), "arrays": entries, "sizes": sizes}
    write_json(folder / "manifest.json", {"format": 1, "parts": described})
    return folder


def blobs(n_images, shape=(31, 31), seed=0):
    """Return (probabilities float32, truth bool) of N images with noisy probabilities of a disc; some are empty."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[: shape[0], : shape[1]]
    probabilities, truths = [], []
    for image in range(n_images):
        middle, radius = rng.uniform(0, min(shape), 2), rng.uniform(3, 12) if image % 3 else -5
        outside = np.hypot(down - middle[0], across - middle[1]) - radius
        truths.append(outside < 0)
        probabilities.append(1 / (1 + np.exp(outside / 2 + rng.normal(0, 1) + rng.normal(0, 0.7, shape))))
    return np.array(probabilities, dtype=np.float32), np.array(truths)


def score_at(probabilities, truth, th, min_area=0):
    """Return the mean score at one threshold, computed directly."""
    masks = binarize(probabilities, th)
    masks[masks.sum(axis=(1, 2)) < min_area] = False
    return iout(masks, truth)


def every_threshold(probabilities):
    """Return all thresholds at which a mask changes; the score is constant from one up to the next."""
    return sorted({0.0, *np.unique(probabilities).astype(np.float64).tolist()})


def submit(masks, settings, rules, runs=(), data_dir=None, gated_out=None, gate_th=None):
    """Write the submission of an opened mask file as the predict scripts do; `gated_out`: ids, None without a gate."""
    folder = data_dir or masks.info.data_dir
    decisions = decide_masks(
        settings,
        rules,
        runs,
        masks.info,
        Path(folder) if folder and Path(folder).is_dir() else None,
        has_border=masks.border is not None,
        gate_th=gate_th,
        has_gate=gated_out is not None,
    )
    return write_mask_submission(masks, decisions, settings, gated_out)
