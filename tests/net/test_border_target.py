"""Border targets: compared with their definition pixel by pixel, and never on the image frame."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from net.batch_augmentation import BatchChange
from net.border_target import border_of

BORDERS = ("outline", "touching", "both")


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
@given(st.data(), st.sampled_from(BORDERS), st.integers(1, 3), st.sampled_from([torch.uint8, torch.int32]))
def test_the_border_matches_its_definition(data, kind, width, dtype):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    pixels = data.draw(st.lists(st.sampled_from([0, 0, 1, 2, 200]), min_size=shape[0] * shape[1], max_size=81))
    objects = torch.tensor(pixels[: shape[0] * shape[1]], dtype=dtype).view(1, 1, *shape)
    found = border_of(objects, kind, width)
    assert found.dtype == torch.uint8
    assert np.array_equal(found[0, 0], by_definition(objects[0, 0].numpy(), kind, width))


def test_two_squares_that_touch_have_a_border_between_them_on_both_sides():
    objects = torch.zeros(1, 1, 6, 8, dtype=torch.int32)
    objects[..., 1:5, 1:4], objects[..., 1:5, 4:7] = 1, 2
    touching = border_of(objects, "touching", 1)
    assert touching[0, 0, 2].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    outline = border_of(objects, "outline", 1)
    assert outline[0, 0, 2].tolist() == [0, 1, 0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("kind", BORDERS)
def test_the_image_frame_is_not_a_border(kind):
    assert not border_of(torch.ones(1, 1, 5, 7, dtype=torch.uint8), kind, 2).any()
    half = torch.zeros(2, 1, 6, 6, dtype=torch.uint8)
    half[1, :, :3] = 1
    assert border_of(half, "outline", 1).sum(dim=3).tolist() == [[[0] * 6], [[0, 0, 6, 0, 0, 0]]]
    assert not border_of(half, "touching", 3).any()


def test_a_change_of_the_scale_keeps_label_maps_whole_and_borders_closed():
    """Two halves that touch are seen at half the scale: their border keeps its width, in every row."""
    objects = torch.full((1, 1, 32, 32), 300, dtype=torch.int32)
    objects[..., 16:] = 70
    half = BatchChange().draw()[None]
    half[:, :6] = [2, 0, 0, 0, 2, 0]
    images = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    seen = BatchChange().apply(images, objects, torch.from_numpy(half))[1]
    assert set(seen.unique().tolist()) == {70, 300}
    border = border_of(seen, "touching", 1)
    assert (border[..., 8:24, 12:20].sum(dim=3) == 2).all()
