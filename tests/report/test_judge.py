"""Experiment folders read into facts: known scores, choice of masks and truth, and caching."""

import numpy as np
import pytest
from helpers.masks import blobs, score_at, write_masks, write_packed
from helpers.runs import best_snapshot, write_run, write_val_masks
from helpers.scripts import run_here

from utils.core.files import read_json, write_json
from utils.masks.mask_file import binarize
from utils.report.judge import Cache
from utils.report.read_run import read_run
from utils.scoring.mask_metrics import counts, iou, scores_from_counts


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Work in a folder with packed images in `data`; return (folder, ids, probabilities, truth)."""
    monkeypatch.chdir(tmp_path)
    probabilities, truth = blobs(30)
    ids = [f"image{number}" for number in range(30)]
    write_packed("data", {"train": (ids, truth, (31, 31))})
    return tmp_path, ids, probabilities, truth


def five_images():
    """Return (probabilities, truth) of 10x10 images: both empty, false positive, missed mask, exact, partly found."""
    truth, probabilities = np.zeros((5, 10, 10), bool), np.full((5, 10, 10), 0.1)
    truth[2, 0, :5], truth[3, :5], truth[4, :8] = True, True, True
    probabilities[1, :2], probabilities[3, :5], probabilities[4, :6] = 0.9, 0.8, 0.6
    return probabilities, truth


def test_facts_of_a_finished_run(home):
    folder = write_run("experiments/a_fold3", fold=3, loss="lovasz", data_dir="data")
    facts = read_run(folder, "a_fold3")
    assert (facts.state, facts.note, facts.name, facts.fold, facts.measure) == ("finished", "", "a_fold3", 3, "iout")
    assert (facts.best, facts.best_epoch, facts.n_epochs, facts.seconds, facts.images_per_s) == (0.8, 2, 3, 30, 50)
    assert (facts.settings["loss"], facts.machine) == (["lovasz"], "cpu (2 threads), bfloat16")
    assert facts.log["iout"] == [0.5, 0.8, 0.7]
    assert facts.digest == "0" * 16 + ":" + "0" * 16
    assert facts.judged is None  # its masks are missing, which is a problem
    assert facts.problems == ["snapshots/val_masks_epoch_2.loss_1.2000.iout_0.800.npy: no such file"]


def test_known_scores_of_five_images(tmp_path):
    probabilities, truth = five_images()
    write_packed(tmp_path / "data", {"train": (list("edcba"), truth[::-1], (10, 10))})
    folder = write_run(tmp_path / "run")
    write_val_masks(folder, list("abcde"), probabilities, tmp_path / "data")
    write_json(folder / "threshold.json", {"threshold": 0.5, "min_area": 0})
    judged = read_run(folder, "run").judged
    assert (judged.threshold, judged.threshold_from) == (0.5, "threshold.json")
    assert judged.tenths.tolist() == [10, 0, 0, 10, 5]  # IoU 0.75 exceeds 0.50, 0.55, 0.60, 0.65 and 0.70
    assert judged.ious.tolist() == [1, 0, 0, 1, 0.75]
    assert judged.empties.tolist() == [[1, 1], [1, 2]]
    shares = {share.name: (share.n_images, share.score) for share in judged.shares}
    assert shares == {"empty": (2, 0.5), "thin": (1, 0.0), "half": (1, 1.0), "nearly full": (1, 0.5)}
    assert (judged.shares[0].low, judged.shares[0].high) == (0, 1)
    assert [judged.packed.ids[judged.place[name]] for name in judged.masks.ids] == list("abcde")
    shown = {title: [row.name for row in rows] for title, rows in judged.galleries.items()}
    assert shown == {
        "Worst": list("bced"),  # of the two with IoU 0, the one with more wrong pixels is first
        "Median": list("bced"),
        "Best": list("decb"),
        "Most uncertain": list("edbac"),
        "Wrongly empty": ["c"],
        "Wrongly non-empty": ["b"],
    }
    row = judged.galleries["Wrongly non-empty"][0]
    assert (row.row, row.score, row.iou) == (1, 0.0, 0.0)
    assert row.note == "truth is empty, prediction covers 20.0%, 20 pixels wrong"


def test_the_upper_bound_of_a_coverage_class_is_inclusive(tmp_path):
    truth = np.zeros((4, 10, 10), bool)
    truth[0, 0], truth[1, 0], truth[1, 1, 0], truth[2, :, :], truth[3, :7] = True, True, True, True, True
    truth[2, 7:], truth[2, 7, :5] = False, True
    write_packed(tmp_path / "data", {"train": (list("abcd"), truth, (10, 10))})
    folder = write_run(tmp_path / "run")
    write_val_masks(folder, list("abcd"), truth.astype(float), tmp_path / "data")
    judged = read_run(folder, "run").judged  # the masks cover 10, 11, 75 and 70 %
    assert [share.n_images for share in judged.shares] == [0, 1, 3, 0]
    assert judged.shares[0].score is None


def test_reliability_galleries_and_confusion_against_brute_force(home):
    _, ids, probabilities, truth = home
    folder = write_run("experiments/a")
    write_val_masks(folder, ids, probabilities, "data")
    judged = read_run(folder, "a").judged
    given = probabilities.astype(np.float16).astype(np.float64)
    for one in judged.reliability:
        inside = (given >= one.low) & ((given < one.high) | (one.high == 1))
        assert one.n_pixels == inside.sum()
        assert one.probability == pytest.approx(given[inside].mean(), abs=1e-6)
        assert one.really == pytest.approx(truth[inside].mean())
    assert sum(one.n_pixels for one in judged.reliability) == given.size
    unsure = [(prob * (1 - prob)).mean() for prob in given]
    assert [row.row for row in judged.galleries["Most uncertain"]] == np.argsort(unsure)[::-1][:6].tolist()
    found = binarize(given, judged.threshold)
    inside, ours, theirs = counts(found, truth)
    tenths = scores_from_counts(inside, ours, theirs)
    assert judged.tenths.tolist() == tenths.tolist()
    assert judged.ious.mean() == pytest.approx(iou(found, truth))
    assert judged.empties.tolist() == [
        [((theirs == 0) & (ours == 0)).sum(), ((theirs == 0) & (ours > 0)).sum()],
        [((theirs > 0) & (ours == 0)).sum(), ((theirs > 0) & (ours > 0)).sum()],
    ]
    order = sorted(np.flatnonzero(ours + theirs), key=lambda row: (tenths[row], judged.ious[row]))
    assert [row.score for row in judged.galleries["Worst"]] == [tenths[row] / 10 for row in order[:6]]
    assert [row.row for row in judged.galleries["Best"]] == order[:-7:-1]
    middle = {row.row for row in judged.galleries["Median"]}
    assert len(middle) == 6
    assert order[len(order) // 2] in middle


@pytest.mark.parametrize("min_area", [(), (40,)])
def test_the_cross_fit_equals_that_of_optimize_threshold(home, min_area):
    place, ids, probabilities, _ = home
    folder = write_run("experiments/a")
    path = write_val_masks(folder, ids, probabilities, "data")
    words = ("--min_area", *min_area) if min_area else ()
    assert run_here("optimize_threshold.py", "--masks_fn", path, *words, cwd=place).returncode == 0
    stored, facts = read_json(folder / "threshold.json"), read_run(folder, "a")
    judged = facts.judged
    assert facts.stored == stored
    assert vars(judged.cross) == stored["cross_fitted"]
    assert (judged.best.low, judged.best.high, judged.best.score) == (stored["low"], stored["high"], stored["score"])
    assert judged.min_area == stored["min_area"]
    assert judged.cross_scores.mean() == pytest.approx(stored["cross_fitted"]["score"])


def test_a_cross_fitted_score_is_at_the_threshold_of_the_other_parts(home):
    _, ids, probabilities, truth = home
    coarse = np.round(8 * probabilities) / 8
    folder = write_run("experiments/a")
    write_val_masks(folder, ids, coarse, "data")
    judged, thresholds = read_run(folder, "a").judged, np.arange(9) / 8
    assert judged.threshold_from == "fitted on the same images"
    assert judged.tenths.sum() / 300 == max(score_at(coarse, truth, th) for th in thresholds)
    for part in range(5):
        mine = np.arange(30) % 5 == part
        scores = [score_at(coarse[~mine], truth[~mine], th) for th in thresholds]
        good = thresholds[np.array(scores) == max(scores)]
        assert round(judged.cross_scores[mine].sum() * 10) in {
            score_at(coarse[mine], truth[mine], th) * 60 for th in good
        }
    assert judged.cross_scores.tolist() != (judged.tenths / 10).tolist()


def test_masks_that_the_threshold_was_fitted_on_are_preferred(home):
    folder, ids, probabilities, _ = home
    run = write_run("experiments/a_fold0")
    write_val_masks(run, ids, probabilities, "data")
    write_masks(run / "val_tta.npy", ids[:20], probabilities[:20], data_dir="data")
    write_masks("outside.npy", ids[:9], probabilities[:9], data_dir="data")
    stored = {"threshold": 0.25, "masks": ["outside.npy", "../outside.npy", 7, "experiments/a_fold0/val_tta.npy"]}
    write_json(run / "threshold.json", stored)
    assert read_run(run, "a").judged.origin == "val_tta.npy"
    assert len(read_run(run, "a").judged.tenths) == 20
    write_json(run / "threshold.json", {**stored, "masks": ["/elsewhere/experiments/a_fold0/val_tta.npy"]})
    assert read_run(folder / run, "a").judged.origin == "val_tta.npy"  # the path it had on another machine
    write_json(run / "threshold.json", {**stored, "masks": ["experiments/a_fold0/../../outside.npy", "x" * 5000]})
    assert read_run(run, "a").judged.origin.startswith("snapshots/val_masks_")
    write_json(run / "threshold.json", stored)
    (run / "val_tta.npy").write_bytes((run / "val_tta.npy").read_bytes()[:500])
    facts = read_run(run, "a")
    assert facts.judged.origin.startswith("snapshots/val_masks_")
    assert facts.judged.threshold == 0.25
    assert len(facts.problems) == 1
    assert facts.problems[0].startswith("val_tta.npy: truncated or invalid .npy file")


def test_packed_images_are_found_from_another_folder_or_reported_missing(home, monkeypatch):
    folder, ids, probabilities, truth = home
    run = write_run(folder / "experiments/a_fold0")
    write_val_masks(run, ids, probabilities, "data")
    write_packed("work/data", {"train": (["others"], truth[:1], (31, 31))})
    monkeypatch.chdir(folder / "work")  # it has other packed images under the same name
    assert read_run(run, "a").judged is not None
    (folder / "data").rename(folder / "moved")
    facts = read_run(run, "a")
    assert facts.judged is None
    assert len(facts.problems) == 1
    assert "no true mask for 30 of the 30 images" in facts.problems[0]
    monkeypatch.chdir(folder / "moved")
    facts = read_run(run, "a")
    assert (facts.judged, facts.digest, facts.state) == (None, None, "finished")
    assert len(facts.problems) == 1
    assert "the packed images in data are missing" in facts.problems[0]


def test_masks_of_other_images_are_not_judged(home):
    _, ids, probabilities, _ = home
    run = write_run("experiments/a_fold0")
    path = write_val_masks(run, ids, probabilities, "data")
    write_masks(path, ids, probabilities, data_dir="data", part="train", images_digest="0" * 16)
    assert read_run(run, "a").judged is not None
    write_masks(path, ids, probabilities, data_dir="data", part="train", images_digest="1" * 16)
    facts = read_run(run, "a")
    assert facts.judged is None
    assert "was predicted from other images than data holds now" in facts.problems[0]


def test_borders_and_a_minimum_area(home):
    _, ids, probabilities, truth = home
    planes = np.stack([probabilities, 1 - probabilities], axis=1)
    run = write_run("experiments/border", measure="objects", border="both")
    write_val_masks(run, ids, planes, "data", measure="objects")
    write_json(run / "threshold.json", {"threshold": 0.5, "min_area": 60})
    write_json(run / "objects.json", {"th": 0.5, "cross_fitted": {"score": 0.5, "low": 0.4, "high": 0.6, "n_parts": 5}})
    facts = read_run(run, "border")
    assert (facts.measure, facts.best, facts.stored_rules["th"]) == ("objects", 0.8, 0.5)
    halved = probabilities.astype(np.float16)
    assert facts.judged.tenths.mean() / 10 == score_at(halved, truth, 0.5, 60)
    small = (binarize(halved, 0.5).sum(axis=(1, 2)) < 60).sum()
    assert facts.judged.empties[:, 0].sum() == small > 0


def test_a_classifier_has_no_masks_to_judge(home):
    run = write_run("experiments/empty", measure="auc", target=None, at_precision=0.95)
    np.save(best_snapshot(run, measure="auc").with_name("val_masks.npy"), np.zeros((3, 1), np.float32))
    facts = read_run(run, "empty")
    assert (facts.measure, facts.best, facts.judged, facts.problems) == ("auc", 0.8, None, [])
    assert facts.digest


def test_only_what_has_changed_is_judged_again(home):
    _, ids, probabilities, _ = home
    cache, runs = Cache(), []
    for name in ("a", "b"):
        runs.append(write_run(f"experiments/{name}"))
        write_val_masks(runs[-1], ids, probabilities, "data")

    def judged():
        return [read_run(run, run.name, cache).judged for run in runs]

    before = judged()
    assert before[0].packed is before[1].packed  # opened once for all runs
    assert [one is two for one, two in zip(before, judged(), strict=True)] == [True, True]
    write_json(runs[0] / "threshold.json", {"threshold": 0.75})
    after = judged()
    assert (after[0].threshold, after[1] is before[1]) == (0.75, True)
    write_val_masks(runs[1], ids[:7], probabilities[:7], "data")
    assert [len(one.tenths) for one in judged()] == [30, 7]
    write_val_masks(runs[1], ids[:9], probabilities[:9], "data", scores=(0.9,))
    best_snapshot(runs[1], (0.9,)).write_bytes(b"better weights, whose masks are another file")
    assert [len(one.tenths) for one in judged()] == [30, 9]
    write_packed("data", {"train": (ids, np.zeros((30, 31, 31)), (31, 31))})
    assert [one.empties[1].sum() for one in judged()] == [0, 0]
    assert read_run(runs[0], "a").judged is not judged()[0]
