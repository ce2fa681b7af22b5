"""Comparison of runs: folds of one experiment, ranking, differences of scores, settings that differ."""

import statistics
from pathlib import Path

import numpy as np
import pytest
from helpers.masks import blobs, write_packed
from helpers.runs import write_run, write_val_masks
from helpers.scripts import run_here

from utils.core.files import read_json, write_json
from utils.report.groups import overview
from utils.report.judge import Cache
from utils.report.read_run import read_run
from utils.scoring.bootstrap import difference

N_IMAGES = 36
IDS = [f"image{number}" for number in range(N_IMAGES)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Work in a folder with packed images in `data`; return their (probabilities, truth)."""
    monkeypatch.chdir(tmp_path)
    probabilities, truth = blobs(N_IMAGES)
    write_packed("data", {"train": (IDS, truth, (31, 31))})
    return probabilities, truth


def fold_run(name, fold, probabilities=None, scores=(0.5, 0.8), data_dir="data", rows=None, **flags):
    """Write a run whose masks are of every third image, or of `rows`; return its folder."""
    run = write_run(f"experiments/{name}", scores=scores, fold=fold, data_dir=data_dir, **flags)
    if probabilities is not None:
        rows = np.arange(fold, N_IMAGES, 3) if rows is None else rows
        write_val_masks(run, [IDS[row] for row in rows], probabilities[rows], data_dir, scores=scores)
    return run


def page_of(*runs):
    cache = Cache()
    return overview([read_run(Path(run), Path(run).name, cache) for run in runs])


def names_of(*runs):
    return {group.name: [run.name for run in group.runs] for group in page_of(*runs).groups}


def test_folds_are_one_group_with_the_score_of_optimize_threshold(home, tmp_path):
    probabilities, _ = home
    bests = (0.7, 0.8, 0.75)
    runs = [fold_run(f"unet_fold{fold}", fold, probabilities, (0.1, bests[fold])) for fold in (2, 0, 1)]
    page = page_of(*runs)
    (group,) = page.groups
    assert group.name == "unet"
    assert [run.fold for run in group.runs] == [0, 1, 2]
    assert group.score == pytest.approx(statistics.mean(bests))
    assert group.spread == pytest.approx(statistics.stdev(bests))
    files = [next(Path(f"experiments/unet_fold{fold}").rglob("val_masks*.npy")) for fold in range(3)]
    done = run_here("optimize_threshold.py", "--masks_fn", *files, "--out", "all.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stored = read_json("all.json")["cross_fitted"]
    assert vars(group.cross) == stored
    assert group.cross.n_parts == 3
    assert set(group.cross_scores) == set(IDS)
    assert statistics.mean(group.cross_scores.values()) == pytest.approx(stored["score"])
    assert group.difference is None
    alone = page_of(runs[0]).groups[0]
    assert (alone.name, alone.spread, alone.cross.n_parts) == ("unet_fold2", None, 5)
    assert alone.cross_scores.keys() == set(IDS[2::3])


FREE = [{"device": "cuda"}, {"precision": "float32"}, {"loader_workers": 3}, {"keep": 9}, {"tracker": "mlflow"}]
LEARNED = [{"loss": "focal"}, {"seed": 1}, {"n_epochs": 9}, {"encoder_weights": "none"}, {"arch": "fpn_resnet18"}]


@pytest.mark.parametrize("flags", [*FREE, *LEARNED], ids=str)
def test_only_settings_that_change_what_is_learned_separate_folds(home, flags):
    runs = [fold_run("a_fold0", 0, n_epochs=2), fold_run("a_fold1", 1, **{"n_epochs": 2, **flags})]
    together = {"a": ["a_fold0", "a_fold1"]}
    apart = {"a_fold0": ["a_fold0"], "a_fold1": ["a_fold1"]}
    assert names_of(*runs) == (together if flags in FREE else apart)


def test_folds_that_start_from_the_same_fold_of_another_experiment(home):
    runs = [fold_run(f"b_fold{fold}", fold, snapshot=f"experiments/a_fold{fold}/") for fold in (0, 1)]
    assert names_of(*runs) == {"b": ["b_fold0", "b_fold1"]}
    runs.append(fold_run("b_fold2", 2, snapshot="experiments/a_fold0/"))
    assert names_of(*runs) == {"b": ["b_fold0", "b_fold1"], "b_fold2": ["b_fold2"]}


def test_a_group_has_each_fold_and_image_only_once(home):
    probabilities, _ = home
    runs = [fold_run(f"{name}_fold{fold}", fold) for name in ("a", "b") for fold in (0, 1)]
    assert names_of(*runs) == {"a": ["a_fold0", "a_fold1"], "b": ["b_fold0", "b_fold1"]}
    twins = [fold_run("c_fold0", 0), fold_run("c-fold0", 0)]
    assert sorted(map(tuple, names_of(*twins).values())) == [("c-fold0",), ("c_fold0",)]
    overlapping = [fold_run("d_fold0", 0, probabilities), fold_run("d_fold1", 1, probabilities, rows=np.arange(9))]
    assert names_of(*overlapping) == {"d_fold0": ["d_fold0"], "d_fold1": ["d_fold1"]}


def test_names_of_groups(home):
    assert names_of(*(fold_run(f"wide_fold{fold}_128", fold) for fold in (0, 1))) == {
        "wide_128": ["wide_fold0_128", "wide_fold1_128"]
    }
    assert names_of(*(fold_run(f"exp_{fold}", fold) for fold in (0, 1))) == {"exp": ["exp_0", "exp_1"]}
    assert names_of(fold_run("x", 0), fold_run("y", 1)) == {"x and 1 more": ["x", "y"]}
    runs = [fold_run(f"u_fold{fold}", fold, seed=fold // 2) for fold in range(4)]
    assert set(names_of(*runs)) == {"u (folds 0, 1)", "u (folds 2, 3)"}


def test_runs_on_other_images_are_neither_grouped_nor_compared(home, tmp_path):
    probabilities, truth = home
    same = [fold_run("s_fold0", 0, probabilities), fold_run("s_fold1", 1, probabilities, data_dir=f"{tmp_path}/data")]
    assert names_of(*same) == {"s": ["s_fold0", "s_fold1"]}
    write_packed("other", {"train": (IDS, truth, (31, 31))})
    manifest = read_json("other/manifest.json")
    manifest["parts"]["train"]["arrays"]["images"]["sha256"] = "1" * 64
    write_json("other/manifest.json", manifest)
    runs = [fold_run("a_fold0", 0, probabilities), fold_run("a_fold1", 1, probabilities, data_dir="other")]
    groups = page_of(*runs).groups
    assert [len(group.runs) for group in groups] == [1, 1]
    assert [group.difference for group in groups] == [None, None]


def test_difference_against_brute_force():
    rng = np.random.default_rng(0)
    a = {name: int(score) / 10 for name, score in zip(IDS, rng.integers(0, 11, N_IMAGES), strict=True)}
    b = {name: min(10, round(10 * a[name]) + int(rng.integers(-1, 3))) / 10 for name in reversed(IDS)}
    gains = np.array([b[name] - a[name] for name in IDS])
    means = gains[rng.integers(0, N_IMAGES, (20_000, N_IMAGES))].mean(axis=1)
    found = difference({**a, "only in a": 1.0}, {"only in b": 0.0, **b})
    assert found.n_images == N_IMAGES
    assert found.mean == pytest.approx(gains.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.006)
    mirrored = difference(b, a)
    assert (mirrored.mean, mirrored.low) == pytest.approx((-found.mean, -found.high), abs=0.006)
    assert difference(a, {"x": 1.0}) is None
    same = difference(a, a)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_the_best_comes_first_and_others_have_a_difference_to_it(home):
    probabilities, _ = home
    blurred = np.clip(probabilities + np.random.default_rng(0).normal(0, 0.25, probabilities.shape), 0, 1)
    runs = [fold_run(f"worse_fold{fold}", fold, blurred, (0.9, 0.95), arch="a") for fold in (1, 2)]
    runs += [fold_run(f"better_fold{fold}", fold, probabilities, arch="b") for fold in (0, 1, 2)]
    runs += [fold_run("masks_gone_fold0", 0, scores=(0.97,), arch="c"), fold_run("begun_fold0", 0, scores=(), arch="d")]
    runs += [fold_run("objects_fold0", 0, scores=(0.99,), measure="objects", arch="e", border="both")]
    Path("experiments/foreign").mkdir()
    page = page_of("experiments/foreign", *runs)
    names = [group.name for group in page.groups]
    assert names == ["better", "worse", "masks_gone_fold0", "begun_fold0", "objects_fold0", "foreign"]
    better, worse, *others = page.groups
    assert better.cross.score > worse.cross.score
    assert better.difference is None
    assert vars(worse.difference) == vars(difference(better.cross_scores, worse.cross_scores))
    assert worse.difference.mean < 0
    assert worse.difference.n_images == 24  # the worse one has no predictions for fold 0
    assert all(group.difference is None for group in others)
    assert (page.groups[3].score, page.groups[-1].runs[0].state) == (None, "unreadable")


def test_objects_and_labels_use_the_stored_cross_fit(home):
    cross = {"score": 0.5, "low": 0.4, "high": 0.6, "n_parts": 2}
    runs = [fold_run(f"n_fold{fold}", fold, measure="objects", border="both") for fold in (0, 1)]
    for run in runs:
        write_json(run / "objects.json", {"th": 0.5, "cross_fitted": cross, "masks": ["0.npy", "1.npy"]})
    (group,) = page_of(*runs).groups
    assert vars(group.cross) == cross
    assert group.cross_scores == {}  # as stored by earlier versions
    better = [fold_run(f"m_fold{fold}", fold, measure="objects", border="touching") for fold in (0, 1)]
    for name, folder in (("worse", runs), ("better", better)):
        scores = {"x": 0.25, "y": 0.75} if name == "worse" else {"x": 0.5, "y": 1.0}
        found = {**cross, "score": sum(scores.values()) / 2}
        for run in folder:
            stored = {"th": 0.5, "cross_fitted": found, "masks": ["0.npy", "1.npy"], "image_scores": scores}
            write_json(run / "objects.json", stored)
    first, second = page_of(*runs, *better).groups
    assert (first.name, first.cross_scores, first.difference) == ("m", {"x": 0.5, "y": 1.0}, None)
    assert (second.name, second.difference.mean, second.difference.n_images) == ("n", -0.25, 2)
    assert page_of(runs[0]).groups[0].cross is None  # the stored one is of both folds
    pets = fold_run("pets", 0, measure="accuracy", target="label", at_precision=0.95)
    for rule, files, fits in (("argmax", ["p.npy"], True), ("f2", ["p.npy"], False), ("argmax", "p.npy", False)):
        write_json(pets / "labels.json", {"rule": rule, "cross_fitted": cross, "probabilities": files})
        assert (page_of(pets).groups[0].cross is not None) == fits
    write_json(pets / "labels.json", {"rule": "argmax", "cross_fitted": {"score": "high"}, "probabilities": ["p.npy"]})
    assert page_of(pets).groups[0].cross is None


def test_settings_that_differ_and_those_that_do_not(home):
    runs = [
        fold_run("a_fold0", 0, loss="BCE", stages=["128:2"]),
        fold_run("b_fold1", 1, loss="lovasz", stages=["128:2"], border="both", keep=3),
    ]
    page = page_of(*runs)
    assert page.differing == ["loss", "keep"]
    assert page.equal["stages"] == ["128:2"]
    assert page.equal["border"] == "both"
    assert not {"fold", "experiment_dir", "loss", "keep"} & page.equal.keys()
    assert page.made.startswith("20")
    empty = overview([])
    assert (empty.groups, empty.differing, empty.equal) == ([], [], {})
