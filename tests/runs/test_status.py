"""status.json of a run: running, finished, failed, interrupted or killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.waiting import until

from utils.core.errors import Interrupted, UsageError, UserError
from utils.runs.status import begun, check_free, read_status, tracked_status, write_status


def test_a_running_and_a_finished_run(tmp_path):
    with tracked_status(tmp_path):
        status = read_status(tmp_path)
        assert (status.state, status.ended, status.pid) == ("running", None, os.getpid())
    status = read_status(tmp_path)
    assert (status.state, status.reason) == ("finished", "")
    assert status.ended >= status.began


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UserError("loss is nan; try a lower rate"), "failed", "loss is nan; try a lower rate"),
        (ValueError("seven\nlines"), "failed", "unexpected ValueError: seven"),
        (Interrupted(signal.SIGTERM, "12 epochs are kept"), "interrupted", "12 epochs are kept"),
        (KeyboardInterrupt(), "interrupted", "interrupted"),
    ],
)
def test_an_error_is_stored_in_one_line_and_raised_unchanged(tmp_path, error, state, reason):
    with pytest.raises(type(error)), tracked_status(tmp_path):
        raise error
    status = read_status(tmp_path)
    assert status.state == state
    assert status.reason.startswith(reason)
    assert "\n" not in status.reason


def test_a_removed_folder_is_not_created_again(tmp_path):
    folder = tmp_path / "run"

    def train():
        with tracked_status(folder):
            shutil.rmtree(folder)
            raise UserError("was removed")

    with pytest.raises(UserError, match="was removed"):
        train()
    assert not folder.exists()


def test_a_killed_process_leaves_an_interrupted_run(tmp_path):
    code = "import os, signal, sys; from pathlib import Path; from utils.runs.status import tracked_status\n"
    code += "with tracked_status(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"
    status = read_status(tmp_path)
    assert status.state == "interrupted"
    assert "without reporting why" in status.reason


def test_a_run_is_not_resumed_while_another_process_trains_it(tmp_path):
    code = "import sys; from pathlib import Path; from utils.runs.status import tracked_status\n"
    code += "with tracked_status(Path(sys.argv[1])): print(flush=True), sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(UsageError, match=f"process {other.pid} is training in"):
        check_free(tmp_path)
    other.kill()
    until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert read_status(tmp_path).state == "interrupted"  # ended, but not yet waited for
    check_free(tmp_path)
    other.communicate()


def test_another_process_with_the_same_id_is_not_the_run(tmp_path):
    write_status(tmp_path, replace(begun(), started=1))
    assert read_status(tmp_path).state == "interrupted"


def test_the_status_of_a_run_on_another_machine_is_returned_as_stored(tmp_path):
    write_status(tmp_path, replace(begun(), host="elsewhere", pid=2**22 + 1))
    assert read_status(tmp_path).state == "running"


@pytest.mark.parametrize("text", ["[]", '{"state": "running"}', "{", '{"state": 3}'])
def test_an_invalid_file_is_refused(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(UserError, match=r"status\.json"):
        read_status(tmp_path)


def test_a_folder_without_the_file_has_no_status(tmp_path):
    assert read_status(tmp_path) is None
