"""Trackers that work, fail, hang or are killed: the sending process is real, the package mlflow is mostly a mock."""

import os
import signal
import subprocess
import sys
import tomllib

import pytest
from helpers.scripts import ROOT
from helpers.trackers import FLAGS, SECRET, new_run, patience, rows
from helpers.waiting import HANGS, until

from utils.core.errors import Interrupted, UsageError
from utils.runs import trackers
from utils.runs.trackers import check_tracker, tracking


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    patience(monkeypatch)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that writes a mock package mlflow with given code, which the sending process imports."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def write(code):
        folder = tmp_path / "packages" / "mlflow"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code)
        (folder / "entities.py").write_text("def Metric(*values): return values\ndef Param(*values): return values\n")
        (folder / "exceptions.py").write_text("class MlflowException(Exception): error_code = ''\n")
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))
        return tmp_path / "calls.txt"

    return write


RECORDER = """
import os, time
from pathlib import Path
from types import SimpleNamespace as Found

class MlflowClient:
    def __init__(self, tracking_uri):
        database = Path(tracking_uri.removeprefix("sqlite://"))
        if not database.exists():
            time.sleep(0.2)
            database.write_text("half")
            self("made", database.name)
        self("pid", os.getpid())
        self("MlflowClient", tracking_uri)
        self(*(f"{name}={value}" for name, value in os.environ.items() if "MLFLOW" in name))

    def __call__(self, *values, **named):
        print("MLflow prints a lot")
        with open(Path(__file__).parents[2] / "calls.txt", "a") as calls:
            print(*values, *named.items(), file=calls)

    def __getattr__(self, name):
        def call(*values, **named):
            self(name, *values, **named)
            info = Found(run_id="r1", lifecycle_stage="active")
            return Found(experiment_id="e1", lifecycle_stage="active", info=info, data=Found(params={}, metrics={}))
        return call
"""


LOST = f"""
from http.client import RemoteDisconnected
from urllib3.exceptions import ProtocolError
raise RuntimeError('API request to http://me:{SECRET}@host/x failed with exception ...') from ProtocolError"""
"""The error of a server that ends during a request; the socket's error is one of its arguments."""


