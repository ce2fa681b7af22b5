"""The errors a user can cause or cure: one line, no traceback, an exit code."""


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
