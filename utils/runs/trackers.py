"""Trackers: where a run's flags, metrics and files go as well, such as an MLflow server; none of them can harm the run.

A process of its own sends everything. What a tracker's package imports, prints, retries or waits for stays there; the
training writes a line into a pipe after each epoch, and never waits before it is done.
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
"""The longest wait at the end of a run that has finished: files are on their way."""
SECONDS_BROKEN_OFF = 15
"""The same of a run that has failed or was interrupted, whose process may be killed any moment."""
SECONDS_IN_SILENCE = 3
"""A longer wait is announced."""


class Tracker(Protocol):
    """What a tracker does with a run; made in the sending process from the run's folder and its flags."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """Take a row of log.csv."""

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Take the summary of a finished run, and files to keep with it."""

    def end(self, end: End) -> None:
        """Close the run."""


def _mlflow(folder: Path, flags: Mapping[str, Any]) -> Tracker:
    from utils.runs.mlflow_tracker import MlflowTracker

    return MlflowTracker(folder, flags)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"mlflow": _mlflow}
"""By name; the package that is needed and the extra that installs it are called the same."""


def check_tracker(name: str | None) -> None:
    """See that there is such a tracker and that its package is installed, without importing it.

    Raises:
        UsageError: it is not.
    """
    if name is None:
        return
    pick(TRACKERS, name, "--tracker")
    if find_spec(name) is None:
        raise UsageError(f"--tracker {name}: the package {name} is not installed; pip install -e '.[{name}]'")


class Tracking:
    """What a run tells its tracker; without one nothing happens.

    The first failure is one line on stderr, and ends it: the run goes on without it.
    """

    def __init__(self, name: str | None, folder: RunFolder, flags: Mapping[str, Any]) -> None:
        self._name, self._process, self._unsent, self._answer = name, None, b"", b""
        if name is None:
            return
        path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from utils.runs.tracker_process import serve; serve()", name],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what goes wrong comes as an answer
                start_new_session=True,  # Ctrl-C is for the training
            )
        except OSError as error:
            self._give_up(error.strerror)
            return
        for stream in (self._process.stdin, self._process.stdout):
            os.set_blocking(stream.fileno(), False)
        self._tell("begin", {"folder": str(folder.path.absolute()), "flags": dict(flags)})

    def epoch(self, row: Mapping[str, float | int]) -> None:
        """Tell a row of log.csv; returns at once."""
        self._tell("epoch", dict(row))

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Tell the summary and the files of a finished run; returns when they are sent, or the time for it is over."""
        names = [str(Path(file).absolute()) for file in files]
        self._tell("finish", {"summary": dict(summary), "files": names})
        self.end("finished")

    def end(self, end: End) -> None:
        """Close the run there, if that was not done yet, and wait until it is."""
        self._tell("end", end)
        try:
            self._wait(SECONDS_FINISHED if end == "finished" else SECONDS_BROKEN_OFF)
        finally:
            self._drop()

    def _tell(self, what: str, values: Any) -> None:
        if self._process:
            self._unsent += json.dumps([what, values], default=str).encode() + b"\n"
            self._write()
            self._listen()

    def _write(self) -> None:
        """Write what the pipe takes now; the rest waits for the next time."""
        try:
            self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent = b""  # it has ended, and its answer says why

    def _listen(self) -> None:
        """Hear whether the process has ended, and why."""
        try:
            while said := os.read(self._process.stdout.fileno(), 65536):
                self._answer += said
        except BlockingIOError:
            return
        self._process.wait()
        try:
            failure = json.loads(self._answer)["failed"]
        except ValueError:
            failure = f"its process ended (exit code {self._process.returncode})"
        if failure:
            self._give_up(failure)
        self._drop()

    def _wait(self, seconds: float) -> None:
        began, announced = time.monotonic(), False
        while self._process and (left := began + seconds - time.monotonic()) > 0:
            if not announced and left < seconds - SECONDS_IN_SILENCE:
                announced = True
                self._say(f"sending what is left, for {seconds:g} s at most")
            writable = [self._process.stdin] if self._unsent else []
            select.select([self._process.stdout], writable, [], min(left, SECONDS_IN_SILENCE))
            if writable:
                self._write()
            self._listen()
        if self._process:
            self._say(f"not everything was sent within {seconds:g} s; log.csv has it all")

    def _give_up(self, reason: str) -> None:
        self._say(f"{reason}; training goes on without it")
        self._drop()

    def _say(self, text: str) -> None:
        print(f"tracker: {self._name}: {text}", file=sys.stderr, flush=True)

    def _drop(self) -> None:
        """End the process, whatever it does, and forget it."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@contextmanager
def tracking(name: str | None, folder: RunFolder, flags: Mapping[str, Any]) -> Iterator[Tracking]:
    """Tell a tracker of the run in `folder` while the block goes on.

    A block that is left by an error closes the run there as failed or interrupted, and one that is left before
    `finish` was called as finished; a run that is killed is closed as interrupted by the process that sends.

    Args:
        name: a name in TRACKERS that `check_tracker` has passed, or None for no tracker.
        folder: the run's, with its config.json; rows of its log.csv that the tracker has not heard of are sent again.
        flags: of the run; secrets among them are left out.
    """
    tracked = Tracking(name, folder, flags)
    try:
        yield tracked
    except BaseException as error:
        tracked.end("interrupted" if isinstance(error, KeyboardInterrupt | Interrupted) else "failed")
        raise
    tracked.end("finished")
