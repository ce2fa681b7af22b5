"""Kaggle's own client (the program `kaggle`), and safe unpacking of the archives that it fetches."""

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
"""Status that Kaggle answers with -> what helps."""
UNSAID = ("Could not submit", "Could not find competition", "User cancelled")
"""How the client says that it failed where its exit code does not."""

NO_TOKEN = (
    "no Kaggle token found; make one in your Kaggle settings, under API, and save it as ~/.kaggle/access_token "
    "(or set KAGGLE_API_TOKEN to it)"
)


def find_client() -> str:
    """The path of the client: the first on PATH, else the one beside this Python.

    Raises:
        UserError: it is not installed.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which("kaggle") or shutil.which("kaggle", path=beside)
    if found is None:
        raise UserError("the program kaggle is not installed; pip install -e '.[kaggle]'")
    return found


def check_token(environment: Mapping[str, str] = os.environ) -> None:
    """See that there is a token where the client looks for one; whether it is a good one, Kaggle says.

    Raises:
        UserError: there is none; the line says where it goes.
    """
    home = Path(environment.get("HOME") or Path.home())
    own = home / ".kaggle"
    elsewhere = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    settings = Path(environment.get("KAGGLE_CONFIG_DIR") or (own if own.exists() else elsewhere))
    files = [own / "access_token", own / "access_token.txt", own / "credentials.json", settings / "kaggle.json"]
    if notebook := environment.get("KAGGLE_API_V1_TOKEN"):  # in Kaggle's own notebooks
        files.append(Path(notebook))
    given = environment.get("KAGGLE_API_TOKEN") or (
        environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY")
    )
    if not given and not any(path.is_file() and path.stat().st_size for path in files):
        raise UserError(NO_TOKEN)


def ask_kaggle(client: str, words: Sequence[str]) -> str:
    """Run the client and return what it answers; on a terminal its progress bar is shown.

    Raises:
        UserError: it failed; the line has its reason, and what helps.
    """
    with subprocess.Popen(
        [client, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            errors = _echoed(child.stderr.fileno())
            answer = child.stdout.read().decode(errors="replace").strip()
        except BaseException:
            child.terminate()
            raise
    if child.returncode or any(text in answer for text in UNSAID):
        raise UserError(f"kaggle: {_reason(answer, errors)}")
    return answer


def _echoed(descriptor: int) -> str:
    """The last that a pipe had to say; a terminal sees all of it meanwhile, as a progress bar comes this way."""
    shown, tail = sys.stderr.isatty(), b""
    while chunk := os.read(descriptor, 4096):
        if shown:
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
        tail = (tail + chunk)[-4096:]
    return tail.decode(errors="replace").strip()


def _reason(answer: str, errors: str) -> str:
    if answer.startswith("Authentication required"):
        return ADVICE["401"]
    said = (errors or answer or "it failed without a word").splitlines()[-1].strip()
    advice = next((text for status, text in ADVICE.items() if said.startswith(f"{status} ")), None)
    return f"{said}; {advice}" if advice else said


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
