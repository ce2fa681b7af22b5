"""The threshold search by IoU and Dice, with and without a gate, against brute force; the cross-fit by hand."""

from fractions import Fraction

import numpy as np
import pytest
from helpers.masks import blobs, write_masks
from helpers.scripts import assert_refused, run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.core.files import read_json
from utils.data.image_classes import NOT_EMPTY
from utils.masks.mask_file import Masks, binarize, open_masks
from utils.masks.probability_file import Probabilities
from utils.scoring import metric_search
from utils.scoring.gate_search import fit_gated
from utils.scoring.mask_metrics import METRICS
from utils.scoring.threshold_search import fit_files

OVERLAPS = [name for name in METRICS if name != "iout"]


def exact(name, masks, truths):
    """Return a metric of masks (N, H, W) as a fraction, from its definition."""
    pairs = []
    for mask, truth in zip(masks, truths, strict=True):
        inside, both = int((mask & truth).sum()), int(mask.sum()) + int(truth.sum())
        pairs.append((2 * inside, both) if name.endswith("dice") else (inside, both - inside))
    if name.startswith("pooled"):
        part, whole = map(sum, zip(*pairs, strict=True))
        return Fraction(part, whole) if whole else Fraction(1)
    return sum(Fraction(part, whole) if whole else Fraction(1) for part, whole in pairs) / len(pairs)


def emptied(masks, area, out=()):
    masks = masks.copy()
    masks[masks.sum(axis=(1, 2)) < area] = False
    masks[list(out)] = False
    return masks


@pytest.fixture
def in_memory(monkeypatch):
    """Return a function that makes mask files of arrays, whose truth is found without a folder."""
    truths = {}

    def true_masks(masks, _truth_fn, rows):
        return iter(truths[masks.path][list(rows)])

    def made(path, probabilities, truth):
        truths[path] = truth
        ids = [f"{path}{number}" for number in range(len(truth))]
        return Masks(path, probabilities, ids)

    monkeypatch.setattr(metric_search, "true_masks", true_masks)
    return made


