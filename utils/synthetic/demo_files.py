"""Writing a synthetic survey: into which folder, and how a picture becomes a file."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from utils.core.errors import UsageError
from utils.core.files import whole_file


def check_folder(out_dir: Path, names: Iterable[str]) -> None:
    """Let a folder pass only if it is new, empty, or holds images of these names and no others.

    So nothing of anyone's is overwritten and two surveys never mix; what other scripts put beside the images may stay.

    Args:
        out_dir: the folder.
        names: all images of the survey, as paths below it.

    Raises:
        UsageError: anything else.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageError(f"--out_dir {out_dir}: a file; name a folder")
    known = {out_dir / name for name in names}
    images = {path for folder in {path.parent for path in known} for path in folder.glob("[!.]*")}
    if images and images <= known:
        return
    example = min(images - known, default=None) or next((path for path in out_dir.rglob("*") if path.is_file()), None)
    if example is not None:
        raise UsageError(
            f"--out_dir {out_dir}: holds something else than this demo, such as {example.relative_to(out_dir)}; "
            "name a new or empty folder"
        )


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a picture, (H, W, 3) uint8 as RGB, (H, W) uint16 as 16-bit grey; .jpg with some loss, .png without."""
    from PIL import Image

    with whole_file(path) as part:
        if path.suffix == ".jpg":
            Image.fromarray(pixels).save(part, format="JPEG", quality=92)
        else:
            Image.fromarray(pixels).save(part, format="PNG")
