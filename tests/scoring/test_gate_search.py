"""Mask and gate threshold fitted together: compared with brute force, the cross-fit, and the printed result."""

import numpy as np
import pytest
from helpers.masks import blobs, write_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.core.errors import UsageError, UserError
from utils.core.files import write_json
from utils.masks.gate import OPEN, gate_probability, gated_out
from utils.masks.mask_file import PredictionInfo, binarize, open_masks
from utils.masks.probability_file import open_probabilities, write_probabilities
from utils.scoring.gate_search import best_gated, fit_gated
from utils.scoring.mask_metrics import iout
from utils.scoring.stored_thresholds import GATE_FILE, read_gate
from utils.scoring.threshold_search import best, best_joint, join, steps_of


def score_at(masks, truth, gate, th, gate_th, min_area=0):
    """Compute the mean score of one pair of thresholds directly; gate_th None: no gate."""
    binary = binarize(masks, th)
    binary[binary.sum(axis=(1, 2)) < min_area] = False
    if gate_th is not None:
        binary[gate <= gate_th] = False
    return iout(binary, truth)


def brute_force(masks, truth, gate, areas=(0,)):
    """Return (best score, True if it is reached without a gate) over all thresholds at which the score can change."""
    thresholds = sorted({0.0, *np.unique(masks).astype(np.float64).tolist()})
    scores = {
        gate_th: max(score_at(masks, truth, gate, th, gate_th, area) for th in thresholds for area in areas)
        for gate_th in [None, *np.unique(gate).tolist()]
    }
    return max(scores.values()), scores[None] == max(scores.values())


PROBLEMS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        npst.arrays(np.float16, (n, 2, 3), elements=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]).map(np.float16)),
        npst.arrays(np.uint8, (n, 2, 3), elements=st.integers(0, 1))
        | npst.arrays(np.uint8, (n, 2, 3), elements=st.just(0)),
        npst.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)),
        npst.arrays(np.bool_, n),
    )
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(PROBLEMS, st.sampled_from([(0,), (0, 3)]))
def test_against_every_pair(problem, areas):
    masks, truth, gate, emptied = problem
    truth = np.where(emptied[:, None, None], 0, truth)
    by_area = steps_of(masks, truth, areas)
    found, gate_found = best_gated(by_area, gate)
    highest, without = brute_force(masks, truth, gate, areas)
    assert found.score == highest
    assert (gate_found is None) == without
    if gate_found is None:
        assert found == best_joint(by_area)
        return
    # every pair in the two intervals has the best score, but not at the next gate on either side
    assert 0 <= gate_found.low <= gate_found.threshold <= gate_found.high <= 1
    values = [found.low, found.threshold, *np.unique(masks).astype(float).tolist()]
    values = [th for th in values if found.low <= th < found.high or th == found.threshold]

    def worst(gate_th):
        return min(score_at(masks, truth, gate, th, gate_th, found.min_area) for th in values)

    inside = [gate_th for gate_th in gate.tolist() if gate_found.low <= gate_th < gate_found.high]
    assert {worst(gate_th) for gate_th in [gate_found.low, gate_found.threshold, *inside]} == {highest}
    assert worst(max((gate_th for gate_th in gate.tolist() if gate_th < gate_found.low), default=None)) < highest
    assert gate_found.high not in gate or gate_found.high == gate_found.low or worst(gate_found.high) < highest


def test_blobs_against_every_pair():
    masks, truth = blobs(14)
    masks, gate = masks.astype(np.float16)[:, ::4, ::4], np.random.default_rng(0).random(14).round(1)
    truth = truth[:, ::4, ::4]
    found, gate_found = best_gated(steps_of(masks, truth), gate)
    assert found.score == brute_force(masks, truth, gate)[0]
    th = gate_found.threshold if gate_found else None
    assert score_at(masks, truth, gate, found.threshold, th) == found.score


def test_an_image_on_the_threshold_is_gated_out():
    assert gated_out(np.array([0.2, 0.5, np.nextafter(0.5, 1)]), 0.5).tolist() == [True, True, False]
    assert not gated_out(np.zeros(1), OPEN).any()
    # the empty image has the same probability as the full one, so no gate can separate the two
    masks, truth = np.full((2, 1, 2), 0.7, np.float16), np.array([[[1, 1]], [[0, 0]]])
    assert best_gated(steps_of(masks, truth), np.array([0.5, 0.5]))[1] is None
    found, gate = best_gated(steps_of(masks, truth), np.array([0.75, 0.25]))
    assert (found.score, gate.low, gate.high, gate.threshold) == (1.0, 0.25, 0.75, 0.5)


