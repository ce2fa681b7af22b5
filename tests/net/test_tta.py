"""Views and their inverses."""

import pytest
import torch

from net.tta import VIEWS, views_by_name
from utils.core.errors import UsageError


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_is_inverted_exactly(name):
    image = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    view = VIEWS[name]
    assert torch.equal(view.undo(view.see(image)), image)
    assert torch.equal(view.see(image), image) == (name == "null")


def test_d4_is_eight_different_views():
    image = torch.rand(1, 1, 6, 6)
    seen = {tuple(view.see(image).flatten().tolist()) for view in views_by_name("d4")}
    assert len(seen) == 8


def test_views_are_listed_by_name_and_unknown_names_are_refused():
    image = torch.rand(1, 1, 4, 4)
    views = views_by_name("null_hflip_vflip")
    assert all(torch.equal(view.see(image), image.flip(axis)) for view, axis in zip(views[1:], (-1, -2), strict=True))
    assert len(views) == 3
    with pytest.raises(UsageError, match=r"--tta hflop.*did you mean hflip"):
        views_by_name("null_hflop")
    with pytest.raises(UsageError, match=r"--tta d5.*d4"):
        views_by_name("d5")
