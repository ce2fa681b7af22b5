"""The exact threshold search: compared with brute force, its interval, and the cross-fit by hand."""

from itertools import pairwise

import numpy as np
import pytest
from helpers.masks import blobs, every_threshold, score_at
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.masks.mask_file import binarize
from utils.scoring.bootstrap import mean_interval
from utils.scoring.mask_metrics import counts, scores_from_counts
from utils.scoring.threshold_search import best, best_joint, cross_fit_threshold, join, select, steps_of


def problems(dtype):
    """Return a strategy for a few small images: probabilities with many ties, and masks, some of them empty."""
    values = st.sampled_from([0.0, -0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1, width=16)
    return st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            npst.arrays(dtype, (n, 3, 4), elements=values.map(dtype)),
            npst.arrays(np.uint8, (n, 3, 4), elements=st.integers(0, 1)),
        )
    )


def check_against_brute_force(probabilities, truth, min_area):
    steps = steps_of(probabilities, truth, (min_area,))[min_area]
    found = best(steps, min_area)
    scores = {th: score_at(probabilities, truth, th, min_area) for th in every_threshold(probabilities)}
    for th, score in scores.items():
        assert steps.tenths_at(th).sum() == round(10 * len(truth) * score)
    assert found.score == max(scores.values())
    # the interval and its ends
    assert 0 <= found.low <= found.threshold <= found.high <= 1
    for th in (found.low, found.threshold, np.nextafter(found.high, 0) if found.high > found.low else found.low):
        assert score_at(probabilities, truth, th, min_area) == found.score
    assert (found.threshold < found.high) or found.low == found.high == 1
    if found.low > 0:
        assert score_at(probabilities, truth, np.nextafter(found.low, 0), min_area) < found.score
    at_high = score_at(probabilities, truth, found.high, min_area)
    assert at_high < found.score or found.high == 1
    # it is the widest interval, and the lowest one if several are equally wide
    widths, start = [], None
    for th, following in zip(scores, [*list(scores)[1:], 1.0], strict=True):
        start = (th if start is None else start) if scores[th] == found.score else None
        if start is not None:
            widths.append((following - start, -start))
    assert (found.high - found.low, -found.low) == max(widths)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems(np.float16), st.sampled_from([0, 3]))
def test_float16_against_brute_force(problem, min_area):
    check_against_brute_force(*problem, min_area)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems(np.float32) | problems(np.float64), st.sampled_from([0, 3]))
def test_wider_floats_against_brute_force(problem, min_area):
    check_against_brute_force(*problem, min_area)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blobs_against_brute_force(dtype):
    probabilities, truth = blobs(12)
    check_against_brute_force(probabilities.astype(dtype)[:, ::2, ::2], truth[:, ::2, ::2], 0)


def test_a_threshold_that_no_grid_finds():
    """The only good threshold is between two neighbouring float16 values, and a float16 comparison would miss it."""
    low = np.float16(0.3)
    high = np.nextafter(low, np.float16(1))
    probabilities = np.array([[[low, low, high, high]]], np.float16)
    found = best(steps_of(probabilities, np.array([[[0, 0, 1, 1]]]))[0])
    assert (found.low, found.high, found.score) == (float(low), float(high), 1.0)
    assert score_at(probabilities, np.array([[[0, 0, 1, 1]]]), found.threshold) == 1


def test_neighbouring_doubles_have_no_middle():
    low, truth = 0.3, np.array([[[0, 1]]])
    probabilities = np.array([[[low, np.nextafter(low, 1)]]])
    found = best(steps_of(probabilities, truth)[0])
    assert found.threshold == low
    assert score_at(probabilities, truth, found.threshold) == found.score == 1


def test_of_equally_good_intervals_the_widest_then_the_lowest():
    # one pixel of truth: an image is right while the mask is that pixel only
    truth = np.array([[[1, 0]]] * 2)
    wide = np.array([[[0.9, 0.5]], [[0.4, 0.2]]])  # good in [.5, .9) and in [.2, .4)
    found = best(steps_of(wide, truth)[0])
    assert (found.low, found.high, found.threshold) == (0.5, 0.9, 0.7)
    equal = np.array([[[0.75, 0.5]], [[0.375, 0.125]]])
    assert best(steps_of(equal, truth)[0]).low == 0.125


def test_changes_that_cancel_do_not_cut_the_interval():
    truth = np.array([[[1, 0]]] * 2)
    probabilities = np.array([[[0.5, 0.25]], [[0.75, 0.5]]])  # at .5 one image becomes wrong and the other right
    found = best(steps_of(probabilities, truth)[0])
    assert (found.low, found.high) == (0.25, 0.75)


def test_for_empty_truth_the_best_threshold_is_1():
    probabilities = np.full((2, 2, 2), 1.0, np.float16)
    found = best(steps_of(probabilities, np.zeros((2, 2, 2)))[0])
    assert (found.threshold, found.low, found.high, found.score) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("value", [np.nan, -0.5, 1.5, np.inf])
