"""Run Kaggle's client (the program `kaggle`), and safely unpack the archives that it downloads."""

import os
import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from utils.core.errors import UserError
from utils.core.progress import progress_bar

ADVICE = {
    "401": "the token was refused; make a new one in your Kaggle settings, under API",
    "403": "accept the competition's rules on its page at Kaggle first",
    "404": "no such competition; its name is the last part of its page's address",
}
"""HTTP status of an error -> advice for the user."""
FAILURE_TEXTS = ("Could not submit", "Could not find competition", "User cancelled")
"""Texts that the client prints when it fails with exit code 0."""

NO_TOKEN = (
    "no Kaggle token found; make one in your Kaggle settings, under API, and save it as ~/.kaggle/access_token "
    "(or set KAGGLE_API_TOKEN to it)"
)


def find_client() -> str:
    """Return the path of the client: the first on PATH, else the one in the folder of this Python.

    Raises:
        UserError: the client is not installed.
    """
    own_folder = str(Path(sys.executable).parent)
    found = shutil.which("kaggle") or shutil.which("kaggle", path=own_folder)
    if found is None:
        raise UserError("the program kaggle is not installed; pip install -e '.[kaggle]'")
    return found


def check_token(environment: Mapping[str, str] = os.environ) -> None:
    """Check that there is a token where the client looks for one; only Kaggle can tell whether it is valid.

    Raises:
        UserError: there is no token; the message says where to save it.
    """
    home = Path(environment.get("HOME") or Path.home())
    own = home / ".kaggle"
    elsewhere = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    settings = Path(environment.get("KAGGLE_CONFIG_DIR") or (own if own.exists() else elsewhere))
    files = [own / "access_token", own / "access_token.txt", own / "credentials.json", settings / "kaggle.json"]
    if notebook := environment.get("KAGGLE_API_V1_TOKEN"):  # in Kaggle's notebooks
        files.append(Path(notebook))
    given = environment.get("KAGGLE_API_TOKEN") or (
        environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY")
    )
    if not given and not any(path.is_file() and path.stat().st_size for path in files):
        raise UserError(NO_TOKEN)


def run_client(client: str, words: Sequence[str]) -> str:
    """Run the client and return its output; show its progress bar if stderr is a terminal.

    Raises:
        UserError: the client failed; the message has its reason and advice.
    """
    with subprocess.Popen(
        [client, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            errors = _echoed(child.stderr.fileno())
            output = child.stdout.read().decode(errors="replace").strip()
        except BaseException:
            child.terminate()
            raise
    if child.returncode or any(text in output for text in FAILURE_TEXTS):
        raise UserError(f"kaggle: {_reason(output, errors)}")
    return output


def _echoed(descriptor: int) -> str:
    """Return the last 4096 bytes of a pipe as text; copy all of it to a terminal, because it has the progress bar."""
    shown, tail = sys.stderr.isatty(), b""
    while chunk := os.read(descriptor, 4096):
        if shown:
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
        tail = (tail + chunk)[-4096:]
    return tail.decode(errors="replace").strip()


def _reason(output: str, errors: str) -> str:
    if output.startswith("Authentication required"):
        return ADVICE["401"]
    reason = (errors or output or "the client failed and printed no reason").splitlines()[-1].strip()
    advice = next((text for status, text in ADVICE.items() if reason.startswith(f"{status} ")), None)
    return f"{reason}; {advice}" if advice else reason


MACOS_FOLDER = "__MACOSX"
"""Folder of metadata that macOS adds to archives."""


class BrokenArchive(UserError):
    """An archive that should be downloaded again."""


def unzip_all(archive: Path, folder: Path) -> None:
    """Unpack an archive and the archives at its top level, and remove the latter.

    An inner train.zip is unpacked to train/, unless its only top-level entry is a folder, or a file as in
    train.csv.zip, that has this name already.

    Raises:
        BrokenArchive: the file is not a zip archive, or is truncated, broken or encrypted.
        UserError: a name or a link in an archive leads out of the folder, or the disk has too little room.
    """
    unzip(archive, folder)
    for inner in sorted(folder.glob("*.zip")):
        name = inner.name.removesuffix(".zip")
        unzip(inner, folder if _tops(inner) == {name} else folder / name)
        inner.unlink()


def unzip(archive: Path, folder: Path) -> None:
    """Unpack one archive; raise errors as `unzip_all` does."""
    try:
        with ZipFile(archive) as file:
            entries = _files(file)
            for entry in entries:
                _check_entry(archive, entry)
            _check_room(archive, folder, sum(entry.file_size for entry in entries))
            for entry in progress_bar(entries, f"unzip {archive.name}", "file"):
                file.extract(entry, folder)
    except (BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise BrokenArchive(f"{archive}: not a zip archive, or a broken or encrypted one ({error})") from None


def _files(file: ZipFile) -> list[ZipInfo]:
    return [
        entry for entry in file.infolist() if not entry.is_dir() and not entry.filename.startswith(f"{MACOS_FOLDER}/")
    ]


def _tops(archive: Path) -> set[str]:
    """Return the names of the top-level entries of an archive."""
    try:
        with ZipFile(archive) as file:
            return {entry.filename.partition("/")[0] for entry in _files(file)}
    except BadZipFile:
        return set()  # `unzip` reports it


def _check_entry(archive: Path, entry: ZipInfo) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(entry.external_attr >> 16):
        raise UserError(
            f"{archive}: refused, its entry {entry.filename!r} leads out of the folder; nothing was unpacked"
        )


def _check_room(archive: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if needed > free:
        raise UserError(
            f"{archive}: needs {needed / 1e6:,.1f} MB to unpack, found {free / 1e6:,.1f} MB free; make room"
        )
