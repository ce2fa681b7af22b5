"""The errors a user can cause or cure: one line, no traceback, an exit code."""

import os
import sys


class UserError(Exception):
    """Something in the data, the files or the machine; one line says what was expected, what was found, what to do."""

    exit_code = 1


class UsageError(UserError):
    """Wrong use of a flag; the message names the flag."""

    exit_code = 2


class Interrupted(UserError):
    """SIGINT or SIGTERM, obeyed at the next safe moment.

    Args:
        signal_number: the signal; the exit code is 128 + this number, as shells have it.
        message: what was kept and how to go on.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ToldElsewhere(UserError):
    """An error that another process of the same run has told already: this one ends without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("told by another process")
        self.exit_code = exit_code


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the one line for an error that ended a script."""
    if isinstance(error, UserError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; nothing half-written was left"
    if isinstance(error, BrokenPipeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader left: keep Python from complaining again at exit
        return 1, "the reader of the output closed it"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"{where}{error.strerror}; make room, mend the permissions or name another place"
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return 1, "out of memory; try a smaller --batch_size or another --device"
    first_line = (str(error).strip().splitlines() or [""])[0]
    return 1, f"unexpected {kind}: {first_line}; the same command with --debug shows where"
