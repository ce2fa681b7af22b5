"""The compact store: the same pixels as raw arrays in every layout, packing that continues, and damaged files."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import helpers.sources as sources
import numpy as np
import pytest
from helpers.masks import files_in
from helpers.scripts import ROOT, assert_refused, run_here
from helpers.sources import SCRIPT, blob, noise, run_ok, save
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.core.errors import UserError
from utils.core.tables import write_table
from utils.data.compact_rows import (
    CompactRows,
    decoded_probabilities,
    decoded_runs,
    encoded_probabilities,
    runs_of,
)
from utils.data.layouts import find_source
from utils.data.packed_data import open_packed, read_manifest
from utils.data.packing import fingerprint, pack_source


def mixed(folder):
    """Write images of three sizes with one mask file per object."""
    for row, size in enumerate([(12, 10), (9, 20), (12, 10), (7, 7)]):
        save(folder / f"stage1_train/{row}/images/{row}.png", noise(row, size, 3))
        save(folder / f"stage1_train/{row}/masks/one.png", blob(row, size) * 255)


LAYOUTS = {"salt": sources.salt, "pairs": sources.pairs, "dsb2018": sources.dsb2018, "airbus": sources.airbus}
LAYOUTS |= {"carvana": sources.carvana, "mixed": mixed}


def parts_of(folder):
    """Yield (part, name, rows) of every array of a packed folder."""
    for part in read_manifest(folder).parts:
        packed = open_packed(folder, part)
        for name, rows in (("images", packed.images), ("masks", packed.masks), ("labels", packed.instances)):
            if rows is not None:
                yield part, name, rows


@pytest.mark.parametrize("words", [(), ("--size", "8x14")], ids=["own size", "resized"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compact_rows_are_the_raw_ones(tmp_path, layout, words):
    LAYOUTS[layout](tmp_path / "data")
    for store in ("raw", "compact"):
        run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / store, "--store", store, *words, cwd=tmp_path)
    raw, compact = (list(parts_of(tmp_path / store)) for store in ("raw", "compact"))
    assert [one[:2] for one in raw] == [one[:2] for one in compact]
    for (_, _, expected), (_, _, found) in zip(raw, compact, strict=True):
        assert isinstance(found, CompactRows)
        assert found.dtype == expected.dtype
        again, some = pickle.loads(pickle.dumps(found)), [len(found) - 1, 0]
        for row in range(len(expected)):
            assert np.array_equal(found[row], expected[row])
            assert np.array_equal(again[row], expected[row])
        assert all(np.array_equal(one, other) for one, other in zip(found[some], expected[some], strict=True))
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    one, other = (open_packed(tmp_path / store) for store in ("raw", "compact"))
    assert (one.ids, one.sizes, one.shape, one.digest) == (other.ids, other.sizes, other.shape, other.digest)
    rows = np.arange(len(one.ids))
    assert np.array_equal(one.foreground(rows), other.foreground(rows))
    reports = [read_manifest(tmp_path / store).report for store in ("raw", "compact")]
    assert reports[0] == reports[1]


def test_the_store_follows_the_free_disk(tmp_path, monkeypatch):
    sources.salt(tmp_path / "data")
    words = ("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out")
    run_ok(*words, cwd=tmp_path)
    assert not any(isinstance(rows, CompactRows) for _, _, rows in parts_of(tmp_path / "out"))
    raw = sum((tmp_path / f"out/{name}.npy").stat().st_size for name in ("train_images", "train_masks", "test_images"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 3 * raw))
    assert "already packed" in run_ok(*words, cwd=tmp_path), "either store will do"
    shutil.rmtree(tmp_path / "out")
    said = run_ok(*words, cwd=tmp_path)
    assert "train_masks.npy             uint8 (4, 12, 10), compact" in said
    assert "compact, because raw arrays would take more than a quarter of the free disk" in said
    assert "already packed" in run_ok(*words, "--store", "compact", cwd=tmp_path)
    assert "already packed" not in run_ok(*words, "--store", "raw", cwd=tmp_path)
    assert not any("_ends" in name for name in files_in(tmp_path / "out"))
    refused = run_here(SCRIPT, *words, "--store", "zip", cwd=tmp_path)
    assert refused.returncode == 2
    assert all(word in refused.stderr for word in ("zip", "--store", "compact"))


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.sampled_from([np.uint8, np.uint16]))
def test_runs_give_back_every_row(pixels, dtype):
    row = np.array(pixels, dtype).reshape(1, -1)
    runs = runs_of(row)
    assert (runs[:, 1] > 0).all()
    assert (np.diff(runs[:, 0].astype(int)) != 0).all(), "more runs than necessary"
    back = decoded_runs(runs, row.shape, row.dtype)
    assert back.dtype == dtype
    assert np.array_equal(back, row)


# packing in two processes, with two images per chunk and a pause after each image
SLOW = """
import sys, time
import utils.core.parallel, utils.data.packing, utils.data.packing_chunks as chunks
utils.core.parallel.cores = lambda: 2
utils.data.packing.CHUNK = 2
original = chunks.facts_of
def slow(*words):
    time.sleep(0.3)
    return original(*words)
