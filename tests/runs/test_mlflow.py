"""The MLflow tracker: with its default file, with a real server on that file, and when the server is killed."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from helpers.scripts import free_port
from helpers.trackers import FLAGS, SECRET, new_run, patience, rows
from helpers.waiting import HANGS, until

from utils.core.files import read_json, write_json
from utils.runs.trackers import tracking


@pytest.fixture(scope="module")
def tracked_in_sqlite(tmp_path_factory):
    """The folder of a run, tracked in the default mlflow.db, that was interrupted after two epochs."""
    folder = new_run(tmp_path_factory.mktemp("experiments") / "unet_fold0")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patience(patch)
        with pytest.raises(KeyboardInterrupt):
            _train_two_epochs(folder)
    return folder


def _train_two_epochs(folder):
    with tracking("mlflow", folder, FLAGS) as tracked:
        for row in rows([1, 2]):
            tracked.epoch(row)
        folder.write_log(rows([1, 2]))
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def server(tracked_in_sqlite, tmp_path_factory):
    """`mlflow server` on that file: get(), api(), kill(), and its URL with a password."""
    port, place = free_port(), tmp_path_factory.mktemp("server")
    database = f"sqlite:///{tracked_in_sqlite.path.parent}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(place / "files")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(place / "log.txt", "w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, cwd=place, start_new_session=True
        )

    def get(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=HANGS) as response:
            return response.read()

    def api(path, body=None):
        return json.loads(get(f"/api/2.0/mlflow/{path}", body))

    def up():
        assert process.poll() is None, (place / "log.txt").read_text()
        try:
            return get("/health")
        except urllib.error.URLError:
            return None

    def is_closed():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED

    def kill():
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until(is_closed)  # its workers may outlive it for a moment

    try:
        until(up)
        yield SimpleNamespace(get=get, api=api, kill=kill, url=f"http://me:{SECRET}@127.0.0.1:{port}")
    finally:
        if process.poll() is None:
            kill()


@pytest.fixture
def by_server(server, monkeypatch):
    patience(monkeypatch)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(HANGS))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "salt")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # as set by the user: give up at once


def id_of(folder):
    return read_json(folder.path / "tracker.json")["run_id"]


def stored_run(server, folder):
    """Return the status, parameters and tags of a run on the server."""
    run = server.api(f"runs/get?run_id={id_of(folder)}")["run"]
    pairs = {what: {one["key"]: one["value"] for one in run["data"].get(what, [])} for what in ("params", "tags")}
    return SimpleNamespace(status=run["info"]["status"], info=run["info"], **pairs)


def history(server, folder, metric):
    points = server.api(f"metrics/get-history?run_id={id_of(folder)}&metric_key={metric}").get("metrics", [])
    return [(int(point["step"]), point["value"]) for point in points]


def test_by_default_a_run_is_stored_in_a_file_next_to_it(tracked_in_sqlite, server):
    run = stored_run(server, tracked_in_sqlite)
    assert run.status == "KILLED"
    assert run.params == {"arch": "unet_resnet18", "batch_size": "8", "stages": "256:20 512:10", "n_epochs": "3"}
    assert run.tags["mlflow.runName"] == "unet_fold0"
    assert history(server, tracked_in_sqlite, "iout") == [(1, 0.1), (2, 0.2)]
    assert history(server, tracked_in_sqlite, "val_loss") == [(1, 1.0), (2, 0.5)]
    assert run.info["artifact_uri"].startswith((tracked_in_sqlite.path.parent / "mlartifacts").as_uri())


@pytest.mark.usefixtures("by_server")
def test_a_finished_run_has_every_epoch_and_its_files_on_the_server(server, tmp_path, capsys):
    folder = new_run(tmp_path / "runs" / "a_fold1", n_epochs_logged=2)
    write_json(folder.path / "tracker.json", {"tracker": "mlflow", "run_id": "0" * 32})  # an unknown run
    (folder.path / "weights").write_bytes(bytes(range(256)) * 999)
    with tracking("mlflow", folder, FLAGS) as tracked:
        tracked.epoch(rows([3])[0])
        summary = {"best_snapshot": "snapshots/x", "epoch": 2, "iout": 0.25, "seconds": 60.0, "machine": "cpu"}
        tracked.finish(summary, [folder.path / "weights", folder.config, folder.path / "not there"])
    assert capsys.readouterr().err == ""
    run = stored_run(server, folder)
    assert run.status == "FINISHED"
    assert run.tags["best_snapshot"] == "snapshots/x"
    assert history(server, folder, "iout") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert history(server, folder, "best/iout") == [(3, 0.25)]
    assert history(server, folder, "best/epoch") == [(3, 2.0)]
    assert server.api("experiments/get-by-name?experiment_name=salt")["experiment"]["experiment_id"]
    for file in ("weights", "config.json"):
        found = server.get(f"/get-artifact?path={file}&run_uuid={id_of(folder)}")
        assert found == (folder.path / file).read_bytes()


@pytest.mark.usefixtures("by_server")
def test_a_resumed_run_continues_on_the_server_and_survives_its_kill(tracked_in_sqlite, server, capsys):
    folder, before = tracked_in_sqlite, id_of(tracked_in_sqlite)
    with tracking("mlflow", folder, {**FLAGS, "n_epochs": 5}) as tracked:
        tracked.epoch(rows([3])[0])
        until(lambda: len(history(server, folder, "iout")) == 3)
        assert id_of(folder) == before
        run = stored_run(server, folder)
        assert run.status == "RUNNING"
        assert run.params["n_epochs"] == "3"
        assert run.tags["resumed.n_epochs"] == "5"
        assert history(server, folder, "iout") == [(1, 0.1), (2, 0.2), (3, 0.3)]
        server.kill()
        for row in rows([4, 5]):
            tracked.epoch(row)
        tracked.finish({"best_snapshot": "snapshots/x", "iout": 0.5}, [folder.config])
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith("tracker: mlflow: http://***@127.0.0.1:")
    assert warning.endswith("Connection refused; training continues without it")
    for path in folder.path.parent.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
