"""The status of a run, stored in status.json in its folder: running, finished, interrupted or failed."""

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
    """Content of status.json, which is written at the start and at the end of a run."""

    state: State
    reason: str
    """Why the run failed or was interrupted, in one line; empty otherwise."""
    began: str
    """Time when the run was started or resumed: ISO 8601, UTC."""
    ended: str | None
    """Time when the run ended: ISO 8601, UTC; None while it is running."""
    host: str
    """Name of the machine that the run is on."""
    pid: int
    """Id of the run's process on that machine."""
    started: int | None
    """Start time of the process in kernel clock ticks, which tells it from a later process with the same id."""


def begun() -> Status:
    """Return the status of a run that this process starts now."""
    pid = os.getpid()
    return Status("running", "", _now(), None, socket.gethostname(), pid, _started(pid))


def ended(status: Status, state: State, reason: str = "") -> Status:
    """Return the status of a run that ends now."""
    return Status(**{**asdict(status), "state": state, "reason": reason, "ended": _now()})


def write_status(folder: Path, status: Status) -> None:
    """Write the status.json of a run."""
    write_json(folder / STATUS_FILE, asdict(status))


def read_status(folder: Path) -> Status | None:
    """Read the status of a run; return None if it has no status.json.

    If the file says "running" but the process no longer exists (kill -9, reboot), the returned state is "interrupted".
    The process of a run on another machine cannot be checked, so its status is returned as stored.

    Raises:
        UserError: the file is not the status of a run.
    """
    path = folder / STATUS_FILE
    if not path.is_file():
        return None
    status = _checked(read_json(path), path)
    if status.state != "running" or status.host != socket.gethostname():
        return status
    if _is_alive(status):
        return status
    return Status(**{**asdict(status), "state": "interrupted", "reason": "its process ended without reporting why"})


def check_free(folder: Path) -> None:
    """Raise UsageError if another process of this machine trains in this folder; an invalid status.json is ignored."""
    try:
        status = read_status(folder)
    except UserError:
        return
    here = status is not None and status.host == socket.gethostname() and status.pid != os.getpid()
    if here and status.state == "running":
        raise UsageError(f"--resume: process {status.pid} is training in {folder}; stop it, or wait until it ends")


def _checked(values: Any, path: Path) -> Status:
    from typeguard import TypeCheckError, check_type

    try:
        status = Status(**values)
        for name, kind in Status.__annotations__.items():
            check_type(getattr(status, name), kind)
    except (TypeError, TypeCheckError):
        raise UserError(f"{path}: expected the status of a run, found something else; remove this file") from None
    return status


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_alive(status: Status) -> bool:
    """Return whether the process that wrote the status still exists."""
    if not Path("/proc/self/stat").exists():  # without /proc, only test whether any process has this id
        try:
            os.kill(status.pid, 0)
        except OSError as error:
            return isinstance(error, PermissionError)
        return True
    return status.started is not None and _started(status.pid) == status.started


def _started(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None if it has ended or /proc has no entry."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if words[0] in "ZX" else int(words[19])  # Z, X: ended, but not yet waited for
    except (OSError, IndexError, ValueError):
        return None


@contextmanager
def tracked_status(folder: Path) -> Iterator[None]:
    """Write status.json when the `with` block starts and when it ends; errors are raised unchanged."""
    status = begun()
    write_status(folder, status)
    try:
        yield
    except BaseException as error:
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        if folder.is_dir():  # do not create a removed folder again
            with suppress(OSError):  # on a full disk the file still says "running"; `read_status` corrects it
                write_status(folder, ended(status, state, explain(error)[1]))
        raise
    write_status(folder, ended(status, "finished"))
