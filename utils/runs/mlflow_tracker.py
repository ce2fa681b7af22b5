"""The MLflow tracker: flags as parameters, metrics after each epoch, files at the end of the run.

MLFLOW_TRACKING_URI names the server. Without it, runs are stored in mlflow.db and files in mlartifacts/, both in the
folder that contains the run folders. MLFLOW_EXPERIMENT_NAME names the experiment; the default is "strata". tracker.json
in the run folder holds the id of the MLflow run, so that a resumed run continues the same MLflow run.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from utils.core.errors import UserError
from utils.core.files import atomic_file, locked, read_json, write_json
from utils.core.tables import read_table
from utils.runs.run_folder import RunFolder
from utils.runs.tracked_values import End, as_text, final_metrics, final_texts, shown_flags

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

TRACKER_FILE = "tracker.json"

MANNERS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; MLflow's defaults (120 s, 7 retries) wait for an hour
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # after 0, 4, 8 and 16 s: time for a server to restart
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment variables that are set before MLflow is imported, unless the user has set them."""
STATUS: dict[End, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
AT_ONCE = 100
"""Maximum number of parameters in one request, a limit of MLflow."""


class MlflowTracker:
    """A run in MLflow.

    The constructor continues the run that tracker.json names or creates a new one, and logs the rows of log.csv that
    MLflow does not have yet.

    Args:
        folder: the run folder.
        flags: the flags of the run.

    Raises:
        UserError: the run folder is missing, or the experiment is deleted in MLflow.
        Exception: any error that MLflow raises.
    """

    def __init__(self, folder: Path, flags: Mapping[str, Any]) -> None:
        for name, value in MANNERS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or _default_uri(folder)
        self._client = MlflowClient(tracking_uri=uri)
        self._run = self._find_run(folder) or self._create_run(folder)
        self._log_flags(shown_flags(flags))
        self._epochs = self._logged_epochs(self._run)
        for row in _rows(RunFolder(folder).log):
            self.epoch(row)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Log the metrics of one epoch unless MLflow has them already."""
        step = int(row["epoch"])
        if step not in self._epochs:
            self._client.log_batch(self._id, metrics=_metrics(row, step))
            self._epochs.add(step)

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the final metrics and tags, and upload those of the files that exist."""
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

    def _find_run(self, folder: Path) -> "Run | None":
        """Return the run that tracker.json names, set to running again; None if it does not exist or is deleted."""
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

    def _create_run(self, folder: Path) -> "Run":
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        run = self._client.create_run(self._experiment(folder), run_name=folder.name)
        write_json(folder / TRACKER_FILE, {"tracker": "mlflow", "run_id": run.info.run_id})
        return run

    def _experiment(self, folder: Path) -> str:
        """Return the id of the experiment; create it if it does not exist."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "strata"
        own_files = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder.parent / "mlartifacts").as_uri()
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, artifact_location=own_files)
            except MlflowException as error:  # another run has created it meanwhile
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage != "active":
            raise UserError(f"MLflow experiment {name}: it is deleted; set MLFLOW_EXPERIMENT_NAME to another name")
        return found.experiment_id

    def _log_flags(self, flags: Mapping[str, float | str]) -> None:
        """Log flags as parameters.

        MLflow's parameters cannot change, so a flag that has changed on resume becomes a tag `resumed.<flag>`.
        """
        from mlflow.entities import Param

        texts, there = {name: as_text(value) for name, value in flags.items()}, self._run.data.params
        new = [Param(name, text) for name, text in texts.items() if name not in there]
        for start in range(0, len(new), AT_ONCE):
            self._client.log_batch(self._id, params=new[start : start + AT_ONCE])
        for name, text in texts.items():
            if there.get(name, text) != text:
                self._client.set_tag(self._id, f"resumed.{name}", text)

    def _logged_epochs(self, run: "Run") -> set[int]:
        """Return the epochs whose metrics MLflow has already."""
        names = [name for name in run.data.metrics if "/" not in name]  # final metrics have a slash
        return {metric.step for metric in self._client.get_metric_history(self._id, names[0])} if names else set()


def _metrics(values: Mapping[str, float], step: int) -> "list[Metric]":
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in values.items() if name != "epoch"]


def _default_uri(folder: Path) -> str:
    """Return the URI of mlflow.db in the folder that contains the run folders; create the file if it is missing.

    MLflow creates its tables in many steps, which two runs must not execute at the same time and a kill must
    not interrupt. One run creates the file while others wait, and the file appears when it is complete.
    """
    from mlflow import MlflowClient

    path = folder.parent / "mlflow.db"
    with locked(folder.parent):
        if not path.exists():
            with atomic_file(path) as part:
                part.unlink(missing_ok=True)
                MlflowClient(tracking_uri=_address(part))
    return _address(path)


def _address(path: Path) -> str:
    return "sqlite:///" + re.sub("[%?#]", lambda sign: quote(sign[0]), str(path))


def _rows(log: Path) -> list[dict[str, float]]:
    """Return the rows of log.csv; an empty list if the file does not exist yet."""
    if not log.is_file():
        return []
    table = read_table(log, "epoch")
    rows = zip(*table.values(), strict=True)
    return [{name: float(cell) for name, cell in zip(table, row, strict=True) if cell} for row in rows]
