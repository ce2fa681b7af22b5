"""Test that the benchmarks run, regardless of what they measure."""

import json

import numpy as np
import torch
from helpers.scripts import TINY_ARCH, assert_refused, run_script, succeed
from PIL import Image

from bench.large import CONTEST, multiply, table
from utils.core.progress import duration
from utils.core.tables import read_table, write_table
from utils.data.packed_data import open_packed
from utils.masks.ground_truth import true_masks
from utils.masks.mask_file import open_masks


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
    for left in ("summary.json", "val_hflip.npy"):  # as if the first run had been interrupted
        (tmp_path / "tiny_1" / left).unlink()
    assert run_script(*words, *levers, cwd=tmp_path).stdout == done.stdout
    found = open_masks(tmp_path / "tiny_1" / "val_hflip.npy")
    predicted, truth = np.asarray(found.planes) > 0.5, np.stack(list(true_masks(found))) > 0
    pooled = np.sum(predicted & truth) / np.sum(predicted | truth)
    assert f" {pooled:.4f}\n" in run_script(*words, *levers, "--metric", "pooled_iou", cwd=tmp_path).stdout
    assert_refused(run_script(*words, "--metric", "pooled"), 2, "--metric pooled", "pooled_iou")
    assert_refused(run_script(*words, "--levers", "no such lever"), 2, "--levers no such lever", "expected <name>=")


def test_time_to_score_trains_this_project_and_its_rivals(survey, tmp_path):
    words = ("bench/time_to_score.py", "--data_dir", survey, "--seeds", 1)
    for contenders, minutes in ((["recipe"], 0.4), (["smp_resnet18", "smp_resnet18_crops", "nnunet"], 0.02)):
        out = tmp_path / contenders[0]
        command = (*words, "--minutes", minutes, "--out", out, "--only", *contenders)
        done = run_script(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        scores = read_table(out / "scores.csv")
        assert scores["contender"] == contenders
        assert set(scores["minutes"]) == {str(minutes)}
        assert all(0 <= float(cell) <= 1 for metric in ("pooled_iou", "iou", "iout") for cell in scores[metric])
        assert (out / "time_to_score.png").stat().st_size > 0
        before = {path: path.stat().st_mtime_ns for path in out.glob("*/val.npy")}
        assert len(before) == len(contenders)
        assert run_script(*command, cwd=tmp_path).returncode == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_refused(run_script(*words, "--only", "unet"), 2, "--only unet", "nnunet")


def test_published_scores_are_drawn_and_added_to_without_training_again(tmp_path):
    file = tmp_path / "scores.csv"
    rows = [("salt", 3, seed, f".8{seed}") for seed in (1, 2)] + [("salt", 1, 1, ".7"), ("roads", 1, 1, ".6")]
    sets, minutes, seeds, scores = (list(column) for column in zip(*rows, strict=True))
    same = {"fold": [0] * 4, "contender": ["recipe"] * 4, "iou": [""] * 4, "iout": [""] * 4, "processor": ["one"] * 4}
    write_table(file, {"set": sets, "minutes": minutes, "seed": seeds, "pooled_iou": scores, **same})
    words = ("bench/time_to_score.py", "--scores", file, "--out", tmp_path / "out")
    shown = succeed(*words, "--draw")
    salt = next(line for line in shown.splitlines() if line.startswith("Strata") and "2 seeds" in line)
    assert salt.split(maxsplit=1)[1] == "0.700 (1 seed)  0.815 (0.810..0.820, 2 seeds)"
    with Image.open(tmp_path / "out/time_to_score.png") as both:
        wide = both.width
    again = ("--data_dir", tmp_path / "salt", "--minutes", 3, "--seeds", 1, 2, "--only", "recipe")
    succeed(*words, *again)  # there is no such folder, so a training would fail
    before = file.read_text()
    write_table(file, {name: column[:1] for name, column in read_table(file).items()})
    succeed(*words, "--draw")
    with Image.open(tmp_path / "out/time_to_score.png") as one:
        assert one.width < wide
    file.write_text(before.replace("pooled_iou", "pooled", 1))
    assert_refused(run_script(*words, "--draw"), 1, str(file), "no column pooled_iou")
    assert_refused(run_script(*words[:1], "--draw", "--out", tmp_path), 1, str(file))


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
