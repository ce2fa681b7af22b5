"""Read files that may be foreign, cut short or anything else: what cannot be read is a line, not an error."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from utils.core.errors import Interrupted, UserError
from utils.core.redaction import open_text

T = TypeVar("T")


def attempt(read: Callable[[], T], problems: list[str], folder: Path, what: str) -> T | None:
    """What `read` returns; None, and a line in `problems`, if it fails.

    Args:
        read: reads a file of a run.
        problems: the lines so far; one that is there already is not said again.
        folder: the run, whose path the lines leave out.
        what: the file as the line calls it, where the error does not; empty for the folder itself.
    """
    try:
        return read()
    except Interrupted:
        raise
    except UserError as error:
        said = str(error)
    except OSError as error:
        said = error.strerror or type(error).__name__
    except Exception as error:  # a stranger's file can be wrong in ways that nobody foresaw
        said = f"cannot be read ({type(error).__name__}: {error})"
    line = open_text(said.replace(f"{folder}/", "") if folder.name else said)
    line = line if line.startswith(what) else f"{what}: {line}"
    if line not in problems:
        problems.append(line)
    return None
