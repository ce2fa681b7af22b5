"""Rules for objects with a gate: compared with brute force, the cross-fit by hand, and the command line."""

from itertools import product

import numpy as np
import pytest
from helpers.masks import files_in, write_masks, write_packed
from helpers.scripts import assert_refused, run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.masks.gate import OPEN, gated_out
from utils.masks.instances import InstanceRules, label_instances
from utils.masks.mask_file import PredictionInfo, open_masks
from utils.masks.probability_file import open_probabilities, write_probabilities
from utils.scoring import instance_search as module
from utils.scoring.gate_search import gate_means, widest_gate
from utils.scoring.instance_metrics import INSTANCE_METRICS, match_counts
from utils.scoring.instance_search import fit_instances
from utils.scoring.stored_thresholds import read_instance_rules

SCRIPT = "optimize_threshold.py"
SHAPE = (12, 16)
METRICS = ("dsb2018", "airbus")


def sea(n_images, seed, wrong=0.5):
    """Return (probabilities float16, labels, gate) with one or two ships in every second image.

    The share `wrong` of the empty images has false alarms. The gate is right about most images.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros((n_images, *SHAPE), np.uint16)
    masks = rng.uniform(0, 0.4, labels.shape)
    for image in range(n_images):
        for ship in range(1, 1 + (image % 2) * int(rng.integers(1, 3))):
            top, left = rng.integers(0, 8), (ship - 1) * 8 + rng.integers(0, 3)
            labels[image, top : top + 3, left : left + 4] = ship
            masks[image, top : top + 3, left : left + 4] = rng.uniform(0.3, 0.9)
        if image % 2 == 0 and rng.random() < wrong:
            masks[image, 2:5, 3:7] = rng.uniform(0.3, 0.9)
    gate = (0.7 * rng.random(n_images) + 0.3 * labels.any(axis=(1, 2))).round(1)
    return masks.astype(np.float16), labels, gate.astype(np.float32)


def opened(folder, sets):
    """Return opened mask and gate files for sets of (probabilities, labels, gate); the folder `data` has the truth."""
    labels = np.concatenate([labels for _, labels, _ in sets])
    ids = [f"i{row}" for row in range(len(labels))]
    write_packed(folder / "data", {"train": (ids, labels != 0, SHAPE)}, labels=labels)
    files, gates, start = [], [], 0
    for number, (masks, _, gate) in enumerate(sets):
        names = ids[start : start + len(masks)]
        about = {"data_dir": str(folder / "data"), "part": "train"}
        files.append(open_masks(write_masks(folder / f"v{number}.npy", names, masks, **about)))
        write_probabilities(folder / f"g{number}.npy", names, gate[:, None], ["not_empty"], PredictionInfo())
        gates.append(open_probabilities(folder / f"g{number}.npy"))
        start += len(names)
    return files, gates


def scores_of(masks, labels, rules, metric, out=()):
    """Compute the score of each image directly; `out` is True for images that are gated out."""
    found = [label_instances(mask, None, rules) for mask in masks]
    for image in np.flatnonzero(out):
        found[image][:] = 0
    return INSTANCE_METRICS[metric](np.stack([match_counts(*pair) for pair in zip(found, labels, strict=True)]))


def best_by_brute_force(masks, labels, gate, rules, metric):
    """Return (best mean score of these rules over all distinct gates, mean score without a gate)."""
    means = [scores_of(masks, labels, rules, metric, gate <= th).mean() for th in (OPEN, *np.unique(gate))]
    return max(means), means[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_against_every_gate(tmp_path, metric, seed):
    masks, labels, gate = sea(9, seed)
    files, gates = opened(tmp_path, [(masks, labels, gate)])
    fit = fit_instances(files, None, (6,), metric, gates)
    gate = gate.astype(np.float64)
    # the gate is the best one for the rules that were found, and the reported score is correct
    highest, _ = best_by_brute_force(masks, labels, gate, fit.rules, metric)
    out = np.zeros(9, bool) if fit.gate is None else gated_out(gate, fit.gate.threshold)
    assert fit.score == pytest.approx(highest)
    assert fit.score == pytest.approx(scores_of(masks, labels, fit.rules, metric, out).mean())
    assert fit.n_gated_out == out.sum()
    # no rules on the grid are better with any gate, or better without a gate than the best found without one
    for th, min_area, fill_holes in product((0.1, 0.3, 0.5, 0.7, 0.9), (0, 6), (False, True)):
        gated, plain = best_by_brute_force(masks, labels, gate, InstanceRules(th, 0.5, min_area, fill_holes), metric)
        assert gated <= fit.score + 1e-9
        assert plain <= fit.score_without + 1e-9
    assert fit.score_without <= fit.score
    assert (fit.gate is None) == (fit.score_without == pytest.approx(fit.score))


GIVEN = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        npst.arrays(np.float64, (2, n), elements=st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0])),
        npst.arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])),
        npst.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)),
    )
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(GIVEN)
def test_every_gate_of_given_scores(problem):
    scores, when_empty, gate = problem

    def mean_at(row, th):
        return round(float(np.where(gate <= th, when_empty, row).mean()), 9)

    lows, means = gate_means(scores, when_empty, gate)
    assert lows.tolist() == [OPEN, *np.unique(gate)]
    for row, found in zip(scores, means, strict=True):
        assert found.round(9).tolist() == [mean_at(row, th) for th in lows]
        best = widest_gate(lows, found)
        assert (best is None) == (found[0] == found.max())
        if best is None:
            continue
        highest = max(mean_at(row, th) for th in lows)
        assert best.low <= best.threshold <= best.high
        inside = [th for th in lows if best.low <= th < best.high]
        assert {mean_at(row, th) for th in (best.low, best.threshold, *inside)} == {highest}
        # it is the widest such interval, and the lowest one if several are equally wide
        ends, widths, start = [*lows[1:], 1.0], [], None
        for low, end in zip(lows, ends, strict=True):
            start = (low if start is None else start) if mean_at(row, low) == highest else None
            if start is not None:
                widths.append((end - start, -start))
        assert (best.high - best.low, -best.low) == max(widths)


def test_no_gate_is_chosen_if_it_is_equally_good():
    """A gate that is right only where the rules are right too is useless, so none is chosen."""
    scores = np.array([[1.0, 1.0, 0.5]])
    lows, means = gate_means(scores, np.array([1.0, 0.0, 0.0]), np.array([0.1, 0.9, 0.8]))
    assert widest_gate(lows, means[0]) is None


@pytest.mark.parametrize("metric", METRICS)
def test_a_gate_that_is_right_helps(tmp_path, metric):
    masks, labels, _ = sea(40, 5, wrong=1)
    gate = np.where(labels.any(axis=(1, 2)), 0.75, 0.25).astype(np.float32)
    files, gates = opened(tmp_path, [(masks, labels, gate)])
    fit = fit_instances(files, None, (6,), metric, gates)
    assert (fit.gate.low, fit.gate.high, fit.gate.threshold, fit.n_gated_out) == (0.25, 0.75, 0.5, 20)
    assert fit.score > fit.score_without + 0.2
    stored = fit.as_json(files)
    assert (stored["gate_threshold"], stored["gate_low"], stored["gate_high"]) == (0.5, 0.25, 0.75)
    assert (stored["helps"], stored["n_gated_out"], stored["score_without"]) == (True, 20, fit.score_without)
    assert fit.as_text().endswith("\nthe gate helps")
    assert "20 of 40 images are gated out" in fit.as_text()


def test_if_a_gate_is_useless_the_rules_are_those_without_one(tmp_path):
    masks, labels, _ = sea(12, 6, wrong=0)
    files, gates = opened(tmp_path, [(masks, labels, np.full(12, 0.5, np.float32))])
    plain, fit = fit_instances(files, None, (6,)), fit_instances(files, None, (6,), gate=gates)
    assert (fit.rules, fit.score, fit.gate) == (plain.rules, plain.score, None)
    assert (fit.score_without, fit.n_gated_out) == (fit.score, 0)
    stored = fit.as_json(files)
    assert (stored["gate_threshold"], stored["gate_low"], stored["gate_high"]) == (None, None, None)
    assert stored["helps"] is False
    assert stored["cross_fitted"]["difference"] == 0
    assert "lets every image through" in fit.as_text()
    assert fit.as_text().endswith("the gate does not help")


def test_the_cross_fit_by_hand(tmp_path):
    """Each file is scored with the rules and the gate fitted on the other one."""
    sets = [sea(9, 7), sea(8, 8)]
    files, gates = opened(tmp_path, sets)
    fit = fit_instances(files, None, (6,), "airbus", gates[::-1])
    with_gate, without = [], []
    for place, (masks, labels, gate) in enumerate(sets):
        alone = fit_instances([files[1 - place]], None, (6,), "airbus", gates)
        plain = fit_instances([files[1 - place]], None, (6,), "airbus")
        assert alone.gate is not None
        out = gate <= alone.gate.threshold
        with_gate += scores_of(masks, labels, alone.rules, "airbus", out).tolist()
        without += scores_of(masks, labels, plain.rules, "airbus").tolist()
    cross = fit.cross_fitted
    assert cross.n_parts == 2
    assert cross.score == pytest.approx(np.mean(with_gate))
    assert cross.score_without == pytest.approx(np.mean(without))
    assert cross.difference == pytest.approx(np.mean(with_gate) - np.mean(without))
    assert cross.difference_low <= cross.difference <= cross.difference_high
    assert cross.low <= cross.score <= cross.high


def test_of_many_images_only_some_are_searched_but_all_are_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_SEARCHED", 12)
    masks, labels, gate = sea(40, 11, wrong=1)
    files, gates = opened(tmp_path, [(masks, labels, gate)])
    fit = fit_instances(files, None, (6,), "airbus", gates)
    out = gate <= fit.gate.threshold
    assert (fit.n_images, fit.n_searched, fit.n_gated_out) == (40, 15, out.sum())
    assert fit.score == pytest.approx(scores_of(masks, labels, fit.rules, "airbus", out).mean())


def test_one_image_has_no_cross_fit(tmp_path):
    files, gates = opened(tmp_path, [sea(1, 0)])
    fit = fit_instances(files, gate=gates)
    assert fit.cross_fitted is None
    assert fit.as_json(files)["helps"] is False
    assert fit.as_text().endswith("a single image cannot show whether the gate helps")


def test_the_script_stores_rules_and_gate(tmp_path):
    files, _ = opened(tmp_path, [sea(10, 9, wrong=1), sea(10, 10, wrong=1)])
    run = tmp_path / "experiments" / "ships_fold0"
    write_json(run / "config.json", {})
    names = [str(file.path) for file in files]
    words = ("--objective", "objects", "--metric", "airbus", "--masks_fn", *names, "--out", run)
    done = run_here(SCRIPT, *words, "--gate_probs", "g1.npy", "g0.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best gate " in done.stdout
    stored = read_json(run / "objects.json")
    assert stored["gate_low"] <= stored["gate_threshold"] < stored["gate_high"]
    assert (stored["metric"], stored["gate_probs"]) == ("airbus", ["g1.npy", "g0.npy"])
    assert stored["cross_fitted"]["score"] - stored["cross_fitted"]["score_without"] == pytest.approx(
        stored["cross_fitted"]["difference"]
    )
    assert read_instance_rules(run).rules == InstanceRules(
        *(stored[name] for name in ("th", "seed_th", "min_area", "fill_holes"))
    )
    # without --gate_probs the result has no gate
    assert run_here(SCRIPT, *words, cwd=tmp_path).returncode == 0
    assert "gate_threshold" not in read_json(run / "objects.json")


def test_refusals(tmp_path):
    files, gates = opened(tmp_path, [sea(4, 0), sea(4, 1)])
    with pytest.raises(UserError, match=r"g0.npy: no gate probability for 4 of 4 images \(such as i4\)"):
        fit_instances(files, gate=gates[:1])
    before = files_in(tmp_path)
    gate = ("--gate_probs", "g0.npy")
    for words, said in (
        (("--objective", "labels", *gate), "--gate_probs: is for --objective pixels or objects, not for labels"),
        (("--objective", "labels", "--min_area", 4), "--min_area: is for --objective pixels or objects"),
        (
            ("--objective", "labels", "--metric", "airbus"),
            "--metric: is for --objective pixels or objects, not for labels",
        ),
        (("--metric", "dsb2018"), "--metric dsb2018: no such name; known: iout, iou, dice"),
    ):
        assert_refused(run_here(SCRIPT, "--masks_fn", "v0.npy", *words, cwd=tmp_path), 2, said)
    assert files_in(tmp_path) == before