@pytest.mark.parametrize("harmless", [0.3, 0.8])
def test_images_whose_mask_is_empty_anyway_do_not_cut_the_gate_interval(harmless):
    """A correct mask (.9), a false alarm (.2), and an image that is correct with and without the gate."""
    masks = np.array([[[0.75, 0.25]], [[0.75, 0.75]], [[0.125, 0]]], np.float16)
    steps = steps_of(masks, np.array([[[1, 0]], [[0, 0]], [[0, 0]]]))
    found, gate = best_gated(steps, np.array([0.9, 0.2, harmless]))
    assert (found.score, found.low, found.high) == (1.0, 0.25, 0.75)
    assert (gate.low, gate.high) == (0.2, 0.9)


def test_of_equally_good_gates_the_one_in_the_widest_gap_is_chosen():
    """By probability: false alarm, correct mask, false alarm, correct mask; one mistake in [.1, .5) and in [.6, .9)."""
    truth = np.array([[[0, 0]], [[1, 1]], [[0, 0]], [[1, 1]]])
    found, gate = best_gated(steps_of(np.full((4, 1, 2), 0.5, np.float16), truth), np.array([0.1, 0.5, 0.6, 0.9]))
    assert (found.score, gate.low, gate.high) == (0.75, 0.1, 0.5)


def test_an_equally_good_minimum_area_is_preferred_to_a_gate():
    masks, truth = np.array([[[0.5, 0.5]], [[0.5, 0]]], np.float16), np.array([[[1, 1]], [[0, 0]]])
    found, gate = best_gated(steps_of(masks, truth, (0, 2)), np.array([0.9, 0.1]))
    assert (found.score, found.min_area, gate) == (1.0, 2, None)


def test_all_empty_needs_no_gate():
    found, gate = best_gated(steps_of(np.full((3, 2, 2), 0.5, np.float16), np.zeros((3, 2, 2))), np.array([0, 0.5, 1]))
    assert (found.score, gate) == (1.0, None)


def case(tmp_path, gate, n_files=1, masks_and_truth=None):
    """Return opened mask files and gate files for the images of `gate`, and the path of the truth."""
    masks, truth = masks_and_truth or blobs(len(gate))
    ids = [f"i{row}" for row in range(len(gate))]
    np.save(tmp_path / "truth.npy", truth.astype(np.uint8))
    write_json(tmp_path / "truth.json", ids)
    files, gates = [], []
    for part, rows in enumerate(np.array_split(np.arange(len(gate)), n_files)):
        names = [ids[row] for row in rows]
        files.append(open_masks(write_masks(tmp_path / f"masks{part}.npy", names, masks[rows])))
        write_probabilities(
            tmp_path / f"gate{part}.npy", names[::-1], gate[rows][::-1, None], ["not_empty"], PredictionInfo()
        )
        gates.append(open_probabilities(tmp_path / f"gate{part}.npy"))
    return files, gates, str(tmp_path / "truth.npy")


@pytest.mark.parametrize("n_files", [1, 3])
def test_a_perfect_gate_helps(tmp_path, n_files):
    masks, truth = blobs(60)
    empty = ~truth.any(axis=(1, 2))
    masks[empty] = masks[~empty][: empty.sum()]  # false alarms without the gate
    gate = np.where(empty, 0.2, 0.8)
    files, gates, truth_fn = case(tmp_path, gate, n_files, (masks, truth))
    fit = fit_gated(files, gates[::-1], truth_fn, [0])
    stored, text = fit.as_json(files, gates), fit.as_text()
    assert (fit.gate.low, fit.gate.high) == (float(np.float32(0.2)), float(np.float32(0.8)))
    assert fit.n_gated_out == empty.sum()
    assert fit.best.score > fit.without.score
    assert (fit.helps, stored["helps"]) == (True, True)
    assert text.endswith("\nthe gate helps")
    assert stored["gate_threshold"] == fit.gate.threshold
    assert stored["cross_fitted"]["difference"] > 0
    assert fit.cross_fitted.n_parts == (5 if n_files == 1 else 3)
    write_json(tmp_path / GATE_FILE, stored)
    found = read_gate(tmp_path)
    assert (found.threshold, found.origin) == (fit.gate.threshold, str(tmp_path / GATE_FILE))


