"""Run-lengths: examples, round trips, and every kind of malformed text."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from utils.data import rle

MASKS = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1))


def slow_encode(mask):
    """Encode a mask pixel by pixel, as the competition describes it."""
    height, width = mask.shape
    words, run = [], 0
    for number in range(1, height * width + 1):
        inside = mask[(number - 1) % height, (number - 1) // height]
        if inside:
            if not run:
                words.append(number)
            run += 1
        if run and (not inside or number == height * width):
            words.append(run)
            run = 0
    return " ".join(map(str, words))


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[0, 1], [1, 0], [1, 0]], "2 3"),  # down the first column, then from the top of the second
        ([[1, 0, 1], [0, 0, 1]], "1 1 5 2"),
        ([[0, 0], [0, 0]], ""),
        ([[1, 1], [1, 1]], "1 4"),
        ([[0, 0], [0, 1]], "4 1"),
    ],
)
def test_examples(mask, text):
    mask = np.array(mask)
    assert rle.encode(mask) == text
    decoded = rle.decode(text, mask.shape)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


@settings(derandomize=True, deadline=None)
@given(MASKS)
def test_round_trip_and_slow_reference(mask):
    text = rle.encode(mask)
    assert text == slow_encode(mask)
    np.testing.assert_array_equal(rle.decode(text, mask.shape), mask)
    assert rle.area(text) == mask.sum()


@settings(derandomize=True, deadline=None)
@given(st.lists(npst.arrays(np.uint8, (5, 4), elements=st.integers(0, 1)), max_size=4))
def test_merge_is_the_union(masks):
    union = np.any(masks, axis=0) if masks else np.zeros((5, 4))
    assert rle.merge([rle.encode(mask) for mask in masks]) == rle.encode(union)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float16, np.int64])
def test_nonzero_pixels_are_mask(dtype):
    mask = np.zeros((3, 3), dtype)
    mask[1, 1] = True if dtype is bool else 7
    assert rle.encode(mask) == "5 1"
    assert rle.encode(mask.T[::-1]) == "5 1"  # not contiguous


def test_touching_runs_are_accepted():
    np.testing.assert_array_equal(rle.decode("1 2 3 1", (2, 2)), rle.decode("1 3", (2, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "odd number of values, 3"),
        ("1", "odd number of values, 1"),
        ("1 x", "'x'"),
        ("1.0 2", "'1.0'"),
        ("nan", "'nan'"),
        ("-1 2", "'-1'"),
        ("1 -2", "'-2'"),
        ("\u0661 1", "whole numbers"),
        ("0 2", "expected starts of at least 1, found 0"),
        ("1 0", "expected lengths of at least 1, found 0"),
        ("5 1 1 1", "5 is followed by 1"),
        ("1 1 1 1", "1 is followed by 1"),
        ("1 3 3 1", "overlap"),
        ("12 2", "ends at pixel 13"),
        ("13 1", "has 12"),
        ("1 999999999999999999", "has 12"),
        ("9" * 30 + " 1", "whole numbers"),
        ("[1, 3]", "printed list"),
        ("[]", "printed list"),
        ("[1 3]", "printed list"),
        ("1, 3", "'1,'"),
    ],
)
def test_malformed_run_lengths_are_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        rle.decode(text, (3, 4))
    assert "\n" not in str(caught.value)


def test_an_array_of_three_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 1\)"):
        rle.encode(np.zeros((2, 2, 1)))
