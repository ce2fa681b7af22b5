"""Download the files of a Kaggle competition, and submit to it, with Kaggle's client (pip install -e '.[kaggle]').

python utils/contest.py download --competition tgs-salt-identification-challenge --data_dir data
python utils/contest.py submit submissions/final.csv --competition tgs-salt-identification-challenge --message "5 folds"

`make download-data` and `make submit FILE=submissions/final.csv` run the same commands. A submission is checked first
and is only sent if it is valid.
"""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from utils.competition.class_submission import NUMBER, check_class_submission
from utils.competition.kaggle import BrokenArchive, check_token, find_client, run_client, unzip_all
from utils.competition.submission_check import sample_in
from utils.core.cli import run_commands
from utils.core.errors import Interrupted, UsageError, UserError
from utils.core.settings import OptionalFormat, OptionalText, Texts
from utils.core.tables import read_table
from utils.data.formats import RLE_COLUMNS
from utils.data.layouts import LAYOUTS, find_source
from utils.data.source_files import header_of
from utils.submission import CheckSettings, check

TGS = "tgs-salt-identification-challenge"
WORK = ".download"
"""Folder inside the data folder for a download that is in progress."""


@dataclass(frozen=True)
class DownloadSettings:
    """All flags of contest.py download."""

    competition: str = TGS
    """name of the competition: the last part of the address of its page."""
    data_dir: str = "data"
    """new or empty folder for the files."""
    debug: bool = False
    """show the traceback of an error."""


@dataclass(frozen=True)
class SubmitSettings:
    """All flags of contest.py submit."""

    subs: Positional[Texts]
    """the submissions, csv files; nothing is sent unless all of them are valid."""
    competition: str = TGS
    """name of the competition: the last part of the address of its page."""
    message: OptionalText = None
    """description in Kaggle's list of submissions; default: the name of each file."""
    data_dir: str = "data"
    """folder with the packed images and the sample submission, which the submission is checked against."""
    shape: OptionalText = None
    """<height>x<width> of every image; default: the sizes in data_dir if it is packed, else 101x101."""
    format: OptionalFormat = None
    """the competition whose rules apply; default: by the columns of the sample submission, else of the submission."""
    debug: bool = False
    """show the traceback of an error."""


def download(settings: DownloadSettings) -> None:
    """Download and unpack the files, and move them into `data_dir` when all are complete."""
    folder = Path(settings.data_dir)
    _check_name(settings.competition)
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    if there := [entry.name for entry in entries if not entry.name.startswith(".")]:
        shown = ", ".join(there[:3]) + (", ..." if there[3:] else "")
        raise UserError(f"--data_dir {folder}: expected a new or empty folder, found {shown}; use another folder")
    client = find_client()
    check_token()
    work = folder / WORK / settings.competition
    work.mkdir(parents=True, exist_ok=True)
    try:
        run_client(client, ["competitions", "download", settings.competition, "--path", str(work)])
        names = _unpack(work, folder)
        shutil.rmtree(work)
    except KeyboardInterrupt:
        raise Interrupted(2, f"interrupted; run the same command again to continue from {folder / WORK}") from None
    finally:
        with suppress(OSError):  # rmdir fails if a partial download is in the folder, which the next run continues
            work.rmdir()
        with suppress(OSError):
            work.parent.rmdir()
    print(f"{folder}: {', '.join(names)}")
    _tell_layout(folder)


def submit(settings: SubmitSettings) -> None:
    """Check the files as `utils/submission.py check` does, send them, and print Kaggle's replies."""
    if not any(settings.subs):
        raise UsageError("expected a file to submit, such as: make submit FILE=submissions/final.csv")
    _check_name(settings.competition)
    for sub in settings.subs:
        _check(sub, settings)
    client = find_client()
    check_token()
    for sub in settings.subs:
        message = settings.message or Path(sub).name
        words = ["competitions", "submit", settings.competition, f"--file={sub}", f"--message={message}"]
        print(run_client(client, words))


def _check_name(competition: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", competition):
        raise UsageError(f"--competition {competition}: expected the last part of the page's address, such as {TGS}")


def _unpack(work: Path, folder: Path) -> list[str]:
    """Unpack the files that the client has written to `work` and move everything into `folder`, or nothing on an error.

    Files that are not zip archives are moved unchanged.

    Returns:
        the names of the new entries in `folder`.
    """
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    fetched = [path for path in work.glob(f"{work.name}.*") if path.suffix != ".kaggle-partial"]
    if not fetched:
        raise UserError(f"kaggle: reported success, but there is no {work.name}.zip in {work}; try again")
    unpacked.mkdir()
    for path in fetched:
        if path.suffix != ".zip":
            shutil.copy(path, unpacked)
            continue
        try:
            unzip_all(path, unpacked)
        except BrokenArchive as error:
            path.unlink()  # otherwise the client would treat it as a finished download
            raise UserError(f"{error}; it was removed, run the same command to download it again") from None
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
        print(f"utils/stack_and_save.py does not know this layout: {error}")
        return
    looks = LAYOUTS[source.layout][0]
    print(f"{len(source.train)} training and {len(source.test)} test images; layout {source.layout} ({looks})")
    print(f"next: python utils/stack_and_save.py --data_dir {folder}")


def _check(sub: str, settings: SubmitSettings) -> None:
    """Print the problems of a submission; raise UserError if Kaggle would refuse it."""
    sample = sample_in(settings.data_dir)
    header = header_of(sample or Path(sub))
    if not header or not set(header).isdisjoint(RLE_COLUMNS):
        check(CheckSettings(sub, None, settings.shape, settings.data_dir, settings.format))
        return
    if sample is None:
        raise UserError(f"--data_dir {settings.data_dir}: no sample submission to check {sub} against; put it there")
    verdict = check_class_submission(sub, sample, _labels(sub, sample), exclusive=False)
    print(verdict.as_text())
    if verdict.problems:
        raise UserError(f"{sub}: not valid, {len(verdict.problems)} problems")


def _labels(path: str, sample: Path) -> list[str]:
    """Return the classes that a submission may name: the sample's columns if it has probabilities, else all words."""
    ours, wanted = read_table(path), read_table(sample)
    columns = list(wanted)[1:]
    known = {word for column in columns for cell in wanted[column] for word in cell.split()}
    if len(columns) > 1 or (all(map(NUMBER.fullmatch, known)) and any("." in word for word in known)):
        return columns
    return sorted(known.union(*(cell.split() for column in columns for cell in ours.get(column, []))))


if __name__ == "__main__":
    run_commands({"download": (download, DownloadSettings), "submit": (submit, SubmitSettings)})
