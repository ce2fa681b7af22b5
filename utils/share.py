"""Share a run with a colleague: copy the files that are needed to predict with it and to compare it.

python utils/share.py push experiments/unet_fold0 s3://lab/salt/unet_fold0
python utils/share.py pull experiments/unet_fold0 s3://lab/salt/unet_fold0
python utils/share.py push experiments/unet_fold0 ssh://gpu1/data/shared/unet_fold0
python utils/share.py push experiments/unet_fold0 /mnt/lab/unet_fold0

Every file is compared by its checksum, and a file that differs is never overwritten. To continue an interrupted copy,
run the same command again. s3://, gs:// and ssh:// need `pip install -e '.[share]'`.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from utils.core.cli import run_commands
from utils.core.errors import UsageError, UserError
from utils.core.files import atomic_file, read_json, write_json
from utils.core.progress import progress_bar
from utils.runs.remote_folder import RemoteFolder, Seen, remote_folder, without_password
from utils.runs.shared_files import (
    MANIFEST,
    SharedFile,
    as_manifest,
    described,
    names_to_share,
    place_of,
    read_manifest_text,
)
from utils.runs.status import STATUS_FILE as STATUS
from utils.runs.status import read_status

Experiment = Annotated[Positional[str], arg(metavar="EXPERIMENT")]
Url = Annotated[Positional[str], arg(metavar="URL")]
LONGEST_MANIFEST = 2**24
"""Maximum size of a manifest in bytes."""


@dataclass(frozen=True)
class PushSettings:
    """All flags of share.py push."""

    experiment: Experiment
    """folder of the run."""
    url: Url
    """destination, used by this run only: a folder, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, ssh://[USER@]HOST/FOLDER."""
    all: bool = False
    """push every snapshot with its validation masks, not only the best."""
    debug: bool = False
    """show the traceback of an error."""


@dataclass(frozen=True)
class PullSettings:
    """All flags of share.py pull."""

    experiment: Experiment
    """folder for the run: a new one, or one that holds an incomplete pull of this run."""
    url: Url
    """source: the URL that was given to push."""
    debug: bool = False
    """show the traceback of an error."""


def push(settings: PushSettings) -> None:
    """Send the files that are missing at the URL, and the manifest last."""
    folder = _experiment(settings.experiment)
    if not folder.exists() and (Path(settings.url) / "config.json").is_file():
        raise UsageError(f"{folder}: no such folder; name the folder of the run first, then the URL")
    _check_finished(folder)
    with _while_it_stays(folder), remote_folder(settings.url) as remote:
        names = names_to_share(folder, settings.all)
        stamps = {name: _stamp(folder / name) for name in names}
        files = [described(folder, name) for name in names]
        shared = {file.name: file for file in _manifest_of(remote) or []}
        with _bar("push", files) as begin:
            missing = [file for file in files if not _is_there(remote, file, shared.get(file.name), begin())]
            for file in missing:
                seen = begin()
                remote.send(folder / file.name, file.name, seen)
                seen(file.size)
                if _stamp(folder / file.name) != stamps[file.name]:
                    raise _changed(folder / file.name)
        if set(files) - set(shared.values()):
            _write_manifest(remote, {**shared, **{file.name: file for file in files}}.values())
    print(_summary(remote.shown, files, missing))


def pull(settings: PullSettings) -> None:
    """Fetch the files that are missing in the folder; each is checked before it appears under its name."""
    folder = _experiment(settings.experiment)
    with remote_folder(settings.url) as remote:
        files = _manifest_of(remote)
        if files is None and (folder / MANIFEST).is_file():
            raise UsageError(f"{folder}: holds a shared run; name the new folder of the run first, then the URL")
        if files is None and remote.is_empty():
            raise UserError(f"{remote.shown}: nothing is shared there; check the URL with whoever pushed the run")
        if files is None:
            raise UserError(
                f"{remote.shown}: expected {MANIFEST}, found none; either the URL is wrong, or a push was interrupted "
                "and must be run again"
            )
        missing = [file for file in files if not _is_here(folder, file)]
        _check_folder(folder, files, missing)
        with _bar("pull", missing) as begin:
            for file in missing:
                _fetch(remote, file, place_of(folder, file.name), begin())
    print(_summary(str(folder), files, missing))
    if data_dir := _data_dir(folder / "config.json"):
        print(f"trained on the images in {data_dir}; if yours are elsewhere, name them with --data_dir (or --truth_fn)")


def _experiment(word: str) -> Path:
    if "://" in word:
        raise UsageError(f"{without_password(word)}: expected the folder of the run first, then the URL")
    return Path(word)