few = st.sampled_from([0.0, -0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1, width=16)
problems = st.integers(2, 4).flatmap(
    lambda n: st.tuples(
        npst.arrays(np.float16, (n, 3, 4), elements=few.map(np.float16)),
        npst.arrays(bool, (n, 3, 4), elements=st.booleans()),
        npst.arrays(np.float64, (n,), elements=st.sampled_from([0.0, 0.2, 0.2, 0.8, 1.0])),
    )
)


@pytest.mark.parametrize("name", OVERLAPS)
def test_the_best_threshold_against_brute_force(name, in_memory):
    @settings(derandomize=True, deadline=None, max_examples=15)
    @given(problems, st.sampled_from([0, 3]))
    def check(problem, area):
        probabilities, truth, _ = problem
        found = metric_search.fit_metric([in_memory("a", probabilities, truth)], None, [area], METRICS[name])
        best = found.best
        thresholds = sorted({0.0, *np.abs(probabilities).astype(float).ravel().tolist()})

        def score(th, least):
            return float(exact(name, emptied(binarize(probabilities, th), least), truth))

        assert best.score == pytest.approx(max(score(th, least) for th in thresholds for least in {0, area}), abs=1e-9)
        for th in (best.low, best.threshold, np.nextafter(best.high, 0) if best.high > best.low else best.low):
            assert score(th, best.min_area) == pytest.approx(best.score, abs=1e-9)
        if best.low > 0:
            assert score(np.nextafter(best.low, 0), best.min_area) < best.score + 1e-9
        assert found.score_at_half == pytest.approx(score(0.5, 0), abs=1e-9)
        at = np.searchsorted(found.curve.values, 0.3, side="right") - 1
        assert found.curve.scores[at] == pytest.approx(score(0.3, best.min_area), abs=1e-9)

    check()


@pytest.mark.parametrize("name", OVERLAPS)
def test_the_best_gate_against_brute_force(name, in_memory):
    @settings(derandomize=True, deadline=None, max_examples=15)
    @given(problems)
    def check(problem):
        probabilities, truth, gate = problem
        file = in_memory("a", probabilities, truth)
        opened = Probabilities("g", np.stack([gate], axis=1), file.ids, [NOT_EMPTY])
        found = metric_search.fit_metric_gated([file], [opened], None, [], METRICS[name])
        thresholds = sorted({0.0, *np.abs(probabilities).astype(float).ravel().tolist()})
        gates = [-1.0, *sorted(set(gate.tolist()))]

        def score(th, gate_th):
            return float(exact(name, emptied(binarize(probabilities, th), 0, np.flatnonzero(gate <= gate_th)), truth))

        highest = max(score(th, gate_th) for th in thresholds for gate_th in gates)
        without = max(score(th, -1.0) for th in thresholds)
        assert found.best.score == pytest.approx(highest, abs=1e-9)
        assert found.without.score == pytest.approx(without, abs=1e-9)
        if found.gate is None:
            assert without == pytest.approx(highest, abs=1e-9)
        else:
            assert found.gate.low <= found.gate.threshold <= found.gate.high
            for gate_th in (found.gate.low, found.gate.threshold):
                assert score(found.best.threshold, gate_th) == pytest.approx(highest, abs=1e-9)
            assert found.n_gated_out == np.count_nonzero(gate <= found.gate.threshold)

    check()


def test_the_search_by_values_finds_what_the_search_by_steps_finds(tmp_path):
    probabilities, truth = blobs(12)
    np.save(tmp_path / "truth.npy", truth.astype(np.uint8))
    ids = [f"i{number}" for number in range(12)]
    (tmp_path / "truth.json").write_text(f"{ids}".replace("'", '"'))
    files = [open_masks(write_masks(tmp_path / "v.npy", ids, probabilities.astype(np.float16)))]
    gate = Probabilities(tmp_path / "g.npy", truth.mean((1, 2))[:, None] * 5, ids, [NOT_EMPTY])
    where = (str(tmp_path / "truth.npy"), (0, 20))
    assert metric_search.fit_metric(files, *where, METRICS["iout"]).best == fit_files(files, *where).best
    ours = metric_search.fit_metric_gated(files, [gate], *where, METRICS["iout"])
    theirs = fit_gated(files, [gate], *where)
    assert (ours.best, ours.without, ours.n_gated_out) == (theirs.best, theirs.without, theirs.n_gated_out)
    assert ours.cross_fitted.score == pytest.approx(theirs.cross_fitted.score)


@pytest.mark.parametrize("name", OVERLAPS)
def test_the_cross_fit_by_hand(name, in_memory):
    files, planes = [], []
    for number in range(3):
        probabilities, truth = blobs(8, seed=number)
        planes.append((probabilities.astype(np.float16), truth))
        files.append(in_memory(f"f{number}", *planes[-1]))
    found = metric_search.fit_metric(files, None, [], METRICS[name])
    masks = []
    for held_out in range(3):
        others = [file for number, file in enumerate(files) if number != held_out]
        th = metric_search.fit_metric(others, None, [], METRICS[name]).best.threshold
        masks.append(binarize(planes[held_out][0], th))
    expected = exact(name, np.concatenate(masks), np.concatenate([truth for _, truth in planes]))
    cross = found.cross_fitted
    assert cross.score == pytest.approx(float(expected), abs=1e-9)
    assert cross.low < cross.score < cross.high
    assert cross.n_parts == 3


def test_the_command_maximises_the_metric_that_is_asked_for_or_recorded(tmp_path):
    probabilities, truth = blobs(15)
    ids = [f"i{number}" for number in range(15)]
    np.save(tmp_path / "truth.npy", truth.astype(np.uint8))
    (tmp_path / "truth.json").write_text(f"{ids}".replace("'", '"'))
    half = probabilities.astype(np.float16)
    write_masks(tmp_path / "plain.npy", ids, half)
    write_masks(tmp_path / "recorded.npy", ids, half, metric="pooled_dice")
    words = ("optimize_threshold.py", "--truth_fn", tmp_path / "truth.npy", "--out", tmp_path / "out.json")
    for file, flags, metric in (
        ("plain.npy", (), "iout"),
        ("recorded.npy", (), "pooled_dice"),
        ("recorded.npy", ("--metric", "iou"), "iou"),
    ):
        done = run_here(*words, "--masks_fn", tmp_path / file, *flags)
        assert done.returncode == 0, done.stderr
        assert f"metric           {metric} " in done.stdout
        stored = read_json(tmp_path / "out.json")
        assert stored["metric"] == metric
        if metric != "iout":
            score = exact(metric, binarize(half, stored["threshold"]), truth)
            assert stored["score"] == pytest.approx(float(score), abs=1e-9)
            assert stored["score"] >= float(exact(metric, binarize(half, 0.5), truth)) - 1e-9
    assert (tmp_path / "out.png").is_file()

    write_masks(tmp_path / "plain.npy", ids, half)
    np.save(tmp_path / "plain.npy", probabilities)
    refused = run_here(*words, "--masks_fn", tmp_path / "plain.npy", "--metric", "dice")
    assert_refused(refused, 2, "plain.npy", "float16", "float32")
    refused = run_here(*words, "--masks_fn", tmp_path / "recorded.npy", "--metric", "jaccard")
    assert_refused(refused, 2, "--metric", "jaccard", "pooled_iou")
    refused = run_here(*words, "--masks_fn", tmp_path / "recorded.npy", "--metric", "dsb2018")
    assert_refused(refused, 2, "--metric", "dsb2018")
