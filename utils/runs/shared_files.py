"""What of a run is shared, and the manifest beside it: name, size and checksum of every file."""

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
"""What optimize_threshold.py writes; each names the mask (or probability) files that it is from."""
SHA256 = re.compile(r"[0-9a-f]{64}")
ALONE = ("log.csv", "summary.json", "status.json", "threshold.png", "MODEL_CARD.md", "failures.png")


@dataclass(frozen=True)
class SharedFile:
    """One entry of the manifest."""

    name: str
    """Relative to the run folder, with `/` between."""
    size: int
    """Bytes."""
    sha256: str
    """64 hexadecimal digits."""


def names_to_share(folder: Path, every_snapshot: bool) -> list[str]:
    """The files of a run that a colleague needs to predict with it and to compare it, relative to its folder.

    config.json comes first, so that a copy that was cut short says which run it is of; arrays before their
    descriptions, as an array without one is refused.

    Args:
        folder: of the run.
        every_snapshot: all snapshots with their validation masks, not only the best.

    Raises:
        UserError: no run, or no snapshot in it.
    """
    run = RunFolder(folder)
    if not run.config.is_file():
        raise UserError(f"{folder}: expected the folder of a run, found no {run.config.name} in it")
    snapshots = snapshots_in(folder)
    if not snapshots:
        raise UserError(f"{folder}: no snapshots in it, so there is nothing to predict with; train first")
    paths = [run.config, *_arrays(folder)]
    for snapshot in snapshots if every_snapshot else snapshots[:1]:
        paths += [*_with_description(snapshot.val_masks), snapshot.path]
    paths += [folder / name for name in (*ALONE, *FITTED)]
    return list(dict.fromkeys(path.relative_to(folder).as_posix() for path in paths if path.is_file()))


def described(folder: Path, name: str) -> SharedFile:
    """The entry of a file as it is now."""
    with open(folder / name, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return SharedFile(name, file.tell(), digest)


def as_manifest(files: Iterable[SharedFile]) -> dict[str, Any]:
    """What share.json holds."""
    return {"format": FORMAT, "files": [asdict(file) for file in files]}


def read_manifest_text(text: bytes, origin: str) -> list[SharedFile]:
    """The entries of a share.json, which a stranger may have written.

    Raises:
        UserError: no manifest of this project, or one with a name that leads out of the run folder.
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
            raise UserError(f"{origin}: refused, it names {file.name!r}, which is no file inside a run folder")
    return files


def place_of(folder: Path, name: str) -> Path:
    """Where a shared file goes in a run folder.

    Raises:
        UserError: a link there leads out of the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path}: refused, a link there leads out of {folder}; remove it or name another folder")
    return path


def _is_well_formed(file: SharedFile) -> bool:
    is_size = type(file.size) is int and file.size >= 0
    return (
        is_size
        and all(isinstance(text, str) for text in (file.name, file.sha256))
        and bool(SHA256.fullmatch(file.sha256))
    )


def _arrays(folder: Path) -> Iterator[Path]:
    """The files inside the run folder that its thresholds were fitted on, each with its description."""
    for path in (folder / name for name in FITTED):
        stored = read_json(path) if path.is_file() else {}
        lists = (
            [stored.get(key) for key in ("masks", "probabilities", "gate_probs")] if isinstance(stored, dict) else []
        )
        for name in (name for names in lists if isinstance(names, list) for name in names):
            if isinstance(name, str) and (inside := _inside(folder, Path(name))):
                yield from _with_description(inside)


def _inside(folder: Path, path: Path) -> Path | None:
    """A path in the run folder, written as it was where the run was made; None: it was somewhere else."""
    if path.resolve().is_relative_to(folder.resolve()):
        return folder / path.resolve().relative_to(folder.resolve())
    parts, own = path.parts, folder.resolve().name
    if own not in parts:
        return None
    after = len(parts) - parts[::-1].index(own)
    return folder.joinpath(*parts[after:])


def _with_description(array: Path) -> list[Path]:
    return [array, array.with_suffix(".json")]