def test_the_cross_fit_by_hand(tmp_path):
    masks, truth = blobs(30)
    gate = np.random.default_rng(3).random(30).astype(np.float32) * 0.5 + 0.4 * truth.any(axis=(1, 2))
    files, gates, truth_fn = case(tmp_path, gate, 3, (masks, truth))
    cross = fit_gated(files, gates, truth_fn, [0]).cross_fitted
    masks, gate = masks.astype(np.float16), gate.astype(np.float32).astype(np.float64)
    with_gate, without = [], []
    for part in np.array_split(np.arange(30), 3):
        rest = np.setdiff1d(np.arange(30), part)
        steps = steps_of(masks[rest], truth[rest])
        found, gate_found = best_gated(steps, gate[rest])
        th = gate_found.threshold if gate_found else None
        with_gate.append(score_at(masks[part], truth[part], gate[part], found.threshold, th))
        without.append(score_at(masks[part], truth[part], gate[part], best(steps[0]).threshold, None))
    assert cross.score == pytest.approx(np.mean(with_gate), abs=1e-12)
    assert cross.score_without == pytest.approx(np.mean(without), abs=1e-12)
    assert cross.difference == pytest.approx(np.mean(with_gate) - np.mean(without), abs=1e-12)
    assert cross.low <= cross.score <= cross.high
    assert cross.difference_low <= cross.difference <= cross.difference_high


def test_a_random_gate_does_not_help(tmp_path):
    files, gates, truth_fn = case(tmp_path, np.random.default_rng(1).random(60))
    fit = fit_gated(files, gates, truth_fn, [0])
    assert not fit.helps
    assert fit.as_text().endswith(("the gate does not help", "the gate makes no significant difference"))
    constant = fit_gated(files, [case(tmp_path, np.full(60, 0.5))[1][0]], truth_fn, [0])
    assert (constant.gate, constant.best) == (None, constant.without)
    assert constant.as_text().endswith("the gate does not help")
    stored = constant.as_json(files, gates)
    assert (stored["gate_threshold"], stored["low"], stored["high"]) == (None, None, None)
    assert "lets every image through" in constant.as_text()
    write_json(tmp_path / GATE_FILE, stored)
    assert read_gate(tmp_path).threshold == OPEN


def test_one_image_has_no_cross_fit(tmp_path):
    files, gates, truth_fn = case(tmp_path, np.array([0.5]))
    fit = fit_gated(files, gates, truth_fn, [0])
    assert fit.cross_fitted is None
    assert not fit.helps
    assert "not available with a single image" in fit.as_text()


def test_refusals(tmp_path):
    files, gates, truth_fn = case(tmp_path, np.linspace(0, 1, 6), 2)
    with pytest.raises(UserError, match=r"gate0.npy: no gate probability for 3 of 3 images \(such as i3\)"):
        fit_gated(files, gates[:1], truth_fn, [0])
    with pytest.raises(UserError, match="image i0 is in"):
        fit_gated([files[0], files[0]], gates, truth_fn, [0])
    with pytest.raises(UsageError, match="--min_area -1"):
        fit_gated(files, gates, truth_fn, [-1])
    write_probabilities(tmp_path / "tags.npy", ["i0"], np.ones((1, 2)), ["cat", "dog"], PredictionInfo())
    with pytest.raises(UserError, match=r"tags.npy: expected probabilities of not_empty, found cat, dog"):
        gate_probability([open_probabilities(tmp_path / "tags.npy")], ["i0"])


def test_probabilities_of_several_files_are_joined_and_averaged(tmp_path):
    for name, ids, values in (("a", ["x", "y"], [0.25, 0.5]), ("b", ["y", "z"], [1.0, 0.125])):
        write_probabilities(tmp_path / f"{name}.npy", ids, np.array(values)[:, None], ["not_empty"], PredictionInfo())
    files = [open_probabilities(tmp_path / f"{name}.npy") for name in "ab"]
    assert gate_probability(files, ["z", "y", "x"]).tolist() == [0.125, 0.75, 0.25]


def test_joined_parts_equal_the_steps_of_all_images():
    masks, truth = blobs(10)
    parts = [steps_of(masks[rows], truth[rows]) for rows in (slice(0, 4), slice(4, 10))]
    gate = np.linspace(1, 0, 10)
    assert best_gated(join(parts), gate) == best_gated(steps_of(masks, truth), gate)
