"""Test that the benchmarks run, regardless of what they measure."""

import json

import numpy as np
import torch
from helpers.scripts import TINY_ARCH, assert_refused, run_script, succeed
from PIL import Image

from bench.large import CONTEST, multiply, table
from utils.core.progress import duration
from utils.data.packed_data import open_packed


def test_throughput_of_the_project_itself(tmp_path):
    words = ("--only", "strata", "--rounds", 1, "--steps", 1, "--n_predict", 8)
    places = ("--out", tmp_path / "all.json", "--chart", tmp_path / "all.png")
    done = run_script("bench/throughput.py", *words, *places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "strata " in done.stdout
    assert json.loads((tmp_path / "all.json").read_text())
    assert (tmp_path / "all.png").stat().st_size > 0


def test_levers_are_compared_with_the_first_one_and_finished_runs_are_kept(survey, tmp_path):
    tiny = f"--arch {TINY_ARCH} --batch_size 8 --n_epochs 1"
    words = ("bench/levers.py", "--data_dir", survey, "--fold", 0, "--length=--minutes .1", "--seeds", 1)
    words += ("--out", tmp_path)
    levers = ("--levers", f"tiny={tiny}", f"bce={tiny} --loss BCE")
    done = run_script(*words, *levers, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if not line.startswith("seed")]
    assert [row[0] for row in table] == ["tiny", "bce"]
    assert table[0][-1] == "+0.0000"
    assert float(table[1][-1]) == float(f"{float(table[1][1]) - float(table[0][1]):.4f}")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/summary.json")}
    assert run_script(*words, *levers, cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_refused(run_script(*words, "--levers", "no such lever"), 2, "--levers no such lever", "expected <name>=")


def test_time_to_score_trains_this_project_and_its_rivals(survey, tmp_path):
    words = ("bench/time_to_score.py", "--data_dir", survey, "--seeds", 1)
    for contenders, minutes in ((["recipe"], 0.6), (["smp_resnet18", "smp_resnet18_crops", "nnunet"], 0.02)):
        out = tmp_path / contenders[0]
        command = (*words, "--minutes", minutes, "--out", out, "--only", *contenders)
        done = run_script(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        scores = json.loads((out / "scores.json").read_text())["scores"]
        assert list(scores) == contenders
        for by_time in scores.values():
            ((found,),) = by_time.values()
            assert all(0 <= value <= 1 for value in found.values())
        assert (out / "scores.png").stat().st_size > 0
        before = {path: path.stat().st_mtime_ns for path in out.glob("*/val.npy")}
        assert len(before) == len(contenders)
        assert run_script(*command, cwd=tmp_path).returncode == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_refused(run_script(*words, "--only", "unet"), 2, "--only unet", "nnunet")
    drawn = run_script("bench/time_to_score.py", "--draw", "recipe", "smp_resnet18", "--out", "both", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    with Image.open(tmp_path / "both/time_to_score.png") as both, Image.open(tmp_path / "recipe/scores.png") as one:
        assert both.width > one.width


def test_a_cloned_set_becomes_images_and_masks(tmp_path):
    part = tmp_path / "clone/feral-cat-segmentation.v1i.yolov8/test"
    for folder in ("images", "labels"):
        (part / folder).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(part / "images/one.rf.1.jpg")
    (part / "labels/one.rf.1.txt").write_text("0 .25 0 .75 0 .75 .5 .25 .5\n")
    words = ("bench/lay_out_set.py", "--clone", tmp_path / "clone")
    done = run_script(*words, "--set", "cats", "--out", tmp_path / "cats", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cats/train/images/one.jpg").read_bytes() == (part / "images/one.rf.1.jpg").read_bytes()
    mask = np.asarray(Image.open(tmp_path / "cats/train/masks/one.png"))
    assert mask.shape == (20, 40)
    assert set(np.unique(mask)) == {0, 255}
    assert mask[:10, 10:30].all()
    assert not mask[12:].any()
    assert not mask[:, :9].any()
    refused = run_script(*words, "--set", "dogs", "--out", tmp_path / "dogs", cwd=tmp_path)
    assert_refused(refused, 2, "--set dogs", "cats")
    empty = run_script(*words, "--set", "aerial_roads", "--out", tmp_path / "roads", cwd=tmp_path)
    assert_refused(empty, 1, "aerial_roads", "no images")


def test_the_check_of_a_gpu_needs_one_and_says_which_step_failed(tmp_path):
    words = ("bench/gpu.py", "--out", tmp_path / "out")
    if not torch.cuda.is_available():
        assert_refused(run_script(*words, cwd=tmp_path), 2, "--device cuda:0: not available")
    assert_refused(run_script(*words, "--device", "cpu", "--only", "speed", cwd=tmp_path), 2, "--only speed", "folds")
    done = run_script(*words, "--device", "cpu", "--only", "score")  # no folds were trained
    assert_refused(done, 1, "failed: score", str(tmp_path / "out"))
    ((name, result),) = json.loads((tmp_path / "out/gpu.json").read_text())["results"].items()
    assert name == "score"
    assert result["exit"] == 1
    assert "_oof.npy" in result["figures"][-1]


def test_copies_of_ships_are_a_set_of_any_size_and_the_table_extrapolates(tmp_path):
    words = ("--kind", "ships", "--out_dir", tmp_path / "once", "--n_train", 6, "--n_test", 3, "--size", 128)
    succeed("utils/make_demo.py", *words)
    multiply(tmp_path / "once", tmp_path / "many", {"train": 20, "test": 5})
    succeed("utils/stack_and_save.py", "--data_dir", tmp_path / "many", "--store", "compact")
    packed = open_packed(tmp_path / "many")
    assert (len(packed.ids), len(open_packed(tmp_path / "many", "test").ids)) == (20, 5)
    assert np.array_equal(packed.images[1], packed.images[7])
    assert np.array_equal(packed.instances[1], packed.instances[7])
    times = {100: {"pack": (3.0, 50.0)}, 300: {"pack": (5.0, 50.0)}}
    assert table(times).endswith(duration(5 + 0.01 * (CONTEST - 300)))
    assert table({100: {"folds": (3.0, 50.0)}, 300: {"folds": (2.9, 50.0)}}).endswith(duration(2.9))
