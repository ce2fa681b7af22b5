"""The one way to write a file: under a hidden name beside it, flushed to the disk, then renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.core.errors import UserError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield the name to write to; when the block ends well, the file appears under `path` in one step.

    A reader never sees half a file, and a failure or a kill leaves what stood under `path` as it was. The temporary
    name is always the same (`.NAME.part`), so that the next try replaces what a kill left behind.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a full disk does not say where it is
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file (UTF-8, line ends as they are)."""
    with whole_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write plain values as indented JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """The plain values in a JSON file.

    Raises:
        UserError: no such file, or no JSON in it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected JSON, found something else ({error}); write it anew or remove it") from None


def timestamped(folder: str | Path, fn: str) -> Path:
    """Return <folder>/<fn>_<year>-<month>-<day>_<hour>:<minute>.csv; if that exists, ..._2.csv, and so on."""
    stem = f"{fn}_{datetime.now():%Y-%m-%d_%H:%M}"
    path, number = Path(folder) / f"{stem}.csv", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}_{number}.csv")
    return path
