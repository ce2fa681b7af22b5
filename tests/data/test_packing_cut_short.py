"""Packing that is killed, fails or runs out of space: no folder looks complete by mistake, and old files are kept."""

import errno
import resource
import shutil
import signal
import subprocess
import sys

import helpers.sources as sources
import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import ROOT, assert_refused, run_here
from helpers.sources import KILLED, SCRIPT, blob, contents, noise, run_ok, save

from utils.core.files import locked
from utils.data.packed_data import open_packed


@pytest.mark.parametrize(
    ("place", "n_calls"),
    [
        (("utils.data.packing_chunks", "", "load_sample"), 3),
        (("utils.data.packing_chunks", "", "facts_of"), 11),  # the training images are packed, a test image is not
        (("os", "", "replace"), 1),  # the unfinished folder has no mark yet
        (("os", "", "replace"), 3),  # the chunks are finished
        (("os", "", "replace"), 7),  # csv files are renamed, and one array
        (("os", "", "replace"), 9),  # all raw arrays are renamed, the manifest is not
    ],
)
@pytest.mark.parametrize("store", ["raw", "compact"])
def test_a_killed_run_leaves_nothing_that_looks_complete(tmp_path, place, n_calls, store):
    sources.salt(tmp_path / "data", train="dbacefgh")
    run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "quiet", "--store", store, cwd=tmp_path)
    words = ["--data_dir", str(tmp_path / "data"), "--out_dir", str(tmp_path / "out"), "--store", store]
    killed = [sys.executable, "-c", KILLED, *place, str(n_calls), *words]
    assert subprocess.run(killed, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "out/manifest.json").exists()
    for path in (tmp_path / "out").glob("*.npy"):
        np.load(path)  # every array that has its final name is complete
    run_ok(*words, cwd=tmp_path)
    assert contents(tmp_path / "out") == contents(tmp_path / "quiet")


def test_a_run_that_is_killed_while_packing_again(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.salt(data)
    run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    before = contents(out)
    save(data / "train/images/a.png", noise(99))
    killed = [sys.executable, "-c", KILLED, "utils.data.packing_chunks", "", "facts_of", "5"]
    words = ["--data_dir", str(data), "--out_dir", str(out)]
    assert subprocess.run([*killed, *words], cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert {name: contents(out)[name] for name in before} == before, "the old arrays are unchanged"
    killed[3:] = ["os", "", "replace", "8"]
    assert subprocess.run([*killed, *words], cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists(), "a manifest next to arrays of two runs"
    assert "already" not in run_ok(*words, cwd=tmp_path)
    assert np.array_equal(open_packed(out).images[2, ..., 0], noise(99))


def test_a_failed_run_changes_nothing(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.salt(data)
    run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    before = contents(out)
    save(data / "train/images/a.png", noise(99))
    save(data / "train/masks/c.png", blob(1, (4, 4)))
    assert_refused(run_here(SCRIPT, "--data_dir", data, "--out_dir", out, cwd=tmp_path), 1, "train/masks/c.png")
    assert contents(out) == before


def test_full_disk(tmp_path, monkeypatch):
    sources.salt(tmp_path / "data")
    words = ["--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", "--size", "200x200", "--store", "raw"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert_refused(done, 1, tmp_path / "out", "File too large", "free disk space")
    assert list((tmp_path / "out").glob("[!.]*")) == []
    shutil.rmtree(tmp_path / "out/.packing")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 100_000))
    done = run_here(SCRIPT, *words, cwd=tmp_path)
    assert_refused(done, 1, tmp_path / "out", "--out_dir", "MB are free")
    assert files_in(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_interrupted_run_is_continued(tmp_path, name):
    sources.salt(tmp_path / "data", train="dbacefgh")
    words = ["--data_dir", str(tmp_path / "data"), "--out_dir", str(tmp_path / "out")]
    stopped = KILLED.replace("signal.SIGKILL", f"signal.{name}")
    line = [sys.executable, "-c", stopped, "utils.data.packing_chunks", "", "facts_of", "11", *words]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    number = getattr(signal, name)
    assert_refused(done, 128 + number, "out: packing was interrupted; the same command continues it")
    assert len(list((tmp_path / "out/.packing").glob("train_0*.json"))) == 1
    run_ok(*words, cwd=tmp_path)
    assert len(open_packed(tmp_path / "out").ids) == 8


def test_a_disk_that_fills_up_while_packing(tmp_path, monkeypatch):
    sources.salt(tmp_path / "data")

    def full(*_words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("utils.data.packing_chunks.facts_of", full)
    words = ["--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out"]
    said = ("out: no space left on the disk; free some, and the same command continues", ".packing")
    assert_refused(run_here(SCRIPT, *words, cwd=tmp_path), 1, *said)
    assert (tmp_path / "out/.packing").is_dir()


def test_two_packings_of_a_folder_at_once(tmp_path, monkeypatch):
    sources.salt(tmp_path / "data")
    words = ["--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out"]
    run_ok(*words, cwd=tmp_path)
    before = contents(tmp_path / "out")
    monkeypatch.setattr("utils.data.packing.PATIENCE_S", 0)
    with locked(tmp_path / "out"):
        done = run_here(SCRIPT, *words, "--force", cwd=tmp_path)
        assert_refused(done, 1, "out: another process is packing to this folder; wait until it ends")
    assert contents(tmp_path / "out") == before
    run_ok(*words, "--force", cwd=tmp_path)


def test_an_out_dir_that_cannot_be_written(tmp_path):
    sources.salt(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file/below"):
        done = run_here(SCRIPT, "--data_dir", tmp_path / "data", "--out_dir", out, cwd=tmp_path)
        assert_refused(done, 1, out)
    assert (tmp_path / "file").read_text() == "mine"
