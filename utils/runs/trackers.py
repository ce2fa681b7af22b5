"""Trackers, such as an MLflow server, that also receive a run's flags, metrics and files.

A separate process sends everything, so a tracker cannot harm the run: imports, output, retries and waits of its package
stay in that process. The training only writes a line into a pipe after each epoch, and waits only at its end.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from utils.core.errors import Interrupted, UsageError
from utils.core.names import pick
from utils.runs.run_folder import RunFolder
from utils.runs.tracked_values import End

ROOT = Path(__file__).resolve().parents[2]
SECONDS_FINISHED = 120
"""Maximum wait in seconds at the end of a finished run, when files are uploaded."""
SECONDS_BROKEN_OFF = 15
"""Maximum wait in seconds at the end of a failed or interrupted run, whose process may be killed at any moment."""
SECONDS_BEFORE_NOTICE = 3
"""A wait longer than this number of seconds is announced."""


class Tracker(Protocol):
    """Interface of a tracker; the sending process creates it from the run folder and the flags."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """Log one row of log.csv."""

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the summary of a finished run and upload its files."""

    def end(self, end: End) -> None:
        """Close the run."""


def _mlflow(folder: Path, flags: Mapping[str, Any]) -> Tracker:
    from utils.runs.mlflow_tracker import MlflowTracker

    return MlflowTracker(folder, flags)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"mlflow": _mlflow}
"""Name -> tracker; the required package and the extra that installs it have the same name."""


def check_tracker(name: str | None) -> None:
    """Check that the tracker exists and that its package is installed, without importing it.

    Raises:
        UsageError: there is no such tracker, or its package is not installed.
    """
    if name is None:
        return
    pick(TRACKERS, name, "--tracker")
    if find_spec(name) is None:
        raise UsageError(f"--tracker {name}: the package {name} is not installed; pip install -e '.[{name}]'")


class Tracking:
    """The connection of a run to its tracker; does nothing if `name` is None.

    The first failure prints one line on stderr and ends the tracking; the run continues without it.
    """

    def __init__(self, name: str | None, folder: RunFolder, flags: Mapping[str, Any]) -> None:
        self._name, self._process, self._unsent, self._reply = name, None, b"", b""
        if name is None:
            return
        path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from utils.runs.tracker_process import serve; serve()", name],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # failures come in the reply on stdout
                start_new_session=True,  # only the training receives Ctrl-C
            )
        except OSError as error:
            self._give_up(error.strerror)
            return
        for stream in (self._process.stdin, self._process.stdout):
            os.set_blocking(stream.fileno(), False)
        self._send("begin", {"folder": str(folder.path.absolute()), "flags": dict(flags)})

    def epoch(self, row: Mapping[str, float | int]) -> None:
        """Send a row of log.csv; return at once."""
        self._send("epoch", dict(row))

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Send the summary and the files of a finished run; return when they are sent or after SECONDS_FINISHED."""
        names = [str(Path(file).absolute()) for file in files]
        self._send("finish", {"summary": dict(summary), "files": names})
        self.end("finished")

    def end(self, end: End) -> None:
        """Close the run at the tracker if it is still open; return when that is done or after the time limit."""
        self._send("end", end)
        try:
            self._wait(SECONDS_FINISHED if end == "finished" else SECONDS_BROKEN_OFF)
        finally:
            self._drop()

    def _send(self, what: str, values: Any) -> None:
        if self._process:
            self._unsent += json.dumps([what, values], default=str).encode() + b"\n"
            self._write()
            self._read_reply()

    def _write(self) -> None:
        """Write what the pipe accepts now; the rest is written at the next call."""
        try:
            self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent = b""  # the process has ended; its reply has the reason

    def _read_reply(self) -> None:
        """Check whether the process has ended; report the failure if its reply has one."""
        try:
            while chunk := os.read(self._process.stdout.fileno(), 65536):
                self._reply += chunk
        except BlockingIOError:
            return
        self._process.wait()
        try:
            failure = json.loads(self._reply)["failed"]
        except ValueError:
            failure = f"its process ended (exit code {self._process.returncode})"
        if failure:
            self._give_up(failure)
        self._drop()

    def _wait(self, seconds: float) -> None:
        began, announced = time.monotonic(), False
        while self._process and (left := began + seconds - time.monotonic()) > 0:
            if not announced and left < seconds - SECONDS_BEFORE_NOTICE:
                announced = True
                self._print(f"sending the remaining data, for at most {seconds:g} s")
            writable = [self._process.stdin] if self._unsent else []
            select.select([self._process.stdout], writable, [], min(left, SECONDS_BEFORE_NOTICE))
            if writable:
                self._write()
            self._read_reply()
        if self._process:
            self._print(f"not everything was sent within {seconds:g} s; log.csv is complete")

    def _give_up(self, reason: str) -> None:
        self._print(f"{reason}; training continues without it")
        self._drop()

    def _print(self, text: str) -> None:
        print(f"tracker: {self._name}: {text}", file=sys.stderr, flush=True)

    def _drop(self) -> None:
        """Kill the process and close its pipes."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@contextmanager
def tracking(name: str | None, folder: RunFolder, flags: Mapping[str, Any]) -> Iterator[Tracking]:
    """Connect the run in `folder` to a tracker during the `with` block.

    An error that leaves the block closes the run at the tracker as failed or interrupted. A block that ends without an
    error closes it as finished, even if `finish` was not called. If the training is killed, the sending process closes
    the run as interrupted.

    Args:
        name: a name in TRACKERS that has passed `check_tracker`, or None for no tracker.
        folder: the run folder with its config.json; rows of its log.csv that the tracker does not have are sent.
        flags: the flags of the run; secrets among them are left out.
    """
    tracked = Tracking(name, folder, flags)
    try:
        yield tracked
    except BaseException as error:
        tracked.end("interrupted" if isinstance(error, KeyboardInterrupt | Interrupted) else "failed")
        raise
    tracked.end("finished")
