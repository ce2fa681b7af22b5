"""Post-processing: each rule on a hand-made mask, the order of the rules, and their effect on the submission."""

import re

import numpy as np
import pytest
from helpers.masks import submit, write_masks, write_packed
from helpers.scripts import assert_refused, run_here

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.prediction_settings import RuleSettings, SubmissionSettings
from utils.core.tables import read_table
from utils.data import rle
from utils.masks import postprocessing as crf
from utils.masks.mask_file import open_masks
from utils.masks.postprocessing import clean_instances, clean_mask, constant_images, largest_instances

RING = """
.......
.###...
.#.#.#.
.###...
.....##
"""


def drawn(text):
    """Convert a drawing to integers (H, W): a dot is 0, # is 1, a digit is itself."""
    return np.array(
        [[{".": 0, "#": 1}.get(sign) or int(sign.replace(".", "0")) for sign in row] for row in text.split()]
    )


def rows_of(folder, probabilities, images=None, gated_out=(), **flags):
    """Submit masks (N, H, W) of ids a, b, ... with these flags and return the cells by id; `objects` is a flag too."""
    ids = list("abcdef"[: len(probabilities)])
    write_packed(folder / "data", {"test": (ids, None, probabilities.shape[1:])})
    if images is not None:
        np.save(folder / "data" / "test_images.npy", images)
        manifest = read_json(folder / "data" / "manifest.json")
        manifest["parts"]["test"]["arrays"]["images"]["shape"] = list(images.shape)
        write_json(folder / "data" / "manifest.json", manifest)
    path = write_masks(folder / "m.npy", ids, np.float32(probabilities), data_dir=str(folder / "data"), part="test")
    chosen = SubmissionSettings(submission_dir=str(folder / "subs"), objects=flags.pop("objects", False))
    written = submit(open_masks(path), chosen, RuleSettings(**flags), [folder], None, gated_out)
    cells = {}
    for name, cell in zip(*read_table(written).values(), strict=True):
        cells.setdefault(name, []).append(cell)
    return cells


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (RuleSettings(), RING),
        (RuleSettings(fill_holes=True), ".......\n.###...\n.###.#.\n.###...\n.....##"),
        (RuleSettings(keep_largest=1), ".......\n.###...\n.#.#...\n.###...\n......."),
        (RuleSettings(keep_largest=2), ".......\n.###...\n.#.#...\n.###...\n.....##"),
        (RuleSettings(keep_largest=9, full_is_empty=True), RING),
        (RuleSettings(keep_largest=1, fill_holes=True), ".......\n.###...\n.###...\n.###...\n......."),
    ],
)
def test_rules_for_masks(rules, expected):
    mask = clean_mask(drawn(RING) > 0, rules)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, drawn(expected))


def test_a_full_mask():
    assert clean_mask(np.ones((3, 4), bool), RuleSettings()).all()
    assert clean_instances(np.ones((3, 4), np.uint16), RuleSettings()).all()
    assert not clean_mask(np.ones((3, 4), bool), RuleSettings(full_is_empty=True)).any()
    frame = np.ones((3, 4), bool)
    frame[1, 1] = False
    assert not clean_mask(frame, RuleSettings(full_is_empty=True, fill_holes=True)).any()  # holes are filled first
    np.testing.assert_array_equal(clean_mask(frame, RuleSettings(full_is_empty=True)), frame)
    assert not clean_instances(np.array([[1, 1], [2, 2]], np.uint16), RuleSettings(full_is_empty=True)).any()
    assert not clean_mask(np.zeros((3, 4), bool), RuleSettings(keep_largest=1, fill_holes=True)).any()


def test_the_largest_objects_are_kept_and_renumbered():
    labels = drawn("11.333\n...333\n2..4.5\n2..445").astype(np.uint16)
    np.testing.assert_array_equal(largest_instances(labels, 2), drawn("...111\n...111\n...2..\n...22."))
    np.testing.assert_array_equal(
        largest_instances(labels, 3), drawn("11.222\n...222\n...3..\n...33.")
    )  # of equally large objects the first is kept
    np.testing.assert_array_equal(clean_instances(labels, RuleSettings(keep_largest=5)), labels)
    assert clean_instances(labels, RuleSettings(keep_largest=1)).dtype == np.uint16


def test_min_area_is_counted_before_holes_are_filled(tmp_path):
    masks = np.stack([drawn(RING)] * 2)  # 8 + 1 + 2 pixels
    masks[1, 1] = 0
    filled = rle.encode(drawn(".......\n.###...\n.###.#.\n.###...\n.....##"))
    cells = rows_of(tmp_path, masks, min_area=11, fill_holes=True)
    assert cells == {"a": [filled], "b": [""]}
    assert rows_of(tmp_path, masks, min_area=12, fill_holes=True) == {"a": [""], "b": [""]}


