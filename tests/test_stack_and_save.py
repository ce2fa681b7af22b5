"""Packing: manifest and report, kills and failures at any moment, packing again, memory, and single pictures."""

import hashlib
import resource
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import source_helpers as sources
from mask_helpers import files_in
from PIL import Image
from script_helpers import ROOT, assert_refused, run_here, run_script
from source_helpers import SIZE, as_rgb, blob, noise, save

from utils.fingerprint import fingerprint
from utils.layouts import find_source
from utils.packing import make_plan, pack
from utils.pictures import probe, read_image, read_mask, resize_image, resize_mask
from utils.rle import encode
from utils.samples import number_objects
from utils.stack import fold_rows, open_stack, read_manifest
from utils.tables import read_table, write_table

SCRIPT = "utils/stack_and_save.py"

# the same command, ended by SIGKILL when `function` is called for the n-th time
KILLED = """
import importlib, os, runpy, signal, sys
module, owner, function, n = sys.argv[1:5]
place = importlib.import_module(module)
place = getattr(place, owner) if owner else place
original, calls = getattr(place, function), []
def counting(*words, **named):
    calls.append(1)
    if len(calls) == int(n):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*words, **named)
setattr(place, function, counting)
sys.argv = ["utils/stack_and_save.py", *sys.argv[5:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_ok(*words, cwd):
    done = run_here(SCRIPT, *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def counts_of(folder, part="train"):
    return read_manifest(folder)["report"][part]["counts"]


def test_manifest_describes_the_arrays(tmp_path):
    sources.salt(tmp_path)
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    manifest = read_manifest(tmp_path)
    assert (manifest["format"], manifest["layout"], list(manifest["parts"])) == (1, "salt", ["train", "test"])
    assert {part: list(entry["arrays"]) for part, entry in manifest["parts"].items()} == {
        "train": ["images", "masks"],
        "test": ["images"],
    }
    for part, described in manifest["parts"].items():
        assert described["sizes"] is None
        for name, entry in described["arrays"].items():
            array = np.load(tmp_path / entry["file"])
            assert entry["file"] == f"{part}_{name}.npy"
            assert entry["shape"] == list(array.shape)
            assert entry["dtype"] == str(array.dtype) == "uint8"
            assert entry["sha256"] == hashlib.sha256(array.tobytes()).hexdigest()


def test_report_counts_what_is_there(tmp_path):
    sources.salt(tmp_path, train="abcdefgh", test="wxyz")
    train, masks, test = tmp_path / "train/images", tmp_path / "train/masks", tmp_path / "test/images"
    empty = np.zeros(SIZE, np.uint8)
    save(train / "a.png", np.full(SIZE, 9, np.uint8))  # constant
    save(train / "b.png", np.full(SIZE, 9, np.uint8))  # constant, and a duplicate
    save(train / "c.png", np.full((*SIZE, 3), (1, 2, 1), np.uint8))  # of one colour, but not of one value
    save(train / "d.png", as_rgb(noise(ord("e"))))  # a duplicate again
    save(test / "w.png", noise(ord("f")))  # is in train
    save(test / "x.png", noise(ord("f")))  # is in train, and a duplicate
    save(masks / "a.png", empty)
    save(masks / "b.png", empty)  # its csv row says otherwise
    grades = blob(3) * 200
    grades[0, 0], grades[-1, -1] = 100, 255
    save(masks / "c.png", grades)  # three values, and unlike its csv row
    save(masks / "d.png", blob(4) * 100)  # nothing above half: empty
    cells = {name: encode(blob(ord(name))) for name in "abcdefgh"} | {"a": "", "d": ""}
    write_table(tmp_path / "train.csv", {"id": list(cells), "rle_mask": list(cells.values())})
    printed = run_ok("--data_dir", tmp_path, "--out_dir", tmp_path / "out", cwd=tmp_path)
    report = read_manifest(tmp_path / "out")["report"]
    assert report["train"]["images"] == 8
    assert report["train"]["sizes"] == {"12x10": 8}
    assert report["train"]["counts"] == {
        "constant_images": 2,
        "exact_duplicates": 2,
        "empty_masks": 3,
        "masks_not_binary": 1,
        "masks_unlike_csv": 2,
        "masks_too_dark": 1,
    }
    assert report["test"]["counts"] == {"constant_images": 0, "exact_duplicates": 1, "images_also_in_train": 2}
    assert report["train"]["examples"]["masks_unlike_csv"] == ["b", "c"]
    assert report["train"]["examples"]["exact_duplicates"] == ["b", "e"]
    lines = [line.split() for line in printed.splitlines()]
    assert ["train", "images", "8"] in lines
    assert ["empty", "masks", "3"] in lines
    assert ["masks", "unlike", "csv", "2", "such", "as", "b,", "c"] in lines
    assert len({line.index(line.split("  ")[-1].strip()) for line in printed.splitlines()[:3]}) == 1, "not aligned"


def test_images_of_other_shapes_are_no_duplicates(tmp_path):
    for name, size in (("a", (12, 10)), ("b", (10, 12)), ("c", (10, 12))):
        save(tmp_path / f"images/{name}.png", np.full(size, 7, np.uint8))
        save(tmp_path / f"masks/{name}.png", blob(1, size))
    run_ok("--data_dir", tmp_path, "--size", "8x8", cwd=tmp_path)
    assert counts_of(tmp_path)["exact_duplicates"] == 1


def test_packing_in_place_leaves_train_csv_alone(tmp_path):
    sources.salt(tmp_path)
    before, time = contents(tmp_path), (tmp_path / "train.csv").stat().st_mtime_ns
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    after = contents(tmp_path)
    assert (tmp_path / "train.csv").stat().st_mtime_ns == time, "written anew, even if with the same content"
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"manifest.json", "train_images.npy", "train_masks.npy", "test_images.npy"}


def test_own_train_csv_is_no_source_and_follows_the_images(tmp_path):
    sources.pairs(tmp_path)
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    save(tmp_path / "images/new.png", noise(1))
    save(tmp_path / "masks/new.png", blob(1))
    printed = run_ok("--data_dir", tmp_path, cwd=tmp_path)
    assert "pairs" in printed.splitlines()[0], "its own train.csv made it another layout"
    assert "new" in open_stack(tmp_path).ids
    assert read_table(tmp_path / "train.csv")["id"] == open_stack(tmp_path).ids
    write_table(tmp_path / "train_with_folds.csv", {"id": open_stack(tmp_path).ids, "fold": [0, 1, 0, 1, 1]})
    assert fold_rows(tmp_path, open_stack(tmp_path).ids, 1)[1].tolist() == [1, 3, 4]


def test_a_train_csv_of_somebody_else_is_never_replaced(tmp_path):
    sources.pairs(tmp_path / "pairs")
    sources.salt(tmp_path / "salt")
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.csv").write_text("id,notes\nq,mine\n")
    run_ok("--data_dir", tmp_path / "pairs", "--out_dir", out, cwd=tmp_path)
    assert (out / "train.csv").read_text() == "id,notes\nq,mine\n"
    before = contents(out)
    done = run_here(SCRIPT, "--data_dir", tmp_path / "salt", "--out_dir", out, cwd=tmp_path)
    assert_refused(done, 1, out / "train.csv", tmp_path / "salt/train.csv", "--out_dir")
    assert contents(out) == before


def test_second_run_does_nothing(tmp_path):
    sources.dsb2018(tmp_path / "data")
    words = ("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out")
    run_ok(*words, cwd=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    for data_dir, cwd in ((tmp_path / "data", tmp_path), ("data", tmp_path), ("./data/", tmp_path), (".", words[1])):
        printed = run_ok("--data_dir", data_dir, *words[2:], cwd=cwd)
        assert "already packed" in printed
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


CHANGES = {
    "image": lambda d, o: save(d / "train/images/a.png", noise(99)),
    "mask": lambda d, o: save(d / "train/masks/a.png", blob(99)),
    "run-lengths": lambda d, o: (d / "train.csv").write_text((d / "train.csv").read_text() + "\n"),
    "one image fewer": lambda d, o: ((d / "test/images/x.png").unlink(), (d / "sample_submission.csv").unlink()),
    "an array is cut": lambda d, o: (o / "train_masks.npy").write_bytes((o / "train_masks.npy").read_bytes()[:-1]),
    "an array is gone": lambda d, o: (o / "test_images.npy").unlink(),
    "a csv is gone": lambda d, o: (o / "train.csv").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_packed_again(tmp_path, change):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.salt(data)
    run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    CHANGES[change](data, out)
    assert "already" not in run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    run_ok("--data_dir", data, "--out_dir", tmp_path / "fresh", cwd=tmp_path)
    assert contents(out) | {"sample_submission.csv": b""} == contents(tmp_path / "fresh") | {
        "sample_submission.csv": b""
    }


def test_a_changed_object_is_packed_again(tmp_path):
    sources.dsb2018(tmp_path)
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    save(tmp_path / "stage1_train/a/masks/object1.png", np.full(SIZE, 255, np.uint8))
    run_ok("--data_dir", tmp_path, cwd=tmp_path)
    assert (open_stack(tmp_path).labels[0] == 1).all()


def test_another_size_packs_again_and_drops_what_is_no_more(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.salt(data)
    run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    run_ok("--data_dir", data, "--out_dir", out, "--size", "8x8", cwd=tmp_path)
    assert open_stack(out).shape == (8, 8)
    shutil.rmtree(data / "test")
    run_ok("--data_dir", data, "--out_dir", out, "--size", "8x8", cwd=tmp_path)
    assert not (out / "test_images.npy").exists(), "an array that no manifest speaks of"


@pytest.mark.parametrize(
    ("place", "n_calls"),
    [
        (("utils.packing", "", "load_sample"), 3),
        (("utils.arrays", "ArrayWriter", "append"), 7),
        (("utils.arrays", "ArrayWriter", "check_full"), 2),
        (("os", "", "replace"), 5),  # csv files first, then arrays: some are renamed, some not
        (("os", "", "replace"), 7),  # all arrays are there, the manifest is not
    ],
)
def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path, place, n_calls):
    sources.salt(tmp_path / "data", train="dbacefgh")
    run_ok("--data_dir", tmp_path / "data", "--out_dir", tmp_path / "quiet", cwd=tmp_path)
    words = ["--data_dir", str(tmp_path / "data"), "--out_dir", str(tmp_path / "out")]
    killed = [sys.executable, "-c", KILLED, *place, str(n_calls), *words]
    assert subprocess.run(killed, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "out/manifest.json").exists()
    for path in (tmp_path / "out").glob("*.npy"):
        np.load(path)  # what has its name is whole
    run_ok(*words, cwd=tmp_path)
    assert contents(tmp_path / "out") == contents(tmp_path / "quiet")


def test_killed_while_packing_again(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    sources.salt(data)
    run_ok("--data_dir", data, "--out_dir", out, cwd=tmp_path)
    before = contents(out)
    save(data / "train/images/a.png", noise(99))
    killed = [sys.executable, "-c", KILLED, "utils.arrays", "ArrayWriter", "append", "5"]
    words = ["--data_dir", str(data), "--out_dir", str(out)]
    assert subprocess.run([*killed, *words], cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert {name: contents(out)[name] for name in before} == before, "the former arrays are as they were"
    killed[3:] = ["os", "", "replace", "5"]
    assert subprocess.run([*killed, *words], cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists(), "a manifest beside arrays of two runs"
    assert "already" not in run_ok(*words, cwd=tmp_path)
    assert np.array_equal(open_stack(out).images[2, ..., 0], noise(99))


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
    words = ["--data_dir", tmp_path / "data", "--out_dir", tmp_path / "out", "--size", "200x200"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert_refused(done, 1, tmp_path / "out", "File too large")
    assert files_in(tmp_path / "out") == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 100_000))
    done = run_here(SCRIPT, *words, cwd=tmp_path)
    assert_refused(done, 1, tmp_path / "out", "--out_dir", "there is room for")
    assert files_in(tmp_path / "out") == []


def test_out_dir_that_cannot_be_written(tmp_path):
    sources.salt(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file/below"):
        done = run_here(SCRIPT, "--data_dir", tmp_path / "data", "--out_dir", out, cwd=tmp_path)
        assert_refused(done, 1, out)
    assert (tmp_path / "file").read_text() == "mine"


def test_help_is_there(tmp_path):
    done = run_script(SCRIPT, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for flag in ("--data_dir", "--out_dir", "--size"):
        assert flag in done.stdout


def peak_of_packing(folder, n_images):
    """Bytes that packing n images of 64x64 in colour holds at most."""
    for row in range(n_images):
        save(folder / f"data/images/{row:04}.bmp", noise(row, (64, 64), 3))
        save(folder / f"data/masks/{row:04}.bmp", blob(row, (64, 64)) * 255)
    source = find_source(folder / "data")
    tracemalloc.start()
    try:
        pack(source, make_plan(source, None), folder / "out", fingerprint(source, None))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peak_of_packing(tmp_path / "warm", 4)  # imports and caches
    few, many = peak_of_packing(tmp_path / "few", 40), peak_of_packing(tmp_path / "many", 400)
    one_image = 64 * 64 * 3
    assert many - few < 25 * one_image, f"{few} bytes for 40 images, {many} for 400"


def test_read_mask_by_half_of_the_range(tmp_path):
    steps = np.array([[0, 127, 128, 255]], np.uint8)
    save(tmp_path / "8.png", steps)
    save(tmp_path / "16.png", np.array([[0, 32767, 32768, 65535]], np.uint16))
    save(tmp_path / "colour.png", np.stack([steps, steps // 4, steps // 8], axis=-1))
    for name in ("8.png", "16.png", "colour.png"):
        mask, flaws = read_mask(str(tmp_path / name))
        assert mask.tolist() == [[0, 0, 1, 1]], name
        assert mask.dtype == np.uint8
        assert flaws == ["masks_not_binary"], name
    save(tmp_path / "alpha.png", np.dstack([as_rgb(steps), np.full_like(steps, 255)]))
    assert read_mask(str(tmp_path / "alpha.png"))[0].tolist() == [[0, 0, 1, 1]], "how opaque it is, is not looked at"
    one = blob(2)
    palette = Image.fromarray(one * 3).convert("P")
    palette.putpalette([10, 0, 0] * 3 + [0, 0, 200])
    for picture, name in ((one, "01.png"), (Image.fromarray(one * 255).convert("1"), "1bit.png"), (palette, "p.gif")):
        save(tmp_path / name, picture)
        mask, flaws = read_mask(str(tmp_path / name))
        assert np.array_equal(mask, one), name
        assert flaws == [], name
    save(tmp_path / "dark.png", one * 90)
    mask, flaws = read_mask(str(tmp_path / "dark.png"))
    assert not mask.any()
    assert flaws == ["masks_too_dark"]


@pytest.mark.filterwarnings("error")
def test_read_image_of_any_mode(tmp_path):
    grey, colour = noise(1), noise(2, channels=3)
    save(tmp_path / "16.png", grey.astype(np.uint16) * 256 + 3)
    save(tmp_path / "alpha.png", np.dstack([colour, noise(3)]))
    save(tmp_path / "grey_alpha.png", Image.fromarray(np.dstack([grey, noise(3)]), mode="LA"))
    palette = Image.fromarray(np.arange(120, dtype=np.uint8).reshape(SIZE)).convert("P")
    palette.putpalette(colour.reshape(-1).tolist())
    palette.save(tmp_path / "p.png", transparency=bytes(range(120)))
    for name, expected, is_grey in (
        ("16.png", as_rgb(grey), True),
        ("alpha.png", colour, False),
        ("grey_alpha.png", as_rgb(grey), True),
        ("p.png", colour, False),  # Pillow warns of some ways to read it
    ):
        assert np.array_equal(read_image(str(tmp_path / name), 3), expected), name
        assert np.array_equal(read_image(str(tmp_path / name), 1), expected[..., :1]), name
        assert probe(str(tmp_path / name), with_pixels=True) == (SIZE, is_grey), name
        assert probe(str(tmp_path / name), with_pixels=False) == (SIZE, is_grey), name


def test_resizing():
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 30, axis=0)[..., None]
    spikes = np.tile(np.array([0, 0, 90], np.uint8), (30, 20))[..., None]
    small = resize_image(spikes, (15, 20))
    assert small.shape == (15, 20, 1)
    assert (small == 30).all(), "the mean over each area"
    assert resize_image(ramp, (30, 120))[0, 1:6, 0].tolist() == [1, 3, 5, 7, 9], "between the values 0, 4, 8"
    labels = np.arange(0, 2500, 100, dtype=np.uint16).reshape(5, 5) + 60_000
    middle = resize_mask(labels, (1, 1))
    assert middle.dtype == np.uint16
    assert middle.tolist() == [[61_200]], "the pixel in the middle"
    assert np.array_equal(np.unique(resize_mask(labels, (9, 9))), np.unique(labels))


def test_number_objects():
    first, second, inside, nothing = (np.zeros((4, 6), np.uint8) for _ in range(4))
    first[:, :3], second[:, 2:5], inside[1, 1] = 1, 1, 1
    seen = Counter()
    labels = number_objects([first, inside, nothing, second], (4, 6), seen)
    assert labels[0].tolist() == [1, 1, 1, 2, 2, 0]
    assert labels.dtype == np.uint16
    assert seen == {"overlapping_pixels": 5, "objects_hidden": 1, "objects_without_pixels": 1}
