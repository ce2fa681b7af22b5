"""Whether a run is going on, has finished, was interrupted or failed: status.json in its folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from utils.core.errors import Interrupted, UsageError, UserError, explain
from utils.core.files import read_json, write_json

State = Literal["running", "finished", "interrupted", "failed"]
STATUS_FILE = "status.json"
STATES = ("running", "finished", "interrupted", "failed")


@dataclass(frozen=True)
class Status:
    """What status.json says, written at the start of a run and at its end."""

    state: State
    reason: str
    """Why it failed or was interrupted, one line; empty otherwise."""
    began: str
    """When this run, or its continuation, was started: ISO 8601, UTC."""
    ended: str | None
    """When it ended, the same; None while it goes on."""
    host: str
    """The machine that it runs on ..."""
    pid: int
    """... its process there ..."""
    started: int | None
    """... and when the kernel started that, in its own ticks: a process of the same number is not taken for it."""


def begun() -> Status:
    """The status of a run that this process starts now."""
    pid = os.getpid()
    return Status("running", "", _now(), None, socket.gethostname(), pid, _started(pid))


def ended(status: Status, state: State, reason: str = "") -> Status:
    """The status of a run that ends now."""
    return Status(**{**asdict(status), "state": state, "reason": reason, "ended": _now()})


def write_status(folder: Path, status: Status) -> None:
    """Write status.json of a run."""
    write_json(folder / STATUS_FILE, asdict(status))


def read_status(folder: Path) -> Status | None:
    """What became of a run, or None if nothing says it.

    A run that says "running" although its process is gone (a kill -9, a reboot) is interrupted. Of a run on another
    machine nothing but what the file says can be known.

    Raises:
        UserError: the file is not what a run writes.
    """
    path = folder / STATUS_FILE
    if not path.is_file():
        return None
    status = _checked(read_json(path), path)
    if status.state != "running" or status.host != socket.gethostname():
        return status
    if _goes_on(status):
        return status
    return Status(**{**asdict(status), "state": "interrupted", "reason": "its process ended without a word"})


def check_free(folder: Path) -> None:
    """Raise a UsageError if another process of this machine trains in this folder now; what is no status is no sign."""
    try:
        status = read_status(folder)
    except UserError:
        return
    here = status is not None and status.host == socket.gethostname() and status.pid != os.getpid()
    if here and status.state == "running":
        raise UsageError(f"--resume: process {status.pid} trains in {folder} now; stop it first, or let it finish")


def _checked(values: Any, path: Path) -> Status:
    from typeguard import TypeCheckError, check_type

    try:
        status = Status(**values)
        for name, kind in Status.__annotations__.items():
            check_type(getattr(status, name), kind)
    except (TypeError, TypeCheckError):
        raise UserError(f"{path}: expected the status of a run, found something else; remove it") from None
    return status


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _goes_on(status: Status) -> bool:
    """Whether the process is still there, and still the same."""
    if not Path("/proc/self/stat").exists():  # a system that only says whether there is any process of this number
        try:
            os.kill(status.pid, 0)
        except OSError as error:
            return isinstance(error, PermissionError)
        return True
    return status.started is not None and _started(status.pid) == status.started


def _started(pid: int) -> int | None:
    """When the kernel started a process, in ticks since it booted; None if it has ended or /proc does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if words[0] in "ZX" else int(words[19])  # dead, but its parent has not looked yet
    except (OSError, IndexError, ValueError):
        return None


@contextmanager
def kept_status(folder: Path) -> Iterator[None]:
    """Around a training: status.json says that it is running, and afterwards how it ended."""
    status = begun()
    write_status(folder, status)
    try:
        yield
    except BaseException as error:
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        if folder.is_dir():  # one that was removed is not made anew
            with suppress(OSError):  # on a full disk it goes on saying "running", of a process that is gone
                write_status(folder, ended(status, state, explain(error)[1]))
        raise
    write_status(folder, ended(status, "finished"))
