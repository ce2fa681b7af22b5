"""Fetch a Kaggle competition's files, and submit to it, by Kaggle's own client (pip install -e '.[kaggle]').

python utils/contest.py download --competition tgs-salt-identification-challenge --data_dir data
python utils/contest.py submit submissions/final.csv --competition tgs-salt-identification-challenge --message "5 folds"

The same as `make download-data` and `make submit FILE=submissions/final.csv`. A submission is checked first, and what
would be refused is not sent.
"""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from utils.competition.class_submission import NUMBER, check_class_submission
from utils.competition.kaggle import BrokenArchive, ask_kaggle, check_token, find_client, unzip_all
from utils.competition.submission_check import sample_in
from utils.core.cli import run_commands
from utils.core.errors import Interrupted, UsageError, UserError
from utils.core.tables import read_table
from utils.data.formats import RLE_COLUMNS
from utils.data.layouts import LAYOUTS, find_source
from utils.data.source_files import header_of
from utils.submission import CheckSettings, check

TGS = "tgs-salt-identification-challenge"
WORK = ".download"
"""Folder in the data folder, while a download is under way."""


@dataclass(frozen=True)
class DownloadSettings:
    competition: str = TGS
    """the last part of the address of the competition's page."""
    data_dir: str = "data"
    """folder for the files: a new or an empty one."""
    debug: bool = False
    """show the traceback of an error."""


@dataclass(frozen=True)
class SubmitSettings:
    sub: Positional[str]
    """the submission, a csv file."""
    competition: str = TGS
    """the last part of the address of the competition's page."""
    message: str | None = None
    """what to call it in the list of submissions; default: the name of the file."""
    data_dir: str = "data"
    """folder with the packed images and the sample submission, to check it with."""
    shape: str | None = None
    """<height>x<width> of every image; default: as packed in data_dir if it is there, else 101x101."""
    format: Literal["tgs", "dsb2018", "airbus", "carvana"] | None = None
    """the competition whose rules it follows; default: by the sample's columns, else by its own."""
    debug: bool = False
    """show the traceback of an error."""


def download(settings: DownloadSettings) -> None:
    """Fetch, unpack, and put the files in place when all are there."""
    folder = Path(settings.data_dir)
    _check_name(settings.competition)
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    if there := [entry.name for entry in entries if not entry.name.startswith(".")]:
        shown = ", ".join(there[:3]) + (", ..." if there[3:] else "")
        raise UserError(f"--data_dir {folder}: already holds {shown}; name a new folder")
    client = find_client()
    check_token()
    work = folder / WORK / settings.competition
    work.mkdir(parents=True, exist_ok=True)
    try:
        ask_kaggle(client, ["competitions", "download", settings.competition, "--path", str(work)])
        names = _unpack(work, folder)
        shutil.rmtree(work)
    except KeyboardInterrupt:
        raise Interrupted(2, f"interrupted; the same command goes on with what has come, in {folder / WORK}") from None
    finally:
        with suppress(OSError):  # what has come of a download that was cut short stays for the next try
            work.rmdir()
        with suppress(OSError):
            work.parent.rmdir()
    print(f"{folder}: {', '.join(names)}")
    _tell_layout(folder)


def submit(settings: SubmitSettings) -> None:
    """Check the file as `utils/submission.py check` does, then send it and print what Kaggle says."""
    if not settings.sub:
        raise UsageError("name the file to submit: make submit FILE=submissions/final.csv")
    _check_name(settings.competition)
    _check(settings)
    client = find_client()
    check_token()
    message = settings.message or Path(settings.sub).name
    words = ["competitions", "submit", settings.competition, f"--file={settings.sub}", f"--message={message}"]
    print(ask_kaggle(client, words))


def _check_name(competition: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", competition):
        raise UsageError(f"--competition {competition}: expected the last part of its page's address, such as {TGS}")


def _unpack(work: Path, folder: Path) -> list[str]:
    """Unpack what the client has left in `work` (or take it as it is), and move it into `folder`, all of it or nothing.

    Returns:
        the names that are in `folder` now.
    """
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    fetched = [path for path in work.glob(f"{work.name}.*") if path.suffix != ".kaggle-partial"]
    if not fetched:
        raise UserError(f"kaggle: ended well, but there is no {work.name}.zip in {work}; try again")
    unpacked.mkdir()
    for path in fetched:
        if path.suffix != ".zip":
            shutil.copy(path, unpacked)
            continue
        try:
            unzip_all(path, unpacked)
        except BrokenArchive as error:
            path.unlink()  # otherwise the client would take it for a finished download
            raise UserError(f"{error}; removed, the same command fetches it again") from None
    moved: list[Path] = []
    try:
        for path in sorted(unpacked.iterdir()):
            os.rename(path, folder / path.name)
            moved.append(path)
    except BaseException:
        for path in moved:
            os.rename(folder / path.name, path)
        raise
    return sorted(path.name + "/" * (folder / path.name).is_dir() for path in moved)


def _tell_layout(folder: Path) -> None:
    try:
        source = find_source(folder)
    except UserError as error:
        print(f"not in a layout that utils/stack_and_save.py knows: {error}")
        return
    looks = LAYOUTS[source.layout][0]
    print(f"{len(source.train)} training and {len(source.test)} test images; layout {source.layout} ({looks})")
    print(f"next: python utils/stack_and_save.py --data_dir {folder}")


def _check(settings: SubmitSettings) -> None:
    """Raise a UserError for what Kaggle would refuse, after printing what is wrong with it."""
    sample = sample_in(settings.data_dir)
    header = header_of(sample or Path(settings.sub))
    if not header or not set(header).isdisjoint(RLE_COLUMNS):
        check(CheckSettings(settings.sub, None, settings.shape, settings.data_dir, settings.format))
        return
    if sample is None:
        raise UserError(
            f"--data_dir {settings.data_dir}: no sample submission to check {settings.sub} with; put it there"
        )
    verdict = check_class_submission(settings.sub, sample, _labels(settings.sub, sample), exclusive=False)
    print(verdict.as_text())
    if verdict.problems:
        raise UserError(f"{settings.sub}: not valid, {len(verdict.problems)} problems")


def _labels(path: str, sample: Path) -> list[str]:
    """The labels that a submission may name: the columns themselves where probabilities are wanted, else all words."""
    ours, wanted = read_table(path), read_table(sample)
    columns = list(wanted)[1:]
    known = {word for column in columns for cell in wanted[column] for word in cell.split()}
    if len(columns) > 1 or (all(map(NUMBER.fullmatch, known)) and any("." in word for word in known)):
        return columns
    return sorted(known.union(*(cell.split() for column in columns for cell in ours.get(column, []))))


if __name__ == "__main__":
    run_commands({"download": (download, DownloadSettings), "submit": (submit, SubmitSettings)})