def test_values_that_are_not_probabilities_are_refused(value):
    probabilities = np.full((3, 2, 2), 0.5, np.float16)
    probabilities[1, 0, 0] = value
    with pytest.raises(ValueError, match="row 1"):
        steps_of(probabilities, np.zeros((3, 2, 2)))


def test_different_shapes_of_mask_and_truth_are_refused():
    with pytest.raises(ValueError, match="row 0"):
        steps_of(np.zeros((1, 2, 2)), np.zeros((1, 2, 3)))


def test_min_area_is_searched_jointly():
    # a speck of 2 pixels on an empty image has a higher probability than the real mask of the other image, so no
    # threshold alone is right
    probabilities, truth = np.full((2, 5, 5), 0.1), np.zeros((2, 5, 5))
    probabilities[0, 0, :2], probabilities[1, :3] = 0.9, 0.6
    truth[1, :3] = 1
    by_area = steps_of(probabilities, truth, (0, 3, 5))
    assert best(by_area[0]).score == 0.5
    found = best_joint(by_area)
    assert (found.min_area, found.score) == (3, 1.0)  # 5 would do as well
    assert score_at(probabilities, truth, found.threshold, 3) == 1
    assert score_at(probabilities, truth, found.threshold) == 0.5


@settings(derandomize=True, deadline=None, max_examples=40)
@given(problems(np.float16), st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_selected_parts_and_their_join_equal_the_steps_of_all_images(problem, n_parts, th):
    whole = steps_of(*problem, (0, 3))
    expected = scores_from_counts(*counts(binarize(problem[0], th), problem[1]))
    np.testing.assert_array_equal(whole[0].tenths_at(th), expected)
    images = np.arange(len(problem[0]))
    parts = [select(whole, images[start::n_parts]) for start in range(n_parts)]
    assert [part[3].n_images for part in parts] == [len(images[start::n_parts]) for start in range(n_parts)]
    for start, part in enumerate(parts):
        np.testing.assert_array_equal(part[0].tenths_at(th), expected[start::n_parts])
    np.testing.assert_array_equal(
        join(parts)[0].tenths_at(th), np.concatenate([expected[start::n_parts] for start in range(n_parts)])
    )


def tenths_of(parts):
    """Return the cross-fitted tenths of all images; `parts` are the steps of each part."""
    ends = np.cumsum([0, *(part[0].n_images for part in parts)])
    return np.concatenate(cross_fit_threshold(join(parts), [np.arange(*ends) for ends in pairwise(ends)]))


def test_cross_fit_by_hand():
    """Each image is right in its own interval only, so a threshold fitted on the other one is wrong on it."""
    truth = np.array([[[1, 0]]])
    first, second = np.array([[[0.25, 0.125]]]), np.array([[[0.75, 0.5]]])
    parts = [steps_of(first, truth), steps_of(second, truth)]
    # part 0 is scored at (.5 + .75) / 2, where nothing is predicted, so it gets 0
    # part 1 is scored at (.125 + .25) / 2, where both pixels are predicted and the IoU is .5, so it gets 0
    assert tenths_of(parts).tolist() == [0, 0]
    assert best(join(parts)[0]).score == 0.5  # the score that a fit on the same images would claim
    third = np.array([[[0.75, 0.0625]]])  # right in [.0625, .75)
    parts = [steps_of(image, truth) for image in (first, second, third)]
    # part 0: the others are both right in [.5, .75), where part 0 predicts nothing and gets 0
    # part 1: the others are both right in [.125, .25), where part 1 predicts both pixels and gets 0
    # part 2: the others are never both right, and the wider interval is [.5, .75), where part 2 is right
    assert tenths_of(parts).tolist() == [0, 0, 10]


def test_cross_fit_takes_the_area_from_the_others():
    speck, truth = np.full((1, 5, 5), 0.1), np.zeros((1, 5, 5))
    speck[0, 0, :2] = 0.9
    real = np.full((1, 5, 5), 0.1)
    real[0, :3] = 0.6
    both = np.concatenate([speck, real]), np.concatenate([truth, real > 0.5])
    parts = [steps_of(*both, (0, 3)), steps_of(speck, truth, (0, 3))]
    assert tenths_of(parts)[2] == 10  # masks under 3 pixels are emptied, which is best for part 0
    assert tenths_of([{0: part[0]} for part in parts])[2] == 0


def test_bootstrap():
    tenths = np.random.default_rng(0).integers(0, 11, 400)
    low, high = mean_interval(tenths / 10)
    spread = 1.96 * tenths.std() / 10 / np.sqrt(400)
    assert low == pytest.approx(tenths.mean() / 10 - spread, abs=0.004)
    assert high == pytest.approx(tenths.mean() / 10 + spread, abs=0.004)
    assert mean_interval(tenths / 10) == (low, high)


def test_bootstrap_of_any_scores():
    scores = np.random.default_rng(0).beta(2, 5, 300)
    drawn = np.random.default_rng(1).choice(scores, (4000, 300)).mean(axis=1)  # resamples image by image
    assert mean_interval(scores) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.003)
    assert mean_interval(scores) == mean_interval(scores[::-1])
    assert mean_interval(np.full(3, 0.25)) == (0.25, 0.25)
