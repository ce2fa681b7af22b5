"""Reading and atomic writing of files: a hidden file in the same folder is written, flushed to the disk and renamed."""

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.core.errors import UserError

BETWEEN_TRIES_S = 0.05


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; if the block succeeds, the file is moved to `path` in one step.

    Readers never see an incomplete file, and a failure or kill leaves an existing file at `path` unchanged. The
    temporary name is always `.NAME.part`, so that the next attempt overwrites what a killed one left behind.

    Raises:
        IsADirectoryError: `path` is a folder; raised before the block runs.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part = part_of(path)
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
            error.filename = str(path)  # the error of a full disk has no file name
        raise


def part_of(path: Path) -> Path:
    """Return the temporary path to which `atomic_file` writes."""
    return path.with_name(f".{path.name}.part")


def _sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, patience_s: float = math.inf) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which ends with the process, even if it is killed.

    Folders of file systems without locks, such as some network disks, are not locked.

    Raises:
        BlockingIOError: another process still holds the lock after `patience_s` seconds.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(BETWEEN_TRIES_S)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 and with line endings unchanged."""
    with atomic_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write plain values as JSON, atomically; None for `indent` writes one line, four times as fast."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the plain values in a JSON file.

    Raises:
        UserError: the file is missing, is a folder or does not contain valid JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: expected a JSON file, found a folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected JSON, found something else ({error}); write it again or remove it") from None
