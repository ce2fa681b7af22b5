"""Instances from probabilities: cases worked out by hand, and properties of random images."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from utils.masks.instances import (
    InstanceRules,
    connected_components,
    fill_instance_holes,
    label_instances,
    window_around,
)

VALUES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1, width=16)
DTYPES = st.sampled_from([np.float16, np.float32, np.float64])


def picture(*rows):
    """Convert characters to numbers; "." is 0."""
    return np.array([[0 if letter == "." else int(letter) for letter in row] for row in rows])


def pair_of(mask_rows, border_rows):
    """Convert digits (tenths) to mask and border probabilities, float16."""
    return tuple((picture(*rows) / 10).astype(np.float16) for rows in (mask_rows, border_rows))


TOUCHING = pair_of(
    ["..........", ".99999999.", ".99999999.", ".........."],
    ["..........", "....55....", "....55....", ".........."],
)


def test_the_border_separates_touching_objects():
    mask, border = TOUCHING
    assert label_instances(mask, None, InstanceRules()).max() == 1
    labels = label_instances(mask, border, InstanceRules())
    assert labels.dtype == np.uint16
    # the seeds (.9) are on both sides of the border (.9 - .5); the watershed gives each seed the half next to it
    np.testing.assert_array_equal(
        labels, picture("..........", ".11112222.", ".11112222.", "..........").astype(np.uint16)
    )
    assert label_instances(mask, border, InstanceRules(seed_th=0.35)).max() == 1


def test_the_objects_meet_where_the_border_is_highest():
    mask, border = pair_of(["9999999999"], ["..5566789."])  # seeds left and right, the ridge next to the right one
    labels = label_instances(mask, border, InstanceRules())[0].tolist()
    assert labels[:8] == [1] * 8
    assert labels[9] == 2


def test_a_component_without_a_seed_is_one_object():
    mask, border = pair_of(["99.66.99"], ["...66..."])  # the middle is all border
    assert label_instances(mask, border, InstanceRules()).tolist() == [[1, 1, 0, 2, 2, 0, 3, 3]]
    assert label_instances(mask, border, InstanceRules(seed_th=1.0)).tolist() == [[1, 1, 0, 2, 2, 0, 3, 3]]


def test_a_seed_outside_the_mask_joins_nothing():
    rules = InstanceRules(th=0.6, seed_th=0.4)
    assert label_instances(*pair_of(["88588"], ["....."]), rules).tolist() == [[1, 1, 0, 2, 2]]
    legs = pair_of(["858", "858", "999"], ["...", "...", ".9."])  # two legs, joined only by border at the bottom
    labels = label_instances(*legs, rules)
    assert (labels[:2, 0].tolist(), labels[:2, 2].tolist(), labels.max()) == ([1, 1], [2, 2], 2)


def test_corners_do_not_join():
    mask, border = pair_of(["9.", ".9"], ["..", ".."])
    assert label_instances(mask, None, InstanceRules()).tolist() == [[1, 0], [0, 2]]
    assert label_instances(mask, border, InstanceRules()).tolist() == [[1, 0], [0, 2]]


def test_strictly_greater_and_exact():
    low = np.float16(0.3)  # slightly above .3, but a float16 comparison would treat the two as equal
    mask = np.array([[low, 0, np.nextafter(low, np.float16(1))]])
    assert label_instances(mask, None, InstanceRules(th=0.3)).tolist() == [[1, 0, 2]]
    assert label_instances(mask, None, InstanceRules(th=float(low))).tolist() == [[0, 0, 1]]
    half = np.array([[1, 1, 1]], np.float16), np.array([[0, 0.5, 0]], np.float16)
    assert label_instances(*half, InstanceRules(seed_th=0.5)).max() == 2  # 1 - .5 is not above .5
    assert label_instances(*half, InstanceRules(seed_th=0.499)).max() == 1
    # in float16 both 1 - 2^-12 and 1 - 2^-24 would be 1
    close = np.array([[1, 1, 1]], np.float16), np.array([[2**-24, 2**-12, 2**-24]], np.float16)
    assert label_instances(*close, InstanceRules(seed_th=1 - 2**-13)).max() == 2


def test_small_objects_are_removed_and_numbers_have_no_gap():
    mask = picture("9.99.9.999") / 10
    assert label_instances(mask, None, InstanceRules(min_area=2)).tolist() == [[0, 0, 1, 1, 0, 0, 0, 2, 2, 2]]
    assert label_instances(mask, None, InstanceRules(min_area=3)).sum() == 3
    assert label_instances(mask, None, InstanceRules(min_area=4)).sum() == 0


def test_holes():
    labels = picture(
        "111.222.",
        "1.1.2.2.",  # one hole, and background that reaches the frame through the gap below
        "111.2.2.",
        "........",
        "1114442.",
        "1.1..42.",  # a hole in 1, and background between 1 and 4 that reaches the frame
        "1114442.",
    )
    filled = fill_instance_holes(labels)
    expected = labels.copy()
    expected[1, 1] = expected[5, 1] = 1
    np.testing.assert_array_equal(filled, expected)
    assert fill_instance_holes(filled) is filled
    nested = picture("11111", "1...1", "1.2.1", "1...1", "11111")
    assert fill_instance_holes(nested) is nested  # an object inside the hole keeps the hole open


def test_holes_are_filled_before_pixels_are_counted():
    mask = picture("999", "9.9", "999") / 10
    assert label_instances(mask, None, InstanceRules(min_area=9)).sum() == 0
    assert label_instances(mask, None, InstanceRules(min_area=9, fill_holes=True)).sum() == 9


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data(), DTYPES, VALUES, VALUES, st.integers(0, 4), st.booleans())
def test_properties_of_random_images(data, dtype, th, seed_th, min_area, fill_holes):
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    mask, border = (data.draw(npst.arrays(dtype, shape, elements=VALUES.map(dtype))) for _ in range(2))
    before = mask.copy(), border.copy()
    inside = mask.astype(np.float64) > th
    # without a border the objects are the connected components
    labels = label_instances(mask, None, InstanceRules(th, seed_th))
    np.testing.assert_array_equal(labels, ndimage.label(inside)[0])
    grown = label_instances(mask, border, InstanceRules(th, seed_th))
    np.testing.assert_array_equal(grown != 0, inside)  # no pixel is lost or added
    seeds = ((mask.astype(np.float32) - border.astype(np.float32)).astype(np.float64) > seed_th) & inside
    seed_of, n_seeds = ndimage.label(seeds)
    component_of, n_components = ndimage.label(inside)
    without_seed = n_components - len(np.unique(component_of[seeds]))
    assert grown.max() == n_seeds + without_seed
    for number in range(1, n_seeds + 1):
        assert len(np.unique(grown[seed_of == number])) == 1
    cleaned = label_instances(mask, border, InstanceRules(th, seed_th, min_area, fill_holes))
    numbers, areas = np.unique(cleaned[cleaned != 0], return_counts=True)
    assert numbers.tolist() == list(range(1, len(numbers) + 1))
    assert areas.min(initial=min_area) >= min_area
    for number in numbers:
        assert ndimage.label(cleaned == number)[1] == 1  # each object is connected
    if not fill_holes:
        kept = [number for number in range(1, grown.max() + 1) if (grown == number).sum() >= min_area]
        np.testing.assert_array_equal(cleaned, rank_of(kept)[grown])
    np.testing.assert_array_equal(mask, before[0])
    np.testing.assert_array_equal(border, before[1])


def rank_of(kept):
    """Return an array that maps an old number to its place in `kept`, counted from 1; 0 if it is not kept."""
    ranks = np.zeros(200, int)
    ranks[kept] = np.arange(1, len(kept) + 1)
    return ranks


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.tuples(st.integers(3, 8), st.integers(3, 8)).flatmap(lambda s: npst.arrays(bool, s)))
def test_one_object_is_filled_as_scipy_fills_it(inside):
    labels = ndimage.label(inside)[0]
    alone = np.where(labels == 1, 1, 0)
    np.testing.assert_array_equal(fill_instance_holes(alone) != 0, ndimage.binary_fill_holes(alone))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.6, 1.0])
def test_components_of_large_images_are_those_of_scipy(share):
    mask = np.random.default_rng(1).random((700, 900)) < share
    for one in (mask, mask[::2, 1:]):
        labels, count = connected_components(one)
        expected, number = ndimage.label(one)
        assert count == number
        np.testing.assert_array_equal(labels, expected)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(lambda s: npst.arrays(bool, s)))
def test_nothing_changes_outside_the_window_around_an_object(inside):
    labels, window = connected_components(inside)[0], window_around(inside)
    assert inside[window].sum() == inside.sum()
    assert inside[window].any(axis=0)[[0, -1]].all() or not inside.any()
    assert inside[window].any(axis=1)[[0, -1]].all() or not inside.any()
    filled = np.zeros_like(labels)
    filled[window] = fill_instance_holes(labels[window])
    np.testing.assert_array_equal(filled, fill_instance_holes(labels))


def test_wrong_shapes_and_too_many_objects_are_refused():
    with pytest.raises(ValueError, match="a border of the same shape"):
        label_instances(np.zeros((2, 3)), np.zeros((3, 2)), InstanceRules())
    with pytest.raises(ValueError, match="height, width"):
        label_instances(np.zeros((1, 2, 3)), None, InstanceRules())
    board = (np.add.outer(np.arange(400), np.arange(400)) % 2).astype(np.float16)
    with pytest.raises(ValueError, match="65535 objects in an image, found 80000"):
        label_instances(board, None, InstanceRules())
    assert label_instances(board, None, InstanceRules(min_area=2)).max() == 0


def calls_of(function, *values):
    """Return the number of Python and C function calls that `function(*values)` makes, and its result."""
    n_calls = 0

    def count(_frame, event, _function):
        nonlocal n_calls
        n_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = function(*values)
    finally:
        sys.setprofile(None)
    return n_calls, found


def test_all_objects_are_found_at_once():
    """The number of calls does not grow with the number of objects, so they are not processed one by one."""
    rules, n_calls, n_objects = InstanceRules(0.5, 0.3, 10, True), {}, {}
    for side in (64, 64, 256):  # the first call also counts imports, so it is repeated
        down, across = np.mgrid[:side, :side] % 36 - 18
        outside = np.hypot(down, across)
        mask, border = 1 / (1 + np.exp((outside - 19) / 2)), np.exp(-((outside - 18) ** 2) / 4)
        mask, border = mask.astype(np.float16), border.astype(np.float16)
        n_calls[side], labels = calls_of(label_instances, mask, border, rules)
        n_objects[side] = int(labels.max())
    more = n_objects[256] - n_objects[64]
    assert more >= 40
    assert n_calls[256] - n_calls[64] < more
