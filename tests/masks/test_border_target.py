"""Border targets: compared with their definition pixel by pixel, and never on the image frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.masks.border_target import BORDERS, border_of


def by_definition(objects, kind, width):
    """Return the border by comparing every pixel with all pixels within `width` king's moves."""
    height, wide = objects.shape
    border = np.zeros(objects.shape, np.uint8)
    for row in range(height):
        for column in range(wide):
            around = objects[max(0, row - width) : row + width + 1, max(0, column - width) : column + width + 1].ravel()
            here = objects[row, column]
            rim = here != 0 and (around != here).any()
            between = len(set(around.tolist()) - {0}) > 1
            border[row, column] = {"outline": rim, "touching": between, "both": rim or between}[kind]
    return border


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.data(), st.sampled_from(BORDERS), st.integers(1, 3), st.sampled_from([np.uint8, np.uint16]))
def test_the_border_matches_its_definition(data, kind, width, dtype):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    pixels = data.draw(st.lists(st.sampled_from([0, 0, 1, 2, 200]), min_size=shape[0] * shape[1], max_size=81))
    objects = np.array(pixels[: shape[0] * shape[1]], dtype).reshape(shape)
    assert np.array_equal(border_of(objects, kind, width), by_definition(objects, kind, width))


def test_two_squares_that_touch_have_a_border_between_them_on_both_sides():
    objects = np.zeros((6, 8), np.uint16)
    objects[1:5, 1:4], objects[1:5, 4:7] = 1, 2
    touching = border_of(objects, "touching", 1)
    assert touching[2].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    outline = border_of(objects, "outline", 1)
    assert outline[2].tolist() == [0, 1, 0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("kind", BORDERS)
def test_the_image_frame_is_not_a_border(kind):
    assert not border_of(np.ones((5, 7), np.uint8), kind, 2).any()
    half = np.zeros((6, 6), np.uint8)
    half[:3] = 1
    assert border_of(half, "outline", 1).sum(axis=1).tolist() == [0, 0, 6, 0, 0, 0]
    assert not border_of(half, "touching", 3).any()
