"""utils/share.py with a local folder: copied files, refusals, and interrupted copies."""

import json
import os
import sys

import pytest
from helpers.masks import blobs, files_in, write_packed
from helpers.scripts import assert_refused, run_here, run_script
from helpers.sharing import BEST, ELSEWHERE, IDS, SHARED, run_to_share, share, shared
from helpers.sources import contents
from helpers.waiting import HANGS

from bench.warm import start
from utils.core.files import write_json
from utils.runs import remote_folder
from utils.runs.status import begun, write_status

RUN, URL = "experiments/a_fold0", "lab/a_fold0"


@pytest.fixture
def place(tmp_path):
    """A folder with a run in experiments/a_fold0."""
    run_to_share(tmp_path / RUN)
    return tmp_path


def times(folder):
    return {name: os.stat(folder / name).st_mtime_ns for name in files_in(folder)}


def test_a_pushed_run_is_pulled_byte_for_byte(place):
    done = run_script("utils/share.py", "push", RUN, URL, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(files_in(place / URL)) == {*SHARED, "share.json"}
    assert "got/a: 10 files" in shared("pull", "got/a", URL, cwd=place)
    ours = contents(place / RUN)
    assert contents(place / "got/a") == {name: ours[name] for name in SHARED}
    # val_tta.npy, which threshold.json names by a path in a_fold0, is found in a renamed folder too
    os.rename(place / "got/a", place / "got/b")
    shared("push", "got/b", "lab/b", cwd=place)
    assert set(files_in(place / "lab/b")) == {*SHARED, "share.json"}


def test_only_new_files_are_sent(place):
    shared("push", RUN, URL, cwd=place)
    before = times(place / URL)
    assert "10 files" in shared("push", RUN, URL, cwd=place)
    assert times(place / URL) == before
    write_json(place / RUN / "gate.json", {"gate_threshold": 0.5, "masks": []})
    assert "14 files" in shared("push", RUN, URL, "--all", cwd=place)
    after = times(place / URL)
    assert {name: after[name] for name in SHARED} == {name: before[name] for name in SHARED}
    assert "snapshots/epoch_1.loss_1.5000.iout_0.500" in after
    # the manifest still lists the files of an earlier push
    write_json(place / RUN / "labels.json", {})
    shared("push", RUN, URL, cwd=place)
    assert "15 files" in shared("pull", "got/a", URL, cwd=place)
    before = times(place / "got/a")
    assert "15 already existed" in shared("pull", "got/a", URL, cwd=place)
    assert times(place / "got/a") == before


def test_a_damaged_file_is_detected_and_the_others_are_not_fetched_again(place):
    shared("push", RUN, URL, cwd=place)
    snapshot = place / URL / "snapshots" / BEST
    whole = snapshot.read_bytes()
    snapshot.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    refused = share("pull", "got/a", URL, cwd=place)
    assert_refused(refused, 1, f"{URL}/snapshots/{BEST}: is not what was pushed", "checksum")
    have = times(place / "got/a")
    assert 0 < len(have) < len(SHARED)
    assert f"snapshots/{BEST}" not in have
    for damaged, message in ((whole + b"!", "is not what was pushed"), (None, "is missing")):
        snapshot.write_bytes(damaged) if damaged else snapshot.unlink()
        assert_refused(share("pull", "got/a", URL, cwd=place), 1, BEST, message)
    snapshot.write_bytes(whole)
    assert f"{len(have)} already existed" in shared("pull", "got/a", URL, cwd=place)
    assert set(files_in(place / "got/a")) == SHARED
    assert {name: time for name, time in times(place / "got/a").items() if name in have} == have


def test_nothing_that_differs_is_overwritten_on_either_side(place):
    shared("push", RUN, URL, cwd=place)
    shared("pull", "got/a", URL, cwd=place)
    log = place / RUN / "log.csv"
    log.write_text(log.read_text().replace("0.5", "0.6"))
    (place / RUN / "objects.json").write_text("{}")
    there, here = contents(place / URL), contents(place / RUN)
    assert_refused(share("push", RUN, URL, cwd=place), 1, f"{URL}/log.csv", "differs", "another URL")
    assert_refused(share("pull", RUN, URL, cwd=place), 1, f"{RUN}/log.csv", "differs", "another folder")
    assert (contents(place / URL), contents(place / RUN)) == (there, here)
    # this also holds after an interrupted push, which leaves no manifest
    (place / URL / "share.json").unlink()
    assert_refused(share("push", RUN, URL, cwd=place), 1, f"{URL}/log.csv", "differs")
    assert "objects.json" not in files_in(place / URL)
    # a run is not pulled into a folder with other content
    (place / "notes").mkdir()
    (place / "notes" / "todo.txt").write_text("")
    shared("push", "got/a", "lab/b", cwd=place)
    assert_refused(
        share("pull", "notes", "lab/b", cwd=place), 1, "notes: expected a new folder for the run", "found todo.txt"
    )
    assert files_in(place / "notes") == ["todo.txt"]


def test_a_pull_without_a_manifest_is_refused(place):
    shared("push", RUN, URL, cwd=place)
    (place / URL / "share.json").unlink()
    assert_refused(share("pull", "got/a", URL, cwd=place), 1, f"{URL}: expected share.json", "interrupted")
    assert_refused(share("pull", "got/a", "lab/none", cwd=place), 1, "lab/none: nothing is shared there")
    shared("push", RUN, "lab/b", cwd=place)
    assert_refused(share("pull", "lab/b", "got/a", cwd=place), 2, "lab/b: holds a shared run; name the new folder")
    assert not (place / "got").exists()
    # a second push finds all files there, by their checksums
    assert "10 already existed" in shared("push", RUN, URL, cwd=place)
    shared("pull", "got/a", URL, cwd=place)


ENTRY = {"name": "config.json", "size": 2, "sha256": "0" * 64}
MALICIOUS = [
    *({"format": 1, "files": [ENTRY | {"name": name}]} for name in ("../out", "/out", "a/../../out", "", ".", "a//b")),
    *({"format": 1, "files": [ENTRY | change]} for change in ({"size": -1}, {"size": "2"}, {"sha256": "0"}, {"x": 1})),
    *({"format": 1, "files": files} for files in ([ENTRY, ENTRY], [None], None, [{"name": "config.json"}])),
    *({"format": 2, "files": []}, [], "files", None),
]


@pytest.mark.parametrize("manifest", MALICIOUS)
def test_nothing_is_written_for_a_malicious_manifest(manifest, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "out").write_text("{}")
    write_json(tmp_path / "lab" / "share.json", manifest)
    assert_refused(share("pull", "got/a", "lab", cwd=tmp_path), 1, "lab/share.json: ")
    assert files_in(tmp_path) == ["lab/share.json", "out"]


def test_a_link_out_of_the_folder_and_a_size_beyond_the_disk_are_refused(place):
    shared("push", RUN, URL, cwd=place)
    (place / "got/a").mkdir(parents=True)
    (place / "elsewhere").mkdir()
    (place / "got/a/snapshots").symlink_to(place / "elsewhere")
    assert_refused(share("pull", "got/a", URL, cwd=place), 1, "got/a/snapshots", "a link leads out of got/a")
    assert files_in(place / "elsewhere") == []
    manifest = json.loads((place / URL / "share.json").read_text())
    manifest["files"][0]["size"] = 10**18
    write_json(place / URL / "share.json", manifest)
    assert_refused(share("pull", "got/b", URL, cwd=place), 1, "got/b: the files need 1,000,000,000,000", "MB are free")


def test_ctrl_c_leaves_nothing_half_written(place, monkeypatch):
    shared("push", RUN, URL, cwd=place)
    fetch, whole = remote_folder.RemoteFolder.fetch, []

    def cut(self, name, target, seen):
        if len(whole) == 3:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        whole.append(name)
        fetch(self, name, target, seen)

    with monkeypatch.context() as patch:
        patch.setattr(remote_folder.RemoteFolder, "fetch", cut)
        assert_refused(share("pull", "got/a", URL, cwd=place), 130, "interrupted")
    assert files_in(place / "got/a") == sorted(whole)
    assert "3 already existed" in shared("pull", "got/a", URL, cwd=place)


def test_a_run_in_training_is_not_pushed(place, monkeypatch):
    write_status(place / RUN, begun())
    assert_refused(share("push", RUN, URL, cwd=place), 1, f"{RUN}: is still being trained", "status.json")
    (place / RUN / "status.json").unlink()
    send = remote_folder.RemoteFolder.send

    def while_training(self, source, name, seen):
        send(self, source, name, seen)
        if name == "config.json":
            (place / RUN / "snapshots" / BEST).unlink()  # replaced by a better one

    monkeypatch.setattr(remote_folder.RemoteFolder, "send", while_training)
    assert_refused(share("push", RUN, URL, cwd=place), 1, f"snapshots/{BEST}: changed while it was being sent")
    assert "share.json" not in files_in(place / URL)


def test_the_threshold_of_a_pulled_run_is_fitted_with_images_in_another_folder(tmp_path):
    probabilities, truth = blobs(len(IDS))
    run_to_share(tmp_path / RUN, probabilities=probabilities)
    write_packed(tmp_path / "mine", {"train": (IDS, truth, truth.shape[1:])})
    shared("push", RUN, URL, cwd=tmp_path)
    assert f"trained on the images in {ELSEWHERE}" in shared("pull", "got/a", URL, cwd=tmp_path)
    words = ("optimize_threshold.py", "--masks_fn", f"got/a/snapshots/val_masks_{BEST}.npy")
    assert_refused(run_here(*words, cwd=tmp_path), 1, ELSEWHERE, "--truth_fn")
    done = run_here(*words, "--truth_fn", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "got/a/threshold.json").read_text())["n_images"] == len(IDS)