def _check_finished(folder: Path) -> None:
    """Raise UserError if the run is still running, because its files would change after they are sent."""
    status = read_status(folder)
    if status and status.state == "running":
        raise UserError(
            f"{folder}: is still being trained on {status.host}; push it when training has ended (if it has ended "
            f"without updating {STATUS}, remove that file)"
        )


def _manifest_of(remote: RemoteFolder) -> list[SharedFile] | None:
    """Read the manifest of a shared folder; return None if no push was completed."""
    size, origin = remote.size(MANIFEST), f"{remote.shown}/{MANIFEST}"
    if size is None:
        return None
    if size > LONGEST_MANIFEST:
        raise UserError(f"{origin}: expected a list of files, found {size} bytes")
    return read_manifest_text(remote.read(MANIFEST), origin)


def _write_manifest(remote: RemoteFolder, files: Iterable[SharedFile]) -> None:
    with tempfile.TemporaryDirectory() as place:
        write_json(Path(place) / MANIFEST, as_manifest(files))
        remote.send(Path(place) / MANIFEST, MANIFEST, lambda _: None)


def _is_there(remote: RemoteFolder, file: SharedFile, listed: SharedFile | None, seen: Seen) -> bool:
    """Return True if a file is at the URL already.

    A remote file that no manifest lists, because its push was interrupted, is read to compare its checksum.

    Raises:
        UserError: a different file of that name is there.
    """
    size = remote.size(file.name)
    same = listed == file if listed else size is None or size == file.size
    if same and size is not None:
        same = size == file.size if listed else remote.sha256(file.name, seen) == file.sha256
        seen(file.size)
    if not same:
        raise UserError(
            f"{remote.shown}/{file.name}: already exists and differs from yours, so nothing was sent; "
            "push to another URL"
        )
    return size is not None


def _is_here(folder: Path, file: SharedFile) -> bool:
    """Return True if a file is in the folder already; raise UserError if a different file of that name is there."""
    path = place_of(folder, file.name)
    if not path.exists():
        return False
    if path.stat().st_size != file.size or described(folder, file.name) != file:
        raise UserError(
            f"{path}: already exists and differs from the shared file, so nothing was fetched; pull into another folder"
        )
    return True


def _check_folder(folder: Path, files: Sequence[SharedFile], missing: Sequence[SharedFile]) -> None:
    """Check that the folder holds nothing except files of this run, and that the disk has room."""
    if len(missing) == len(files) and folder.exists():
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise UserError(f"{folder}: expected a new folder for the run, found {', '.join(others[:3])} in it")
    needed = sum(file.size for file in missing)
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if needed > free:
        raise UserError(f"{folder}: the files need {needed / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free")


def _fetch(remote: RemoteFolder, file: SharedFile, path: Path, seen: Seen) -> None:
    """Fetch one file; it appears under its name only if its size and checksum match the manifest."""
    with atomic_file(path) as part:
        size = remote.size(file.name)
        if size == file.size:
            remote.fetch(file.name, part, seen)
        if size != file.size or replace(described(part.parent, part.name), name=file.name) != file:
            what = "is missing" if size is None else "is not what was pushed (its size or checksum differs)"
            raise UserError(f"{remote.shown}/{file.name}: {what}; remove it there and push the run again")
        seen(file.size)


def _data_dir(config: Path) -> str | None:
    flags = read_json(config) if config.is_file() else {}
    return flags.get("data_dir") if isinstance(flags, dict) else None


def _stamp(path: Path) -> tuple[int, int]:
    """Return the size and the modification time of a file, to detect changes."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def _while_it_stays(folder: Path) -> Iterator[None]:
    """Report a file that disappears during a push; a run that continues training removes snapshots."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename and Path(error.filename).resolve().is_relative_to(folder.resolve()):
            raise _changed(Path(error.filename)) from None
        raise


def _changed(path: Path) -> UserError:
    return UserError(f"{path}: changed while it was being sent; push to another URL when the run is finished")


@contextmanager
def _bar(title: str, files: Sequence[SharedFile]) -> Iterator[Callable[[], Seen]]:
    """Show a progress bar over the bytes of all files.

    Yields:
        a function to call at the start of each file. It returns a function that takes the number of bytes of this file
        that are done and moves the bar.
    """
    with progress_bar(None, title, "B", total=sum(file.size for file in files)) as bar:
        bar.unit_scale = True

        def begin() -> Seen:
            before = bar.n
            return lambda done: bar.update(before + done - bar.n)

        yield begin


def _summary(where: str, files: Sequence[SharedFile], missing: Sequence[SharedFile]) -> str:
    size, before = sum(file.size for file in files) / 1e6, len(files) - len(missing)
    return f"{where}: {len(files)} files, {size:.1f} MB" + (f"; {before} already existed" if before else "")


if __name__ == "__main__":
    run_commands({"push": (push, PushSettings), "pull": (pull, PullSettings)})
