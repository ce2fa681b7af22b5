"""Instance metrics: compared with a reference on sets of pixels and exact fractions, and cases by hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.scoring.instance_metrics import (
    INSTANCE_METRICS,
    airbus_scores,
    counts_without_small,
    dsb2018_scores,
    match_counts,
    match_instances,
)

LADDER = [Fraction(10 + step, 20) for step in range(10)]


def objects_of(labels, min_area=0):
    """Return the objects of a label map as sets of pixels."""
    found = {}
    for place, number in np.ndenumerate(labels):
        if number:
            found.setdefault(int(number), set()).add(place)
    return [pixels for pixels in found.values() if len(pixels) >= min_area]


def slow_counts(predicted, truth, min_area=0):
    ours, theirs = objects_of(predicted, min_area), objects_of(truth)
    rows = []
    for threshold in LADDER:
        hits = sum(Fraction(len(a & b), len(a | b)) > threshold for a in ours for b in theirs)
        rows.append([hits, len(ours) - hits, len(theirs) - hits])
    return rows


def slow_dsb2018(rows):
    return sum(Fraction(tp, tp + fp + fn) if tp + fp + fn else Fraction(1) for tp, fp, fn in rows) / 10


def slow_airbus(rows):
    tp, fp, fn = rows[0]
    if tp + fn == 0:
        return Fraction(int(fp == 0))
    return sum(Fraction(5 * tp, 5 * tp + 4 * fn + fp) for tp, fp, fn in rows) / 10


def maps(shape, numbers=(0, 0, 1, 2, 9, 65_535)):
    return npst.arrays(np.uint16, shape, elements=st.sampled_from(numbers))


@st.composite
def pairs(draw):
    """Draw a truth and a prediction; half of them differ in a few pixels only, since independent maps hardly match."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    truth = draw(maps(shape))
    predicted = np.where(truth == 9, 300, truth) if draw(st.booleans()) else draw(maps(shape))
    for place in draw(st.lists(st.integers(0, truth.size - 1), max_size=4)):
        predicted.flat[place] = draw(st.sampled_from([0, 1, 7]))
    return predicted.astype(np.uint16), truth


@settings(derandomize=True, deadline=None, max_examples=200)
@given(pairs(), st.integers(0, 4))
def test_against_sets_of_pixels(pair, min_area):
    predicted, truth = pair
    expected = slow_counts(predicted, truth)
    counts = match_counts(predicted, truth)
    assert (counts.dtype, counts.tolist()) == (np.int64, expected)
    without = counts_without_small(match_instances(predicted, truth), np.array([0, min_area]))
    assert without.tolist() == [expected, slow_counts(predicted, truth, min_area)]
    assert dsb2018_scores(counts[None])[0] == pytest.approx(float(slow_dsb2018(expected)), abs=1e-12)
    assert airbus_scores(counts[None])[0] == pytest.approx(float(slow_airbus(expected)), abs=1e-12)


def strip(*lengths):
    """Return one row of adjacent objects of these lengths; a negative length is background."""
    numbers = [np.full(abs(length), place if length > 0 else 0) for place, length in enumerate(lengths, start=1)]
    return np.concatenate(numbers)[None]


@pytest.mark.parametrize(
    ("name", "predicted", "truth", "first", "dsb2018", "airbus"),
    [
        ("perfect", strip(6, 6), strip(6, 6), (2, 0, 0), 1, 1),
        ("perfect, other numbers", 7 * strip(6, 6), strip(6, 6)[:, ::-1] + 40, (2, 0, 0), 1, 1),
        ("merge", strip(12), strip(6, 6), (0, 1, 2), 0, 0),
        ("merge with a crumb", strip(12), strip(11, 1), (1, 0, 1), 9 / 20, 9 * 5 / 9 / 10),  # IoU 11/12
        ("split", strip(6, 6), strip(12), (0, 2, 1), 0, 0),
        ("split off a crumb", strip(11, 1), strip(12), (1, 1, 0), 9 / 20, 9 * 5 / 6 / 10),
        ("miss", strip(6, -6), strip(6, 6), (1, 0, 1), 1 / 2, 5 / 9),
        ("extra", strip(6, 6), strip(6, -6), (1, 1, 0), 1 / 2, 5 / 6),
        ("nothing found", strip(-12), strip(6, 6), (0, 0, 2), 0, 0),
        ("nothing there", strip(6, 6), strip(-12), (0, 2, 0), 0, 0),
        ("empty and right", strip(-12), strip(-12), (0, 0, 0), 1, 1),
        ("IoU .50 is no hit at .50", strip(6, -6), strip(12), (0, 1, 1), 0, 0),
        ("IoU .55 is a hit at .50 alone", strip(11, -9), strip(20), (1, 0, 0), 1 / 10, 1 / 10),
        ("IoU .90 is no hit at .90", strip(9, -1), strip(10), (1, 0, 0), 8 / 10, 8 / 10),
        ("IoU above .95", strip(20, -1), strip(21), (1, 0, 0), 1, 1),
    ],
)
def test_by_hand(name, predicted, truth, first, dsb2018, airbus):
    counts = match_counts(predicted, truth)
    assert tuple(counts[0]) == first
    scores = {metric: score(counts[None])[0] for metric, score in INSTANCE_METRICS.items()}
    assert scores == pytest.approx({"dsb2018": dsb2018, "airbus": airbus}, abs=1e-12)


def test_scores_of_several_images():
    counts = np.stack([match_counts(strip(6, 6), strip(6, 6)), match_counts(strip(6, 6), strip(-12))])
    assert dsb2018_scores(counts).tolist() == [1, 0]
    assert airbus_scores(counts).tolist() == [1, 0]
    assert airbus_scores(counts[:0]).shape == (0,)


def test_many_objects_with_gaps_in_the_numbers():
    """A full table of pairs would have 4 billion cells, so the pairs must be sorted."""
    truth = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    truth[0, 1] = 0
    predicted = truth[::-1].copy()[::-1]
    predicted[5] = 0
    assert match_counts(predicted, truth)[9].tolist() == [65_534 - 256, 0, 256]


@pytest.mark.parametrize(
    ("predicted", "truth", "said"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "(2, 3) and (3, 2)"),
        (np.zeros((1, 2, 3), int), np.zeros((1, 2, 3), int), "height, width"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "float64"),
        (np.full((2, 3), -1), np.zeros((2, 3), int), "minimum -1"),
    ],
)
def test_arrays_that_are_not_label_maps_are_refused(predicted, truth, said):
    with pytest.raises(ValueError, match="expected") as error:
        match_counts(predicted, truth)
    assert said in str(error.value)