def test_a_pulled_run_predicts(trained, survey, tmp_path):
    shared("push", trained, "lab", cwd=tmp_path)
    shared("pull", "got/a", "lab", cwd=tmp_path)
    process = start("predict.py", ["--snapshot", "got/a", "--data_dir", str(survey)], tmp_path / "output.txt", tmp_path)
    process.join(HANGS)
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text()
    assert len(list((tmp_path / "submissions").glob("*.csv"))) == 1


def test_wrong_arguments(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    secret = "ssh://ann:s3cret@host"
    (place / "empty").mkdir()
    write_json(place / "empty" / "config.json", {})
    for words, code, messages in (
        (("push", RUN, "s3://lab/a"), 1, ("s3://lab/a: needs s3fs", "pip install -e '.[share]'")),
        (("push", RUN, "s3://ann:s3cret@lab/a"), 2, ("s3://ann:***@lab/a", "leave out the key or password")),
        (("push", RUN, "http://ann:s3cret@lab/a"), 2, ("http://ann:***@lab/a: expected a folder, s3://",)),
        (("push", RUN, "s3:lab/a"), 2, ("s3:lab/a: expected a folder, s3://BUCKET",)),
        (("push", RUN, "s3://"), 2, ("s3://: expected",)),
        (("push", RUN, "gs:///lab"), 2, ("gs:///lab: expected",)),
        (("push", RUN, "host:folder"), 2, ("host:folder: expected",)),
        (("push", RUN, "ssh://ann:s3cret/x@host/lab"), 2, ("ssh://ann:***@host/lab: expected", "%2F")),
        (("push", RUN, ""), 2, ("URL: expected",)),
        (("push", secret, RUN), 2, ("ssh://ann:***@host: expected the folder of the run first",)),
        (("push", "lab/b", RUN), 2, ("lab/b: no such folder; name the folder of the run first, then the URL",)),
        (("push", "none", URL), 1, ("none: expected the folder of a run", "no config.json")),
        (("push", "empty", URL), 1, ("empty: no snapshots in this folder", "train first")),
        (("puhs", RUN, URL), 2, ("did you mean push",)),
    ):
        done = share(*words, cwd=place)
        assert_refused(done, code, *messages)
        assert "s3cret" not in done.stderr
    assert share("push", RUN, cwd=place).returncode == 2
    assert not (place / "lab").exists()