chunks.facts_of = slow
from pathlib import Path
from utils.data.layouts import find_source
source, out = find_source(sys.argv[1]), Path(sys.argv[2])
utils.data.packing.pack_source(source, None, sys.argv[3], out, utils.data.packing.fingerprint(source, None))
"""


@pytest.mark.parametrize("store", ["raw", "compact"])
def test_packing_goes_on_where_it_was_killed(tmp_path, monkeypatch, store):
    sources.salt(tmp_path / "data", train="abcdefghijkl", test="xyz")
    run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "quiet", "--store", store, cwd=tmp_path)
    words = [str(tmp_path / "data"), str(tmp_path / "out"), store]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *words], cwd=ROOT, start_new_session=True)
    unfinished = tmp_path / "out/.packing"
    while not len(list(unfinished.glob("train_0*.json"))) >= 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    for _ in range(200):  # the other processes notice it, too
        if not processes_of(process.pid):
            break
        time.sleep(0.1)
    assert not processes_of(process.pid)
    done = len(list(unfinished.glob("train_0*.json")))
    packed = []
    monkeypatch.setattr("utils.core.parallel.cores", lambda: 1)
    monkeypatch.setattr("utils.data.packing.CHUNK", 2)
    monkeypatch.setattr("utils.data.packing_chunks.load_sample", counting(packed))
    source = find_source(tmp_path / "data")
    pack_source(source, None, store, tmp_path / "out", fingerprint(source, None))
    assert len(packed) == 15 - 2 * done
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files_in(tmp_path / "out")} == {
        name: (tmp_path / "quiet" / name).read_bytes() for name in files_in(tmp_path / "quiet")
    }


def processes_of(group):
    """Return the states of the processes of a group that have not ended."""
    listed = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True).stdout.splitlines()[1:]
    return [line for line in listed if line.split()[0] == str(group) and "Z" not in line.split()[1]]


def counting(calls):
    from utils.data.samples import load_sample

    def load(item, *words):
        calls.append(item.id)
        return load_sample(item, *words)

    return load


def test_a_process_that_is_ended_from_outside_loses_nothing(tmp_path, monkeypatch):
    sources.salt(tmp_path / "data", train="abcdefgh")
    monkeypatch.setattr("utils.core.parallel.cores", lambda: 2)
    monkeypatch.setattr("utils.data.packing.CHUNK", 2)
    words = ("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out")
    here = os.getpid()
    from utils.data.packing_chunks import facts_of

    def ended(sample, runs):
        if os.getpid() != here and len(list((tmp_path / "out/.packing").glob("train_0*.json"))) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return facts_of(sample, runs)

    monkeypatch.setattr("utils.data.packing_chunks.facts_of", ended)
    assert_refused(run_here(SCRIPT, *words, cwd=tmp_path), 1, "ended from outside", "same command again")
    assert len(list((tmp_path / "out/.packing").glob("train_0*.json"))) >= 2
    monkeypatch.undo()
    run_ok(*words, cwd=tmp_path)
    assert open_packed(tmp_path / "out").ids == list("abcdefgh")


def test_one_colour_image_among_grey_ones_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.data.packing_plan.GREY_LOOKED_AT", 2)
    sources.salt(tmp_path / "data", train="abcdefgh")
    save(tmp_path / "data/train/images/d.png", noise(1, channels=3))
    run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", cwd=tmp_path)
    packed = open_packed(tmp_path / "out")
    assert packed.channels == 3
    assert np.array_equal(packed.images[3], noise(1, channels=3))
    assert open_packed(tmp_path / "out", "test").channels == 3


def test_an_image_that_changes_while_it_is_packed(tmp_path, monkeypatch):
    sources.salt(tmp_path / "data")
    from utils.data.samples import load_sample

    def changed(item, *words):
        save(tmp_path / "data/train/images/b.png", np.full((12, 10, 3), 7, np.uint8))
        return load_sample(item, *words)

    monkeypatch.setattr("utils.data.packing_chunks.load_sample", changed)
    words = ("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", "--store", "compact")
    assert_refused(run_here(SCRIPT, *words, cwd=tmp_path), 1, "images/b.png", "changed while", "same command")
    monkeypatch.undo()
    run_ok(*words, cwd=tmp_path)
    assert (open_packed(tmp_path / "out").images[1] == 7).all()


@pytest.fixture
def compact(tmp_path):
    sources.dsb2018(tmp_path / "data")
    out = tmp_path / "out"
    run_ok("--data_dir", tmp_path / "data", "--out_dir", out, "--store", "compact", cwd=tmp_path)
    return out


def rewritten(path, change):
    array = np.load(path)
    np.save(path, change(array))


def longer(pairs):
    pairs[1, 1] += 5
    return pairs


DAMAGES = {
    "truncated": ("train_images.npy", lambda p: p.write_bytes(p.read_bytes()[:-7]), "train_images.npy: truncated"),
    "ends are gone": ("train_masks_ends.npy", lambda p: p.unlink(), "train_masks_ends.npy: no such file"),
    "ends of another": ("train_masks_ends.npy", lambda p: rewritten(p, lambda a: a[:-1]), "found the ends of 1 rows"),
    "no image": ("train_images.npy", lambda p: rewritten(p, np.zeros_like), "row 0 is damaged"),
    "runs beyond the image": ("train_labels.npy", lambda p: rewritten(p, longer), "expected runs of 120 pixels"),
    "ends are numbers": (
        "train_masks_ends.npy",
        lambda p: rewritten(p, lambda a: a.astype(float)),
        "expected whole numbers and one end for each row",
    ),
    "dtype": (
        "manifest.json",
        lambda p: p.write_text(p.read_text().replace('"uint16"', '"foo"')),
        "manifest.json: is damaged .data type 'foo' not understood",
    ),
    "no images": (
        "manifest.json",
        lambda p: p.write_text(p.read_text().replace('"images": {', '"pictures": {')),
        "manifest.json: lists no array of train images",
    ),
    "codec": ("manifest.json", lambda p: p.write_text(p.read_text().replace('"file",', '"tar",')), "unknown codec tar"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_in_one_line(compact, damage):
    name, change, words = DAMAGES[damage]
    if name == "manifest.json":
        assert '"codec": "file",' in (compact / name).read_text()
    before = sum(len(list(rows)) for _, _, rows in parts_of(compact))
    change(compact / name)
    with pytest.raises(UserError, match=words):
        sum(len(list(rows)) for _, _, rows in parts_of(compact))
    flags = ("--data_dir", compact.parent / "data", "--out_dir", compact, "--store", "compact")
    said = run_ok(*flags, cwd=compact)
    if "row 0" in words or "runs of" in words:
        assert "nothing to do (--force packs it again)" in said
        said = run_ok(*flags, "--force", cwd=compact)
    assert "already" not in said
    assert sum(len(list(rows)) for _, _, rows in parts_of(compact)) == before


def test_a_fold_of_a_compact_folder_is_held_out_compactly(tmp_path):
    for row in range(12):
        save(tmp_path / f"data/images/{row:02}.png", noise(row, (12, 10 + row % 2)))
        save(tmp_path / f"data/masks/{row:02}.png", blob(row, (12, 10 + row % 2)) * 255)
    for store in ("raw", "compact"):
        run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / store, "--store", store, cwd=tmp_path)
        ids = open_packed(tmp_path / store).ids
        write_table(tmp_path / store / "train_with_folds.csv", {"id": ids, "fold": [n % 3 for n in range(12)]})
        words = ("--data_dir", tmp_path / store, "--fold", 1, "--out_dir", tmp_path / f"{store}_held")
        assert run_here("utils/hold_out.py", *words).returncode == 0
        assert "already there" in run_here("utils/hold_out.py", *words).stdout
    raw, compact = (list(parts_of(tmp_path / f"{store}_held")) for store in ("raw", "compact"))
    for (_, _, expected), (_, _, found) in zip(raw, compact, strict=True):
        assert isinstance(found, CompactRows)
        assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))
    one, other = (open_packed(tmp_path / f"{store}_held") for store in ("raw", "compact"))
    assert one.digest == other.digest
    for name in ("truth.csv", "train_with_folds.csv"):
        assert (tmp_path / "raw_held" / name).read_text() == (tmp_path / "compact_held" / name).read_text()


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (3, 7), (2, 5, 4), (1, 40)]))
def test_compressed_probabilities_come_back_bit_by_bit(seed, shape):
    rng = np.random.default_rng(seed)
    row = (rng.random(shape) ** rng.integers(1, 30)).astype(np.float16)
    row.ravel()[rng.random(row.size) < 0.2] = rng.choice([0, 1, -0.0, np.nan, 6e-8])
    back = decoded_probabilities(np.frombuffer(encoded_probabilities(row), np.uint8), shape, np.dtype(np.float16))
    assert back.dtype == np.float16
    assert np.array_equal(back.view(np.uint16), row.view(np.uint16))
