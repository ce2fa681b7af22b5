"""Read files that may be foreign, truncated or broken: a file that cannot be read is reported in a line."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from utils.core.errors import Interrupted, UserError
from utils.core.redaction import redacted

T = TypeVar("T")


def attempt(read: Callable[[], T], problems: list[str], folder: Path, what: str) -> T | None:
    """Return the result of `read`; if it fails, add a line to `problems` and return None.

    Args:
        read: reads a file of a run.
        problems: lines so far; a line that is already there is not added again.
        folder: folder of the run; its path is removed from the line.
        what: name of the file, put in front of the line if the error does not start with it; empty for the folder.
    """
    try:
        return read()
    except Interrupted:
        raise
    except UserError as error:
        text = str(error)
    except OSError as error:
        text = error.strerror or type(error).__name__
    except Exception as error:  # a foreign file can fail in unforeseen ways
        text = f"cannot be read ({type(error).__name__}: {error})"
    line = redacted(text.replace(f"{folder}/", "") if folder.name else text)
    line = line if line.startswith(what) else f"{what}: {line}"
    if line not in problems:
        problems.append(line)
    return None
