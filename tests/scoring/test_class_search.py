"""Thresholds of labels: each is the exact best given the others, the cross-fit by hand, and stored results."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.data.image_classes import ImageClasses
from utils.masks.probability_file import Probabilities
from utils.scoring.class_search import fit_classes
from utils.scoring.stored_thresholds import LABELS_FILE, read_class_thresholds


def given_file(probabilities, labels, start=0, name="p.npy"):
    ids = [f"i{start + row}" for row in range(len(probabilities))]
    return Probabilities(Path(name), np.asarray(probabilities, np.float32), ids, labels)


def named(truths, exclusive=False):
    return ImageClasses([f"l{label}" for label in range(np.shape(truths)[1])], np.asarray(truths, np.uint8), exclusive)


def fit(probabilities, truths, exclusive=False):
    labels = named(truths, exclusive)
    return fit_classes([given_file(probabilities, labels.names)], [labels])


def mean_f2(probabilities, truths, thresholds):
    """Compute the mean F2 image by image; 1 if nothing is predicted and nothing is true."""
    scores = []
    for row, truth in zip(np.asarray(probabilities, np.float64) > np.asarray(thresholds), truths, strict=True):
        hits, weight = np.sum(row & (truth != 0)), 4 * truth.sum(dtype=int) + row.sum()
        scores.append(5 * hits / weight if weight else 1.0)
    return np.mean(scores)


def tags(n_images, n_labels, seed=0):
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.1, 0.6, n_labels)
    truths = (rng.random((n_images, n_labels)) < rates).astype(np.uint8)
    return np.clip(0.25 * truths + 0.4 * rng.random(truths.shape) + 0.4 * rates, 0, 1).astype(np.float32), truths


PROBLEMS = st.tuples(st.integers(1, 6), st.integers(2, 3)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]).map(np.float32)),
        npst.arrays(np.uint8, shape, elements=st.integers(0, 1)),
    )
)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(PROBLEMS)
def test_no_single_threshold_can_be_improved(problem):
    check(*problem)


def test_no_threshold_of_many_labels_can_be_improved():
    probabilities, truths = tags(60, 6)
    found = check(probabilities, truths)
    assert found.score > found.score_at_common


@pytest.mark.parametrize(("n_images", "n_labels", "seed"), [(4, 2, 0), (4, 3, 3), (6, 4, 25)])
def test_moving_a_threshold_among_equally_good_ones_may_allow_another_to_improve(n_images, n_labels, seed):
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, 2, (n_images, n_labels)).astype(np.uint8)
    check((rng.integers(0, 9, truths.shape) / 8).astype(np.float32), truths)


def check(probabilities, truths):
    found = fit(probabilities, truths)
    thresholds = np.array(list(found.thresholds.values()))
    assert found.score == pytest.approx(mean_f2(probabilities, truths, thresholds), abs=1e-9)
    for label, name in enumerate(found.thresholds):
        others = thresholds.copy()
        for th in [0.0, *np.unique(probabilities[:, label])]:
            others[label] = th
            assert mean_f2(probabilities, truths, others) <= found.score + 1e-9
        low, high = found.intervals[name]
        assert low <= thresholds[label] <= high
        for th in (low, np.nextafter(high, 0) if high > low else low):
            others[label] = th
            assert mean_f2(probabilities, truths, others) == pytest.approx(found.score, abs=1e-9)
    common = [mean_f2(probabilities, truths, np.full(len(thresholds), th)) for th in [0.0, *np.unique(probabilities)]]
    assert found.score_at_common == pytest.approx(max(common), abs=1e-9)
    assert found.score >= found.score_at_common
    return found


@pytest.mark.parametrize("n_files", [1, 3])
def test_the_cross_fit_by_hand(n_files):
    probabilities, truths = tags(45, 3, seed=2)
    parts = np.array_split(np.arange(45), 3) if n_files == 3 else [np.arange(45)[part::5] for part in range(5)]
    rows_of_files = parts if n_files == 3 else [np.arange(45)]
    labels = named(truths)
    files = [given_file(probabilities[rows], labels.names, rows[0]) for rows in rows_of_files]
    found = fit_classes(files, [named(truths[rows]) for rows in rows_of_files])
    scores = 0.0
    for part in parts:
        rest = np.setdiff1d(np.arange(45), part)
        if n_files == 1:  # the order in which the fit sees the images, although it does not matter
            rest = np.concatenate([other for other in parts if other is not part])
        thresholds = list(fit(probabilities[rest], truths[rest]).thresholds.values())
        scores += len(part) * mean_f2(probabilities[part], truths[part], thresholds)
    assert found.cross_fitted.score == pytest.approx(scores / 45, abs=1e-9)
    assert found.cross_fitted.low <= found.cross_fitted.score <= found.cross_fitted.high
    assert found.cross_fitted.n_parts == len(parts)
    assert found.image_scores.keys() == {name for file in files for name in file.ids}
    assert np.mean(list(found.image_scores.values())) == pytest.approx(scores / 45, abs=1e-4)


def test_one_label_gets_the_threshold_with_the_best_accuracy():
    found = fit([[0.1], [0.2], [0.4], [0.3]], [[0], [0], [1], [1]])
    assert (found.rule, found.score) == ("accuracy", 1.0)
    low, high = found.intervals["l0"]
    assert (low, high) == (float(np.float32(0.2)), float(np.float32(0.3)))
    assert found.thresholds["l0"] == (low + high) / 2
    assert "accuracy of one label" in found.as_text()


def test_for_exclusive_labels_nothing_is_fitted():
    probabilities = np.array([[0.5, 0.5], [0.2, 0.8], [0.6, 0.4]])
    found = fit(probabilities, [[1, 0], [0, 1], [0, 1]], exclusive=True)
    assert (found.rule, found.thresholds, found.score) == ("argmax", {}, 2 / 3)
    assert found.cross_fitted.score == pytest.approx(2 / 3)
    assert "there is no threshold to fit" in found.as_text()


def test_stored_thresholds_can_be_read_back(tmp_path):
    probabilities, truths = tags(20, 3)
    found = fit(probabilities, truths)
    assert read_class_thresholds(tmp_path) is None
    write_json(tmp_path / LABELS_FILE, found.as_json([given_file(probabilities, ["l0", "l1", "l2"])]))
    assert read_class_thresholds(tmp_path).thresholds == found.thresholds
    stored = read_json(tmp_path / LABELS_FILE)
    assert stored["score"] == found.score
    assert stored["cross_fitted"]["score"] == found.cross_fitted.score
    assert all(name in found.as_text() for name in ("l0", "l1", "l2", "<- trust this score"))
    for wrong in ([], {"thresholds": {"l0": 2}}, {"threshold": 0.5}):
        write_json(tmp_path / LABELS_FILE, wrong)
        with pytest.raises(UserError, match=r"labels\.json: expected"):
            read_class_thresholds(tmp_path)


def test_refusals():
    probabilities, truths = tags(4, 2)
    file = given_file(probabilities, ["l0", "l1"])
    with pytest.raises(UserError, match=r"image i0 is in p.npy and again in p.npy"):
        fit_classes([file, file], [named(truths)] * 2)
    with pytest.raises(UserError, match=r"p.npy: expected probabilities of the labels l0, l1, found cat, dog"):
        fit_classes([given_file(probabilities, ["cat", "dog"])], [named(truths)])
    with pytest.raises(UserError, match=r"p.npy: holds no images"):
        fit_classes([given_file(probabilities[:0], ["l0", "l1"])], [named(truths[:0])])
    assert fit(probabilities[:1], truths[:1]).cross_fitted is None
