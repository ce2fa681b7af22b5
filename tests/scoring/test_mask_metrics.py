"""The salt competition's metric: ties, empty and full masks, and a reference in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.masks.mask_file import binarize
from utils.scoring.mask_metrics import counts, iou, iout, scores_from_counts


def slow_tenths(inside, ours, theirs):
    """Compute the tenths by definition, in exact fractions."""
    if theirs == 0:
        return 10 if ours == 0 else 0
    ratio = Fraction(inside, ours + theirs - inside)
    return sum(ratio > Fraction(50 + 5 * step, 100) for step in range(10))


@pytest.mark.parametrize(
    ("inside", "union", "tenths"),
    [
        (50, 100, 0),  # IoU .50 is not greater than .50
        (51, 100, 1),
        (11, 20, 1),  # .55
        (60, 100, 2),
        (65, 100, 3),
        (7, 10, 4),
        (75, 100, 5),
        (80, 100, 6),
        (85, 100, 7),
        (9, 10, 8),  # .90, which linspace(.5, .95, 10) gets wrong
        (90, 100, 8),
        (91, 100, 9),
        (95, 100, 9),
        (19, 20, 9),
        (96, 100, 10),
        (100, 100, 10),
        (0, 100, 0),
        (49, 100, 0),
    ],
)
def test_ties(inside, union, tenths):
    assert scores_from_counts(inside, inside, union) == tenths  # prediction within the truth
    assert scores_from_counts(inside, union, inside) == tenths  # truth within the prediction


def test_empty_truth():
    np.testing.assert_array_equal(scores_from_counts([0, 0, 0], [0, 1, 10201], [0, 0, 0]), [10, 0, 0])


def test_an_empty_prediction_for_a_large_mask_scores_zero():
    truth = np.zeros((1, 101, 101), np.uint8)
    truth[:, :80] = 1  # 79 % salt; a two-bin histogram would count the "background class" as 21 % correct
    assert iout(np.zeros_like(truth), truth) == 0
    assert iout(truth, truth) == 1
    assert iout(np.ones_like(truth), truth) == 0.6  # IoU .792


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_agrees_with_fractions(inside, more, other):
    expected = slow_tenths(inside, inside + more, inside + other)
    found = scores_from_counts(np.array([inside]), np.array([inside + more]), np.array([inside + other]))
    assert found.dtype == np.int64
    assert found[0] == expected


def test_every_tie_up_to_a_full_image():
    union = np.arange(20, 10202, 20)
    for step in range(10):
        inside = union // 20 * (10 + step)
        np.testing.assert_array_equal(scores_from_counts(inside, inside, union), step)
        np.testing.assert_array_equal(scores_from_counts(inside + 1, inside + 1, union), step + 1)


def test_small_integers_do_not_overflow():
    assert scores_from_counts(np.uint8(200), np.uint8(250), np.uint8(200)) == 6
    assert scores_from_counts(np.int16(9000), np.int16(9000), np.int16(10000)) == 8


@settings(derandomize=True, deadline=None)
@given(npst.arrays(np.uint8, (2, 3, 4, 5), elements=st.integers(0, 2)))
def test_sets_of_masks(masks):
    predicted, truth = masks
    inside, ours, theirs = counts(predicted, truth)
    tenths, ratios = [], []
    for image in range(3):
        one, other = set(np.flatnonzero(predicted[image])), set(np.flatnonzero(truth[image]))
        assert (inside[image], ours[image], theirs[image]) == (len(one & other), len(one), len(other))
        tenths.append(slow_tenths(len(one & other), len(one), len(other)))
        ratios.append(len(one & other) / len(one | other) if one | other else 1)
    assert iout(predicted, truth) == pytest.approx(np.mean(tenths) / 10)
    assert iou(predicted, truth) == pytest.approx(np.mean(ratios))
    assert [array.dtype for array in (inside, ours, theirs)] == [np.int64] * 3


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="images, height, width"):
        counts(np.zeros((2, 3, 3)), np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="images, height, width"):
        counts(np.zeros((3, 3)), np.zeros((3, 3)))


def test_binarize_does_not_round_the_threshold_to_float16():
    value = np.float16(0.3)  # .30005
    assert not np.array([value]) > 0.3  # numpy 2 converts the Python float to float16 (NEP 50)
    assert binarize(np.array([value]), 0.3).tolist() == [True]
    below = float(np.nextafter(np.float64(value), 0))
    assert binarize(np.array([value]), below).tolist() == [True]
    assert binarize(np.array([value]), float(value)).tolist() == [False]
    single = np.float32(0.3)
    assert binarize(np.array([single]), float(np.nextafter(np.float64(single), 0))).tolist() == [True]


def test_binarize_is_strict():
    found = binarize(np.array([0.0, 0.5, 0.6, 1.0], np.float16), 0.5)
    assert found.dtype == bool
    assert found.tolist() == [False, False, True, True]
    assert not binarize(np.array([1.0]), 1.0).any()
