"""A run in MLflow: flags as parameters, metrics after each epoch, files at the end.

The server is that of MLFLOW_TRACKING_URI; without one, a file mlflow.db beside the runs, and mlartifacts for files. The
experiment there is called by MLFLOW_EXPERIMENT_NAME, else "strata". tracker.json in the run's folder says which run
there is this one, so that a run that is resumed here goes on there.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from utils.core.errors import UserError
from utils.core.files import read_json, whole_file, write_json
from utils.core.tables import read_table
from utils.runs.run_folder import RunFolder
from utils.runs.tracked_values import End, as_text, final_metrics, final_texts, shown_flags

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

TRACKER_FILE = "tracker.json"

MANNERS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; the package's own 120 and 7 retries wait for an hour
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # after 0, 4, 8 and 16 s: a server may be started anew meanwhile
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Variables of the environment that are set before MLflow is imported, where the user has not set them."""
STATUS: dict[End, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
AT_ONCE = 100
"""Parameters that one request may hold, by MLflow's own limit."""


class MlflowTracker:
    """One run there; made, it is found or begun, and has the rows that log.csv holds already.

    Args:
        folder: the run's.
        flags: of the run.

    Raises:
        Exception: whatever MLflow raises.
    """

    def __init__(self, folder: Path, flags: Mapping[str, Any]) -> None:
        for name, value in MANNERS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or _file_beside(folder)
        self._client = MlflowClient(tracking_uri=uri)
        self._run = self._found(folder) or self._begun(folder)
        self._tell_flags(shown_flags(flags))
        self._epochs = self._epochs_there(self._run)
        for row in _rows(RunFolder(folder).log):
            self.epoch(row)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Metrics of one epoch, unless they are there already."""
        step = int(row["epoch"])
        if step not in self._epochs:
            self._client.log_batch(self._id, metrics=_metrics(row, step))
            self._epochs.add(step)

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Final metrics, and the files that are there."""
        last = max(self._epochs, default=0)
        self._client.log_batch(self._id, metrics=_metrics(final_metrics(summary), last))
        for name, text in final_texts(summary).items():
            self._client.set_tag(self._id, name, text)
        for file in files:
            if file.is_file():
                self._client.log_artifact(self._id, str(file))

    def end(self, end: End) -> None:
        """Close the run with its status."""
        self._client.set_terminated(self._id, STATUS[end])

    @property
    def _id(self) -> str:
        return self._run.info.run_id

    def _found(self, folder: Path) -> "Run | None":
        """The run there that tracker.json names, going on again; None if there is none."""
        from mlflow.exceptions import MlflowException

        if not (folder / TRACKER_FILE).is_file():
            return None
        try:
            run = self._client.get_run(read_json(folder / TRACKER_FILE)["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run.info.run_id, status="RUNNING")
        return run

    def _begun(self, folder: Path) -> "Run":
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        run = self._client.create_run(self._experiment(folder), run_name=folder.name)
        write_json(folder / TRACKER_FILE, {"tracker": "mlflow", "run_id": run.info.run_id})
        return run

    def _experiment(self, folder: Path) -> str:
        """The id of the experiment, which is made if it is not there."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "strata"
        own_files = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder.parent / "mlartifacts").as_uri()
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, artifact_location=own_files)
            except MlflowException as error:  # another run was quicker
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise UserError(f"the experiment {name} was deleted there; name another one in MLFLOW_EXPERIMENT_NAME")
        return found.experiment_id

    def _tell_flags(self, flags: Mapping[str, float | str]) -> None:
        """Flags as parameters, which cannot change; one that a resume has changed becomes a tag `resumed.<flag>`."""
        from mlflow.entities import Param

        texts, there = {name: as_text(value) for name, value in flags.items()}, self._run.data.params
        new = [Param(name, text) for name, text in texts.items() if name not in there]
        for start in range(0, len(new), AT_ONCE):
            self._client.log_batch(self._id, params=new[start : start + AT_ONCE])
        for name, text in texts.items():
            if there.get(name, text) != text:
                self._client.set_tag(self._id, f"resumed.{name}", text)

    def _epochs_there(self, run: "Run") -> set[int]:
        """The epochs that MLflow has heard of."""
        names = [name for name in run.data.metrics if "/" not in name]  # those of epochs
        return {metric.step for metric in self._client.get_metric_history(self._id, names[0])} if names else set()


def _metrics(values: Mapping[str, float], step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in values.items() if name != "epoch"]


def _file_beside(folder: Path) -> str:
    """The sqlite file beside the run folders, as an address.

    MLflow makes its tables in many steps, that two runs must not do at once and a kill must not break off: a new file
    is made by one run while others wait, and appears whole.
    """
    from mlflow import MlflowClient

    path = folder.parent / "mlflow.db"
    with _locked(folder.parent):
        if not path.exists():
            with whole_file(path) as part:
                part.unlink(missing_ok=True)
                MlflowClient(tracking_uri=_address(part))
    return _address(path)


def _address(path: Path) -> str:
    return "sqlite:///" + re.sub("[%?#]", lambda sign: quote(sign[0]), str(path))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time through; a lock of a process that was killed is none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _rows(log: Path) -> list[dict[str, float]]:
    """The rows of log.csv; none where there is no such file yet."""
    if not log.is_file():
        return []
    table = read_table(log, "epoch")
    rows = zip(*table.values(), strict=True)
    return [{name: float(cell) for name, cell in zip(table, row, strict=True) if cell} for row in rows]
