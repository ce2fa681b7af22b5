"""Output of the synthetic surveys: the check of the output folder, and the writing of images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from utils.core.errors import UsageError
from utils.core.files import atomic_file


def check_folder(out_dir: Path, names: Iterable[str]) -> None:
    """Raise UsageError unless the folder is new, empty, or contains images of this survey only.

    This ensures that no other files are overwritten and that two surveys never mix. If the folder contains images of
    this survey, files that other scripts wrote outside the image folders may stay.

    Args:
        out_dir: folder for the survey.
        names: paths of all images of the survey, relative to `out_dir`.

    Raises:
        UsageError: the folder contains other files, or it is a file.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageError(f"--out_dir {out_dir}: expected a folder, found a file; choose another folder")
    known = {out_dir / name for name in names}
    images = {path for folder in {path.parent for path in known} for path in folder.glob("[!.]*")}
    if images and images <= known:
        return
    example = min(images - known, default=None) or next((path for path in out_dir.rglob("*") if path.is_file()), None)
    if example is not None:
        raise UsageError(
            f"--out_dir {out_dir}: expected only files of this demo, found {example.relative_to(out_dir)}; "
            "choose a new or empty folder"
        )


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write an image, (H, W, 3) uint8 as RGB or (H, W) uint16 as 16-bit grey; .jpg is lossy, .png is lossless."""
    from PIL import Image

    with atomic_file(path) as part:
        if path.suffix == ".jpg":
            Image.fromarray(pixels).save(part, format="JPEG", quality=92)
        else:
            Image.fromarray(pixels).save(part, format="PNG")
