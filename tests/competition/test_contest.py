"""make download-data and make submit with a mock of Kaggle's client: a script named kaggle, first on PATH."""

import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile

import pytest
from helpers.masks import files_in, write_packed
from helpers.scripts import ROOT, assert_refused, run_here
from helpers.sources import contents, labelled, salt
from helpers.waiting import HANGS, until

SCRIPT = "utils/contest.py"
TGS = "tgs-salt-identification-challenge"
MOCK = """#!/bin/sh
printf '%s\\n' "$@" > {folder}/args
case "$2" in
download)
    printf ' 10%%\\r100%%\\n' >&2
    echo "Downloading to $5"
    cp {folder}/prepared.zip "$5/$3.zip"
    touch "$5/$3.zip.kaggle-partial" ;;
submit) printf 'Successfully submitted to a competition\\n3 submissions remaining today.\\n' ;;
esac
"""


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """Put a mock of the client first on PATH and a token into the environment; return the folder of the mock."""
    folder = tmp_path / "kaggle"
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "s3cret")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    write_mock(folder, MOCK)
    return folder


def write_mock(folder, script):
    folder.mkdir(exist_ok=True)
    (folder / "kaggle").write_text(script.format(folder=folder))
    (folder / "kaggle").chmod(0o755)


def zipped(path, entries):
    """Write a zip archive of name -> bytes, or of all files in a folder; return `path`."""
    entries = entries if isinstance(entries, dict) else contents(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def zipped_bytes(entries):
    return zipped(io.BytesIO(), entries).getvalue()


def tgs(kaggle, source):
    """Prepare Kaggle's archive of TGS, which contains csv files and one archive per part."""
    salt(source)
    tables = {path.name: path.read_bytes() for path in source.glob("*.csv")}
    parts = {f"{part}.zip": zipped_bytes(contents(source / part)) for part in ("train", "test")}
    zipped(kaggle / "prepared.zip", {**tables, **parts, "__MACOSX/._train.csv": b"litter"})


def run(*words, cwd):
    return run_here(SCRIPT, *words, cwd=cwd)


def test_a_download_has_a_layout_that_packing_knows(kaggle, tmp_path):
    tgs(kaggle, tmp_path / "source")
    done = run("download", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (kaggle / "args").read_text().split() == [
        *("competitions", "download", TGS, "--path", f"data/.download/{TGS}"),
    ]
    assert contents(tmp_path / "data") == contents(tmp_path / "source")
    assert "4 training and 3 test images; layout salt" in done.stdout
    assert run_here("utils/stack_and_save.py", "--data_dir", "data", cwd=tmp_path).returncode == 0
    (kaggle / "args").unlink()
    assert_refused(run("download", cwd=tmp_path), 1, "--data_dir data: expected a new or empty", "found depths.csv")
    assert not (kaggle / "args").exists()


def test_archives_that_contain_a_folder_of_their_name(kaggle, tmp_path):
    entries = {
        "train.zip": zipped_bytes({"train/a.jpg": b"a", "train/b.jpg": b"b"}),
        "train_masks.csv.zip": zipped_bytes({"train_masks.csv": b"img,rle_mask\n"}),
        "stage1_train.zip": zipped_bytes({"x/images/x.png": b"x"}),
    }
    zipped(kaggle / "prepared.zip", entries)
    done = run("download", "--competition", "carvana", "--data_dir", "cars", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path / "cars") == [
        *("stage1_train/x/images/x.png", "train/a.jpg", "train/b.jpg", "train_masks.csv"),
    ]


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"train.csv": b"", "../out.txt": b"x"}, "entry '../out.txt' leads out"),
        ({"/tmp/strata_out.txt": b"x"}, "leads out"),
        ({"train.zip": zipped_bytes({"a/../../out.txt": b"x"})}, "leads out"),
        ({link("data"): b"/etc"}, "entry 'data' leads out"),
        ({"train.zip": b"PK not"}, "train.zip: not a zip archive, or a broken"),
    ],
)
def test_a_malicious_or_broken_archive_leaves_the_folder_empty(kaggle, tmp_path, entries, said):
    zipped(kaggle / "prepared.zip", entries)
    (tmp_path / "data").mkdir()
    assert_refused(run("download", cwd=tmp_path), 1, said)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".download"]
    assert not list(tmp_path.rglob("out.txt"))


