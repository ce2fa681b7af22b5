"""Reading folders of any kind as runs: truncated and foreign files, states, secrets; finding run folders."""

import json
import os

import pytest
from helpers.masks import blobs, write_packed
from helpers.runs import write_run, write_val_masks

from utils.core.errors import Interrupted, UserError
from utils.core.files import read_json, write_json
from utils.report.find_runs import runs_below, short_names
from utils.report.read_run import read_run
from utils.report.safe_reading import attempt
from utils.runs.status import begun, ended, write_status


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Work in a folder with packed images in `data`; return their (ids, probabilities)."""
    monkeypatch.chdir(tmp_path)
    probabilities, truth = blobs(6)
    ids = [f"image{number}" for number in range(6)]
    write_packed("data", {"train": (ids, truth, (31, 31))})
    return ids, probabilities


def test_states(home):
    run = write_run("experiments/a", finished=False)
    assert read_run(run, "a").state == "interrupted"
    now = begun()
    write_status(run, now)
    assert (read_run(run, "a").state, read_run(run, "a").note) == ("running", "")
    write_status(run, ended(now, "failed", "the loss is nan; see http://me:hunter2@host/x"))
    facts = read_run(run, "a")
    assert (facts.state, facts.note) == ("failed", "the loss is nan; see http://***@host/x")
    write_json(run / "status.json", {"state": "fine"})
    facts = read_run(run, "a")
    assert (facts.state, facts.problems[0][:11]) == ("interrupted", "status.json")


BROKEN = {
    "config.json": [b"[1, 2]", b"{", b"\xff\x00\xfe", b"", b"[" * 100_000],
    "log.csv": [
        b"",
        b"\xff\xfe\x00\x01",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"a,b\n1,2\n",
        b"epoch,iout\nx,y\n",
    ],
    "summary.json": [b"[]", b"{", b'{"seconds": "long", "machine": 5}', b'{"seconds": 1e999}'],
    "status.json": [b"[]", b'{"state": 1}', b"\x80"],
    "threshold.json": [b"[]", b'{"threshold": "x"}', b'{"threshold": 7}', b'{"masks": 5, "threshold": null}', b"\0"],
    "MASKS.npy": [b"", b"\x93NUMPY", b"garbage" * 100],
    "MASKS.json": [b"", b"[]", b'{"ids": 3}', b'{"ids": ["a"], "data_dir": "data"}', b"{}"],
}


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, found in BROKEN.items() for one in found])
def test_any_content_of_a_file_is_at_most_one_problem(home, name, content):
    ids, probabilities = home
    run = write_run("experiments/a")
    masks = write_val_masks(run, ids, probabilities, "data")
    write_json(run / "threshold.json", {"threshold": 0.5})
    broken = masks.with_suffix(name[5:]) if name.startswith("MASKS") else run / name
    broken.write_bytes(content)
    facts = read_run(run, "a")
    assert facts.state in ("finished", "interrupted")
    harmless = content in (b'{"seconds": "long", "machine": 5}', b'{"seconds": 1e999}')
    assert harmless or len(facts.problems) == 1, facts.problems
    assert all("\n" not in line and (broken.name in line or masks.name in line) for line in facts.problems)
    assert (facts.judged is None) == name.startswith("MASKS")
    json.dumps([facts.settings, facts.log, facts.stored, facts.seconds, facts.best], allow_nan=False)


def test_a_cut_log_loses_its_last_row_only(home):
    run = write_run("experiments/a")
    whole = (run / "log.csv").read_text()
    for text, epochs, n_problems in (
        (whole, 3, 0),
        (whole[:-2], 2, 1),  # 10. instead of 10.0: a missing digit cannot be detected
        (whole[:-20], 2, 1),
        (whole + "4,1,,,\n", 3, 1),
        (whole + "4,1,nan,1,1,1,1,1,1\n", 3, 1),
        (whole.partition("\n")[0] + "\n", 0, 0),
    ):
        (run / "log.csv").write_text(text)
        facts = read_run(run, "a")
        assert len(facts.log.get("epoch", ())) == epochs
        assert ["log.csv" in line for line in facts.problems if "val_masks" not in line] == [True] * n_problems
    assert (facts.best, facts.best_epoch) == (0.8, 2)  # from the name of the snapshot


def test_folders_that_are_not_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd" / "config.json").mkdir(parents=True)
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "config.json").write_text("[]")
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "empty" / "log.csv")
    for name, note in (("empty", "no config.json"), ("odd", "config.json"), ("listed", "found list"), ("file", "no ")):
        facts = read_run(tmp_path / name, name)
        assert (facts.state, facts.problems) == ("unreadable", [])
        assert note in facts.note
        assert (facts.settings, facts.log, facts.judged, facts.best) == ({}, {}, None, None)


def test_a_signal_is_not_reported_as_a_broken_file(tmp_path):
    def read():
        raise Interrupted(15, "terminated")

    with pytest.raises(Interrupted):
        attempt(read, [], tmp_path, "log.csv")


def test_secrets_are_not_shown(home):
    secrets = {"notify": ["mailto://a:b@c"], "api_token": "t0p", "PASSWORD": "t0p", "hf_key": "t0p", "secret": "t0p"}
    hidden = {"uri": "postgres://me:t0p@host/db", "nested": {"a": ["x", "s3://t0p:t0p/@host"]}}
    run = write_run("experiments/a", tracker="mlflow", page="http://host/page", **hidden)
    write_json(run / "config.json", {**read_json(run / "config.json"), **secrets})
    write_json(run / "threshold.json", {"threshold": 0.5, "token": "t0p", "masks": ["http://me:t0p@host/a.npy"]})
    write_json(run / "summary.json", {"machine": "cpu at ssh://me:t0p@host"})
    facts = read_run(run, "a")
    assert [facts.settings[name] for name in ("tracker", "page", "keep")] == ["mlflow", "http://host/page", 5]
    assert not {*secrets, *hidden} & facts.settings.keys()
    assert "t0p" not in repr(facts)


def test_run_folders_that_a_command_line_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b_fold10", "b_fold9", "a"):
        write_run(f"experiments/{name}", scores=())
    for folder in ("half/snapshots", "empty", ".hidden", "mlartifacts/1"):
        os.makedirs(f"experiments/{folder}")
    for file in ("README.md", "mlflow.db", "b_oof.npy"):
        (tmp_path / "experiments" / file).write_text("x")
    (tmp_path / "experiments" / "broken").symlink_to("nowhere")
    everything = ["a", "b_fold9", "b_fold10", "empty", "half"]
    assert [path.name for path in runs_below(["experiments"])] == everything
    named = sorted(str(path) for path in (tmp_path / "experiments").glob("[!.]*"))  # as a shell expands it
    assert sorted(path.name for path in runs_below(named)) == sorted(everything)
    assert len(runs_below(["experiments/a", "experiments"])) == len(everything)
    assert len(runs_below(["experiments/a", f"{tmp_path}/experiments/a"])) == 1
    assert [path.name for path in runs_below(["experiments/half"])] == ["half"]
    os.makedirs("bare/.git")
    (tmp_path / "bare" / "README.md").write_text("x")
    os.makedirs("data/train")
    (tmp_path / "data" / "train.csv").write_text("id\n")
    missing = "experiments/*: no such file or folder"
    for words, message in (
        (["bare"], "bare: no runs"),
        (["data"], "data: no runs"),
        (["experiments/*"], missing),
        ([], "no folder given"),
    ):
        with pytest.raises(UserError) as refused:
            runs_below(words)
        assert message in str(refused.value)


def test_names_are_as_short_as_possible(tmp_path):
    paths = [tmp_path / name for name in ("x/a/run", "x/b/run", "x/b/other", "y/b/run")]
    assert short_names(paths) == ["a/run", "x/b/run", "other", "y/b/run"]
    assert short_names([]) == []
