"""The files of a run that utils/share.py copies, and their manifest with the name, size and checksum of each."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from utils.core.errors import UserError
from utils.core.files import read_json
from utils.runs.run_folder import RunFolder, snapshots_in

MANIFEST = "share.json"
FORMAT = 1
FITTED = ("threshold.json", "objects.json", "gate.json", "labels.json")
"""Files that optimize_threshold.py writes; each names the mask or probability files that it was fitted on."""
SHA256 = re.compile(r"[0-9a-f]{64}")
ALONE = ("log.csv", "summary.json", "status.json", "threshold.png", "MODEL_CARD.md", "failures.png")


@dataclass(frozen=True)
class SharedFile:
    """Entry of the manifest."""

    name: str
    """Path relative to the run folder, with `/` as separator."""
    size: int
    """Size in bytes."""
    sha256: str
    """SHA-256 checksum, 64 hexadecimal digits."""


def names_to_share(folder: Path, every_snapshot: bool) -> list[str]:
    """Return the files that a colleague needs to predict with a run and to compare it, relative to its folder.

    config.json comes first, so that an incomplete copy shows which run it belongs to. An array comes before its
    description, because an array without one is refused.

    Args:
        folder: the run folder.
        every_snapshot: include all snapshots with their validation masks, not only the best.

    Raises:
        UserError: the folder holds no run, or the run has no snapshots.
    """
    run = RunFolder(folder)
    if not run.config.is_file():
        raise UserError(f"{folder}: expected the folder of a run, found no {run.config.name} in it")
    snapshots = snapshots_in(folder)
    if not snapshots:
        raise UserError(f"{folder}: no snapshots in this folder, so there is nothing to predict with; train first")
    paths = [run.config, *_arrays(folder)]
    for snapshot in snapshots if every_snapshot else snapshots[:1]:
        paths += [*_with_description(snapshot.val_masks), snapshot.path]
    paths += [folder / name for name in (*ALONE, *FITTED)]
    return list(dict.fromkeys(path.relative_to(folder).as_posix() for path in paths if path.is_file()))


def described(folder: Path, name: str) -> SharedFile:
    """Return the manifest entry of a file, computed from its current content."""
    with open(folder / name, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return SharedFile(name, file.tell(), digest)


def as_manifest(files: Iterable[SharedFile]) -> dict[str, Any]:
    """Return the content of share.json."""
    return {"format": FORMAT, "files": [asdict(file) for file in files]}


def read_manifest_text(text: bytes, origin: str) -> list[SharedFile]:
    """Return the entries of a share.json; its text is not trusted.

    Raises:
        UserError: the text is not a manifest of this project, or a name in it leads out of the run folder.
    """
    try:
        values = json.loads(text)
        files = [SharedFile(**entry) for entry in values["files"]]
        names = {file.name for file in files}
        known = values["format"] == FORMAT and all(map(_is_well_formed, files)) and len(names) == len(files)
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise UserError(
            f"{origin}: expected name, size and sha256 of each file (format {FORMAT}), found something else"
        )
    for file in files:
        path = PurePosixPath(file.name)
        inside = path.parts and not path.is_absolute() and ".." not in path.parts
        if not inside or str(path) != file.name or not file.name.isprintable():
            raise UserError(f"{origin}: refused, it names {file.name!r}, which is not a file inside a run folder")
    return files


def place_of(folder: Path, name: str) -> Path:
    """Return the path of a shared file in a run folder.

    Raises:
        UserError: a symbolic link leads out of the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: refused, a link leads out of {folder}; remove the link or name another folder")
    return path


def _is_well_formed(file: SharedFile) -> bool:
    is_size = type(file.size) is int and file.size >= 0
    return (
        is_size
        and all(isinstance(text, str) for text in (file.name, file.sha256))
        and bool(SHA256.fullmatch(file.sha256))
    )


def _arrays(folder: Path) -> Iterator[Path]:
    """Yield the files in the run folder that its thresholds were fitted on, each with its description."""
    for path in (folder / name for name in FITTED):
        stored = read_json(path) if path.is_file() else {}
        lists = (
            [stored.get(key) for key in ("masks", "probabilities", "gate_probs")] if isinstance(stored, dict) else []
        )
        for name in (name for names in lists if isinstance(names, list) for name in names):
            if isinstance(name, str) and (inside := _inside(folder, Path(name))):
                yield from _with_description(inside)


def _inside(folder: Path, path: Path) -> Path | None:
    """Find the file in the run folder that a stored path, perhaps from another machine, names; None if it is missing.

    The run may have another name here, so the longest end of the path that is a file of the folder is taken.
    """
    if path.resolve().is_relative_to(folder.resolve()):
        return folder / path.resolve().relative_to(folder.resolve())
    ends = (folder.joinpath(*path.parts[first:]) for first in range(1, len(path.parts)))
    return next((end for end in ends if end.is_file()), None)


def _with_description(array: Path) -> list[Path]:
    return [array, array.with_suffix(".json")]
