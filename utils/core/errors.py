"""Errors that a user can cause or fix. A script prints them as one line without a traceback and sets an exit code."""

import os
import sys


class UserError(Exception):
    """Problem with the data, the files or the machine.

    The message is one line: what was expected, what was found and what to do.
    """

    exit_code = 1


class UsageError(UserError):
    """Wrong use of a flag; the message names the flag."""

    exit_code = 2


class Interrupted(UserError):
    """SIGINT or SIGTERM, handled at the next safe moment.

    Args:
        signal_number: the signal; the exit code is 128 plus this number, as in shells.
        message: what was kept and how to continue.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ReportedElsewhere(UserError):
    """Error that another process of the run has already reported; this process ends without printing anything."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("reported by another process")
        self.exit_code = exit_code


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one-line message for an error that ended a script."""
    if isinstance(error, UserError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; no partially written files were left behind"
    if isinstance(error, BrokenPipeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - otherwise Python reports the broken pipe again at exit
        return 1, "the output pipe was closed by its reader"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return 1, where + _explain_os_error(error)
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return 1, "out of memory; try a smaller --batch_size or another --device"
    first_line = (str(error).strip().splitlines() or [""])[0]
    return 1, f"unexpected {kind}: {first_line}; run the same command with --debug to see the traceback"


def _explain_os_error(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "expected a file, found a folder; choose another path"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "expected a folder, but a file of this name is in the way; choose another path"
    if isinstance(error, FileNotFoundError):
        return "no such file or folder; check the path"
    if isinstance(error, PermissionError):
        return f"{error.strerror}; fix the permissions or choose another path"
    return f"{error.strerror}; free disk space, fix the permissions or choose another path"