def test_a_truncated_download_is_removed_and_downloaded_again(kaggle, tmp_path):
    tgs(kaggle, tmp_path / "source")
    complete = (kaggle / "prepared.zip").read_bytes()
    (kaggle / "prepared.zip").write_bytes(complete[: len(complete) // 2])
    assert_refused(run("download", cwd=tmp_path), 1, f"{TGS}.zip: not a zip archive, or a broken", "again")
    assert not list(tmp_path.rglob(f"{TGS}.zip"))
    (kaggle / "prepared.zip").write_bytes(complete)
    assert run("download", cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "source")


def test_ctrl_c_keeps_a_partial_download_for_the_next_run(kaggle, tmp_path):
    tgs(kaggle, tmp_path / "source")
    write_mock(kaggle, '#!/bin/sh\necho part > "$5/$3.zip"\nexec sleep 3600\n')
    process = subprocess.Popen(
        [sys.executable, ROOT / SCRIPT, "download"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    part = tmp_path / "data" / ".download" / TGS / f"{TGS}.zip"
    until(lambda: part.exists() and part.read_text() == "part\n", lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C in a terminal
    printed = process.communicate(timeout=HANGS)[1]
    assert (process.returncode, len(printed.splitlines())) == (130, 1), printed
    assert "run the same command again to continue" in printed
    assert part.read_text() == "part\n"
    write_mock(kaggle, MOCK)
    assert run("download", cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "source")


def test_submit_checks_first(kaggle, tmp_path):
    write_packed(tmp_path / "data", {"test": (list("abc"), None, (3, 4))})
    (tmp_path / "data" / "sample_submission.csv").write_text("id,rle_mask\na,1 1\nb,1 1\nc,1 1\n")
    good = "id,rle_mask\na,1 3\nb,\nc,5 2 9 1\n"
    for wrong in (good.replace("c,5 2 9 1\n", ""), good.replace("9 1", "12 2")):
        (tmp_path / "x.csv").write_text(wrong)
        assert_refused(run("submit", "x.csv", cwd=tmp_path), 1, "x.csv", "not valid")
    assert_refused(run("submit", "none.csv", cwd=tmp_path), 1, "none.csv: no such file")
    assert not (kaggle / "args").exists()
    (tmp_path / "x.csv").write_text(good)
    done = run("submit", "x.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-3:] == [
        "valid: 3 rows, 1 empty (33.3%)",
        "Successfully submitted to a competition",
        "3 submissions remaining today.",
    ]
    words = ["competitions", "submit", TGS, "--file=x.csv", "--message=x.csv"]
    assert (kaggle / "args").read_text().splitlines() == words
    (tmp_path / "y.csv").write_text(good.replace("c,5 2 9 1\n", ""))
    (kaggle / "args").unlink()
    assert_refused(run("submit", "x.csv", "y.csv", cwd=tmp_path), 1, "y.csv", "not valid")
    assert not (kaggle / "args").exists()  # nothing is sent unless all files are valid
    (tmp_path / "y.csv").write_text(good)
    done = run("submit", "x.csv", "y.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("Successfully submitted")) == (0, 2)


def test_submit_also_checks_classes(kaggle, tmp_path):
    labelled(tmp_path / "data", ["cat", "dog", "cat", "dog"])
    rows = (tmp_path / "data" / "sample_submission.csv").read_text()
    for wrong in (rows.replace("b_0,cat\n", ""), rows.replace("b_0,cat", "b_0,")):
        (tmp_path / "x.csv").write_text(wrong)
        assert_refused(run("submit", "x.csv", cwd=tmp_path), 1, "x.csv", "not valid")
    (tmp_path / "x.csv").write_text(rows.replace("b_0,cat", "b_0,dog"))
    assert run("submit", "x.csv", cwd=tmp_path).returncode == 0
    for sample, cell, code in (("0.5", "0.93", 0), ("0.5", "1.93", 1), ("0", "7", 0)):
        (tmp_path / "data" / "sample_submission.csv").write_text(f"id,label\na,{sample}\nb,{sample}\n")
        (tmp_path / "x.csv").write_text(f"id,label\na,{sample}\nb,{cell}\n")
        assert run("submit", "x.csv", cwd=tmp_path).returncode == code
    shutil.rmtree(tmp_path / "data")
    assert_refused(run("submit", "x.csv", cwd=tmp_path), 1, "--data_dir data: no sample submission")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo '403 Client Error: Forbidden' >&2; exit 1", ("403 Client Error: Forbidden", "accept the competition's")),
        ("echo first; echo '404 Client Error: Not Found' >&2; exit 1", ("404", "no such competition")),
        ("printf ' 10%%\\rno route to host\\n' >&2; exit 1", ("kaggle: no route to host",)),
        ("echo 'Could not submit to competition'", ("Could not submit",)),
        ("echo 'Authentication required to call the Kaggle API.'; echo more; exit 1", ("the token was refused",)),
        ("exit 3", ("the client failed and printed no reason",)),
    ],
)
def test_errors_of_the_client_are_passed_on(kaggle, tmp_path, script, said):
    write_mock(kaggle, f"#!/bin/sh\n{script}\n")
    (tmp_path / "x.csv").write_text("id,rle_mask\na,1 3\nb,\n")
    assert_refused(run("submit", "x.csv", cwd=tmp_path), 1, *said)
    assert_refused(run("download", "--data_dir", "new", cwd=tmp_path), 1, *said)
    assert files_in(tmp_path) == ["kaggle/kaggle", "x.csv"]


def test_a_token_is_found_in_the_same_places_as_by_the_client(kaggle, tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (tmp_path / "x.csv").write_text("id,rle_mask\na,1 3\nb,\n")
    for words in (("submit", "x.csv"), ("download",)):
        assert_refused(run(*words, cwd=tmp_path), 1, "no Kaggle token", "~/.kaggle/access_token", "KAGGLE_API_TOKEN")
    assert files_in(tmp_path) == ["kaggle/kaggle", "x.csv"]
    for name in (".config/kaggle/kaggle.json", ".kaggle/access_token", ".kaggle/credentials.json"):
        token = tmp_path / "home" / name
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text("{}")
        assert run("submit", "x.csv", cwd=tmp_path).returncode == 0, name
        token.unlink()
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")
    assert run("submit", "x.csv", cwd=tmp_path).returncode == 1
    monkeypatch.setenv("KAGGLE_KEY", "s3cret")
    assert run("submit", "x.csv", cwd=tmp_path).returncode == 0


def test_a_missing_client_and_wrong_arguments(kaggle, tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("id,rle_mask\na,1 3\nb,\n")
    for words, said in (
        (("submit", ""), "FILE="),
        (("submit", "x.csv", "--competition", "https://x"), "--competition https://x: expected the last part"),
        (("download", "--competition", "-x"), ""),
        (("downlaod",), "did you mean download"),
    ):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert_refused(run("submit", "x.csv", cwd=tmp_path), 1, "pip install -e '.[kaggle]'")


def test_make_passes_on_a_message_with_quotes(kaggle, tmp_path):
    (tmp_path / "x y.csv").write_text("id,rle_mask\na,1 3\nb,\n")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / "ready").touch()
    (tmp_path / "utils").symlink_to(ROOT / "utils")
    words = ["make", "-s", "submit", "FILE=x y.csv", 'MESSAGE=it\'s "5" folds', "COMPETITION=salt"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (kaggle / "args").read_text().splitlines()[2:] == ["salt", "--file=x y.csv", '--message=it\'s "5" folds']