def test_without_a_tracker_nothing_is_started_or_printed(tmp_path, capsys):
    with tracking(None, new_run(tmp_path / "run"), FLAGS) as tracked:
        tracked.epoch(rows([1])[0])
        tracked.finish({"iout": 0.1}, [])
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "run" / "tracker.json").exists()


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"--tracker mlfow: no such name; did you mean mlflow\?"):
        check_tracker("mlfow")
    monkeypatch.setitem(trackers.TRACKERS, "no_such_package", None)
    with pytest.raises(UsageError, match=r"--tracker no_such_package: .*pip install -e '\.\[no_such_package\]'"):
        check_tracker("no_such_package")
    check_tracker("mlflow")
    check_tracker(None)


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_every_tracker_is_an_extra_and_logs_a_run(name, tmp_path, monkeypatch, capsys):
    """Package and extra have the name of the tracker; without a server it writes a file next to the run folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check_tracker(name)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(package.partition("=")[0].partition(">")[0] == name for package in extras[name]), extras[name]
    with tracking(name, new_run(tmp_path / "runs/a"), FLAGS) as tracked:
        tracked.epoch(rows([1])[0])
        tracked.finish({"iout": 0.1}, [])
    assert capsys.readouterr().err == ""
    assert {entry.name for entry in (tmp_path / "runs").iterdir()} > {"a"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("import os; os._exit(9)", "its process ended (exit code 9)"),
        ("raise OSError(28, 'No space left on device', 'mlflow.db')", "mlflow.db: No space left on device"),
        (
            f"raise RuntimeError('to http://me:{SECRET}@host/x: {SECRET} is wrong\\nsecond line')",
            "to http://***@host/x: *** is wrong",
        ),
        (
            f"{LOST}('Connection aborted.', ConnectionResetError(104, 'reset by peer'))",
            "http://***@host: reset by peer",
        ),
        (f"{LOST}('Connection aborted.', RemoteDisconnected('closed by server'))", "http://***@host: closed by server"),
    ],
)
def test_a_failing_tracker_prints_one_line_and_the_run_continues(package, tmp_path, monkeypatch, capsys, code, reason):
    package(code)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    with tracking("mlflow", new_run(tmp_path / "run"), FLAGS) as tracked:
        printed = until(lambda: tracked.epoch(rows([1])[0]) or capsys.readouterr().err)
        tracked.epoch(rows([2])[0])
        tracked.finish({"iout": 0.1}, [])
    assert printed == f"tracker: mlflow: {reason}; training continues without it\n"
    assert capsys.readouterr() == ("", "")


def test_a_hanging_tracker_delays_nothing_and_is_killed(package, tmp_path, monkeypatch, capsys):
    package(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(3600)")
    monkeypatch.setattr(trackers, "SECONDS_FINISHED", 0.2)
    with tracking("mlflow", new_run(tmp_path / "run"), FLAGS) as tracked:
        pid = int(until((tmp_path / "pid").exists) and until((tmp_path / "pid").read_text))
        long_ago = {f"metric {place}": 0.5 for place in range(500)}
        for epoch in range(1, 50):  # more than a pipe holds
            tracked.epoch({"epoch": epoch, **long_ago})
        tracked.finish({"iout": 0.1}, [])
    assert capsys.readouterr().err == ("tracker: mlflow: not everything was sent within 0.2 s; log.csv is complete\n")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_messages_are_sent_in_order_and_without_telemetry(package, tmp_path, monkeypatch, capsys):
    calls = package(RECORDER)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")  # set by the user, kept
    with tracking("mlflow", new_run(tmp_path / "run"), {**FLAGS, "notify": [f"json://{SECRET}"]}) as tracked:
        tracked.epoch(rows([1])[0])
        tracked.finish({"iout": 0.1}, [tmp_path / "not there"])
    text = calls.read_text()
    assert f"MlflowClient sqlite:///{tmp_path}/mlflow.db\n" in text
    assert {"MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_HTTP_REQUEST_TIMEOUT=7"} <= set(text.split())
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["log_batch", "log_batch", "set_terminated"]
    assert SECRET not in text
    assert capsys.readouterr() == ("", "")  # the output of the package is not printed either


def test_runs_that_start_together_create_one_file_and_a_kill_leaves_no_partial_one(
    package, tmp_path, monkeypatch, capsys
):
    calls = package(RECORDER)
    (tmp_path / ".mlflow.db.part").write_text("left by a kill")
    one, other = new_run(tmp_path / "a_fold0"), new_run(tmp_path / "a_fold1")
    with tracking("mlflow", one, FLAGS), tracking("mlflow", other, FLAGS):
        pass
    assert calls.read_text().count("made .mlflow.db.part") == 1
    assert calls.read_text().count("set_terminated r1 FINISHED") == 2
    assert (tmp_path / "mlflow.db").read_text() == "half"
    assert not (tmp_path / ".mlflow.db.part").exists()
    assert capsys.readouterr().err == ""


RUN = """
import sys, time
from pathlib import Path
from utils.runs import trackers
from utils.runs.run_folder import RunFolder

trackers.SECONDS_BROKEN_OFF = trackers.SECONDS_BEFORE_NOTICE = 3600
with trackers.tracking("mlflow", RunFolder(Path(sys.argv[1])), {}) as tracked:
    tracked.epoch({"epoch": 1, "iout": 0.5})
    time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_is_closed_at_the_tracker_as_interrupted(package, tmp_path, number):
    calls = package(RECORDER)
    path = os.pathsep.join((os.environ["PYTHONPATH"], str(ROOT)))
    command = [sys.executable, "-c", RUN, str(new_run(tmp_path / "run").path)]
    run = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, process_group=0)
    until(lambda: calls.exists() and "iout" in calls.read_text(), lambda: run.poll() is None)
    if number != signal.SIGKILL:  # batch systems signal every process
        os.kill(int(calls.read_text().partition("pid ")[2].split()[0]), number)
    os.killpg(run.pid, number)  # like Ctrl-C in a terminal
    printed = run.communicate(timeout=HANGS)[1].decode()
    assert "tracker:" not in printed
    assert until(lambda: "set_terminated r1 KILLED" in calls.read_text())


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError(), "FAILED"), (Interrupted(15, ""), "KILLED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_error_closes_the_run_at_the_tracker_and_is_raised_unchanged(package, tmp_path, error, status):
    calls = package(RECORDER)
    with pytest.raises(type(error)) as raised, tracking("mlflow", new_run(tmp_path / "run"), FLAGS):
        raise error
    assert raised.value is error
    assert f"set_terminated r1 {status}" in calls.read_text()
