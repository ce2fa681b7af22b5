"""What several tests of masks, thresholds and submissions build on."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from utils.files import write_json
from utils.mask_file import mask_writer

ROOT = Path(__file__).resolve().parent.parent


def run_script(script, *words, cwd):
    """The finished process of `python <script> words...`, started in `cwd` as a user would."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_here(script, *words, cwd):
    """The same without the half second of a new process, for the many ways to be wrong."""
    out, err, code, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = [str(ROOT / script), *map(str, words)]
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = argv
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def assert_refused(done, code, *words):
    """One line on stderr with `words` in it, no traceback, this exit code."""
    assert done.returncode == code, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert str(word) in done.stderr


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def write_masks(path, ids, probabilities, **about):
    """A mask file with its description."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mask_writer(path, ids, probabilities.shape[1:], about) as writer:
        writer.append(probabilities)
    return path


def write_packed(folder, parts, sizes=None):
    """A packed folder as utils/stack.py describes it: parts is {"train": (ids, masks or None, shape), ...}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for part, (ids, masks, shape) in parts.items():
        arrays = {"images": np.zeros((len(ids), *shape, 1), np.uint8)}
        if masks is not None:
            arrays["masks"] = masks.astype(np.uint8)
        entries = {}
        for name, array in arrays.items():
            file = f"{part}_{name}.npy"
            np.save(folder / file, array)
            entries[name] = {"file": file, "shape": list(array.shape), "dtype": str(array.dtype), "sha256": "0" * 64}
        described[part] = {"ids": list(ids), "arrays": entries, "sizes": sizes}
    write_json(folder / "manifest.json", {"format": 1, "parts": described})
    return folder


def blobs(n_images, shape=(31, 31), seed=0):
    """(probabilities float32, truth bool) of N images: a disc each, some empty, probabilities noisy around it."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[: shape[0], : shape[1]]
    probabilities, truths = [], []
    for image in range(n_images):
        middle, radius = rng.uniform(0, min(shape), 2), rng.uniform(3, 12) if image % 3 else -5
        outside = np.hypot(down - middle[0], across - middle[1]) - radius
        truths.append(outside < 0)
        probabilities.append(1 / (1 + np.exp(outside / 2 + rng.normal(0, 1) + rng.normal(0, 0.7, shape))))
    return np.array(probabilities, dtype=np.float32), np.array(truths)
