"""Unpacking a competition's archive, which a stranger made: nothing lands outside of the folder."""

import shutil
import stat
import zlib
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from utils.errors import UserError
from utils.progress import progress_bar

LITTER = "__MACOSX"
"""A folder of notes that one system puts into its archives."""


class BrokenArchive(UserError):
    """An archive that is best fetched again."""


def unzip_all(archive: Path, folder: Path) -> None:
    """Unpack an archive, and the archives that lie at its top, which are then removed.

    train.zip inside goes to train/, unless it holds a folder (or, as train.csv.zip does, a file) of that name itself.

    Raises:
        BrokenArchive: no zip archive, a truncated, broken or encrypted one.
        UserError: a name or a link in it leads out of the folder, or the disk has no room for it.
    """
    unzip(archive, folder)
    for inner in sorted(folder.glob("*.zip")):
        name = inner.name.removesuffix(".zip")
        unzip(inner, folder if _tops(inner) == {name} else folder / name)
        inner.unlink()


def unzip(archive: Path, folder: Path) -> None:
    """Unpack one archive (raises as `unzip_all` does)."""
    try:
        with ZipFile(archive) as file:
            entries = _files(file)
            for entry in entries:
                _check_entry(archive, entry)
            _check_room(archive, folder, sum(entry.file_size for entry in entries))
            for entry in progress_bar(entries, f"unzip {archive.name}", "file"):
                file.extract(entry, folder)
    except (BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise BrokenArchive(f"{archive}: no zip archive, or a broken or encrypted one ({error})") from None


def _files(file: ZipFile) -> list[ZipInfo]:
    return [entry for entry in file.infolist() if not entry.is_dir() and not entry.filename.startswith(f"{LITTER}/")]


def _tops(archive: Path) -> set[str]:
    """The first part of each name in an archive."""
    try:
        with ZipFile(archive) as file:
            return {entry.filename.partition("/")[0] for entry in _files(file)}
    except BadZipFile:
        return set()  # told when it is unpacked


def _check_entry(archive: Path, entry: ZipInfo) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(entry.external_attr >> 16):
        raise UserError(f"{archive}: refused, {entry.filename!r} in it leads out of the folder; nothing was unpacked")


def _check_room(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if needed > free:
        raise UserError(f"{archive}: unpacked it takes {needed / 1e6:,.1f} MB, there is room for {free / 1e6:,.1f} MB")