def test_rules_for_objects(tmp_path):
    masks = drawn(RING)[None]
    ring, dot, pair = (rle.encode(part) for part in (drawn(RING) * [1, 1, 1, 1, 1, 0, 0], *one_by_one()))
    assert rows_of(tmp_path, masks, objects=True) == {"a": [ring, dot, pair]}
    assert rows_of(tmp_path, masks, objects=True, min_area=2) == {"a": [ring, pair]}
    assert rows_of(tmp_path, masks, objects=True, keep_largest=1) == {"a": [ring]}
    assert rows_of(tmp_path, masks, objects=True, min_area=10) == {"a": [""]}
    write_json(tmp_path / "objects.json", {"th": 0.5, "seed_th": 0.5, "min_area": 9, "fill_holes": True})
    filled = rle.encode(drawn(".......\n.###...\n.###...\n.###...\n......."))
    assert rows_of(tmp_path, masks, objects=True) == {"a": [filled]}  # holes are filled before pixels are counted
    assert rows_of(tmp_path, masks, objects=True, min_area=0, fill_holes=False) == {"a": [ring, dot, pair]}


def one_by_one():
    dot, pair = np.zeros((2, 5, 7))
    dot[2, 5], pair[4, 5:] = 1, 1
    return dot, pair


@pytest.mark.parametrize("channels", [1, 3])
def test_constant_images_and_the_gate(tmp_path, capsys, channels):
    images = np.full((4, 5, 7, channels), 80, np.uint8)
    images[1, 0, 0], images[2, -1, -1, -1] = 81, 79
    assert constant_images([0, 1, 2, 3], images.__getitem__) == {0, 3}
    masks = np.stack([drawn(RING)] * 4)
    cell = rle.encode(masks[0])
    assert rows_of(tmp_path, masks, images) == {name: [cell] for name in "abcd"}
    capsys.readouterr()
    found = rows_of(tmp_path, masks, images, constant_is_empty=True, gated_out=["c", "d", "of another set"])
    assert found == {"a": [""], "b": [cell], "c": [""], "d": [""]}
    assert "2 images by the gate, 1 more of one single colour" in capsys.readouterr().out
    found = rows_of(tmp_path, masks, images, constant_is_empty=True, objects=True, gated_out=["c"])
    assert [len(rows) for rows in found.values()] == [1, 3, 1, 1]
    assert not np.load(tmp_path / "m_labels.npy")[[0, 2, 3]].any()


def test_full_masks_in_a_submission(tmp_path):
    masks = np.ones((2, 5, 7))
    masks[1, 0, 0] = 0
    for objects in (False, True):
        assert rows_of(tmp_path, masks, full_is_empty=True, objects=objects) == {"a": [""], "b": ["2 34"]}


def test_a_rule_that_looks_at_images_needs_them(tmp_path):
    path = write_masks(tmp_path / "m.npy", ["a"], np.ones((1, 5, 7), np.float32), data_dir="gone", part="test")
    rules, chosen = RuleSettings(constant_is_empty=True), SubmissionSettings(submission_dir=str(tmp_path / "subs"))
    with pytest.raises(UserError, match=r"--constant_is_empty: needs the packed images, but found none; .* --data_dir"):
        submit(open_masks(path), chosen, rules, [])
    write_packed(tmp_path / "data", {"test": (["b"], None, (5, 7))})
    with pytest.raises(UserError, match=r"lacks 1 images of .* \(such as a\)"):
        submit(open_masks(path), chosen, rules, [], tmp_path / "data")


def test_crf_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(crf, "find_spec", lambda name: None)
    write_masks(tmp_path / "m.npy", ["a"], np.ones((1, 5, 7), np.float32), data_dir="gone", part="test")
    done = run_here("predict_fold_avg.py", "m.npy", "--masks_fn", "x.npy", "--crf", cwd=tmp_path)
    assert_refused(done, 2, "--crf", "run: make crf")
    assert not (tmp_path / "x.npy").exists()


def test_crf_follows_the_edges_of_the_image(tmp_path):
    pytest.importorskip("pydensecrf")
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:101, :101]
    truth, shifted = np.hypot(down - 50, across - 50) < 30, np.hypot(down - 54, across - 50) < 30
    image = (60 + 120 * truth + rng.normal(0, 10, truth.shape)).clip(0, 255).astype(np.uint8)[..., None]
    probabilities = np.clip(0.5 + 0.3 * (2.0 * shifted - 1) + rng.normal(0, 0.15, truth.shape), 0, 1).astype(np.float16)

    def overlap(mask):
        return np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth)

    found = crf.refined(probabilities, image)
    assert (found.shape, found.dtype) == (truth.shape, np.float32)
    assert 0 <= found.min() <= found.max() <= 1
    assert overlap(probabilities > 0.5) < 0.85
    assert overlap(found > 0.5) > 0.97
    np.testing.assert_allclose(crf.refined(probabilities, np.repeat(image, 3, axis=2)), found, atol=1e-6)
    (cell,) = rows_of(tmp_path, probabilities[None], image[None], crf=True)["a"]
    np.testing.assert_array_equal(rle.decode(cell, (101, 101)), found > 0.5)
    with pytest.raises(ValueError, match=re.escape("an image of 101x101, the size of its mask, found 100x101")):
        crf.refined(probabilities, image[1:])
