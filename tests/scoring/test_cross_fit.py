"""Cross-fitting: the parts, the fit that each part is scored with, and the same parts in all four fits."""

from pathlib import Path

import numpy as np
import pytest
from helpers.masks import write_masks, write_packed

from utils.core.errors import UserError
from utils.data.image_classes import NOT_EMPTY, ImageClasses
from utils.masks.mask_file import open_masks
from utils.masks.probability_file import Probabilities
from utils.scoring.class_search import fit_classes
from utils.scoring.cross_fit import CrossFitted, check_files, cross_fit, leave_one_out, partition
from utils.scoring.gate_search import fit_gated
from utils.scoring.instance_search import fit_instances
from utils.scoring.threshold_search import fit_files


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([1], [[0]]),
        ([3], [[0], [1], [2]]),
        ([7], [[0, 5], [1, 6], [2], [3], [4]]),
        ([2, 1, 3], [[0, 1], [2], [3, 4, 5]]),
        ([1] * 6, [[0], [1], [2], [3], [4], [5]]),
    ],
)
def test_each_of_several_files_is_a_part_and_a_single_file_is_interleaved(sizes, parts):
    assert [part.tolist() for part in partition(sizes)] == parts


def test_each_part_is_scored_with_the_fit_on_the_others():
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    parts = partition([7])
    sums = cross_fit(parts, fit=lambda images: values[images].sum(), score=lambda found, images: found + values[images])
    expected = [[values.sum() - values[part].sum() + values[image] for image in part] for part in parts]
    assert [scores.tolist() for scores in sums] == expected
    assert [sorted(others) for others in leave_one_out(partition([2, 1]))] == [[2], [0, 1]]


def test_one_image_has_no_cross_fitted_score():
    assert leave_one_out(partition([1])) == []
    assert cross_fit(partition([1]), fit=lambda images: None, score=lambda found, images: images) == []
    assert CrossFitted.of([]) is None


def test_the_mean_of_integer_scores_with_a_unit():
    cross = CrossFitted.of([np.array([0, 10]), np.array([9])], unit=10)
    assert (cross.score, cross.n_parts) == (19 / 30, 2)
    assert cross.low <= cross.score <= cross.high


@pytest.mark.parametrize(
    ("sizes", "n_parts"), [((1,), None), ((3,), 3), ((11,), 5), ((2, 4), 2), ((1, 1, 1, 1, 1, 1), 6)]
)
def test_all_fits_have_the_same_parts(tmp_path, sizes, n_parts):
    rng = np.random.default_rng(0)
    n_images = sum(sizes)
    ids, labels = [f"i{row}" for row in range(n_images)], np.zeros((n_images, 6, 8), np.uint16)
    labels[::2, 1:4, 2:6] = 1
    write_packed(tmp_path / "data", {"train": (ids, labels != 0, (6, 8))}, labels=labels)
    truths = ImageClasses([NOT_EMPTY], labels.any(axis=(1, 2))[:, None].astype(np.uint8), False)
    masks, probabilities = [], []
    for rows in np.split(np.arange(n_images), np.cumsum(sizes)[:-1]):
        names, about = [ids[row] for row in rows], {"data_dir": str(tmp_path / "data"), "part": "train"}
        path = write_masks(tmp_path / f"v{len(masks)}.npy", names, rng.random((len(rows), 6, 8)), **about)
        masks.append(open_masks(path))
        array = rng.random((len(rows), 1)).astype(np.float32)
        probabilities.append(Probabilities(Path(f"p{len(masks)}.npy"), array, names, [NOT_EMPTY], {}))
    truth_of = dict(zip(ids, truths.matrix, strict=True))
    classes = [
        ImageClasses([NOT_EMPTY], np.stack([truth_of[name] for name in file.ids]), False) for file in probabilities
    ]
    for fit in (
        fit_files(masks, None, ()),
        fit_gated(masks, probabilities, None, ()),
        fit_instances(masks),
        fit_classes(probabilities, classes),
    ):
        assert (fit.cross_fitted and fit.cross_fitted.n_parts) == n_parts


def test_an_image_twice_and_a_file_without_images_are_refused(tmp_path):
    """Mask files and probability files are checked in the same way."""
    files = []
    for name, ids in (("a", ["x", "y"]), ("b", ["z", "y"]), ("twice", ["x", "x"]), ("none", [])):
        files.append(open_masks(write_masks(tmp_path / f"{name}.npy", ids, np.zeros((len(ids), 2, 2)))))
    of_classes = [
        Probabilities(file.path, np.zeros((len(file.ids), 1), np.float32), file.ids, ["c"], {}) for file in files
    ]
    for first, second, twice, none in (files, of_classes):
        check_files([first])
        with pytest.raises(UserError, match=r"--masks_fn: image y is in .*a\.npy and again in .*b\.npy; pass .* folds"):
            check_files([first, second])
        with pytest.raises(UserError, match=r"image x is in .*twice\.npy and again in .*twice\.npy"):
            check_files([twice])
        with pytest.raises(UserError, match=r"none\.npy: holds no images; predict again"):
            check_files([first, none])
