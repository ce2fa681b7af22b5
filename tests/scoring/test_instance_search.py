"""Rules for objects fitted on mask files: compared with direct scoring, the cross-fit, the command line, the truth."""

from itertools import product

import numpy as np
import pytest
from helpers.masks import files_in, write_masks, write_packed
from helpers.scripts import assert_refused, run_here, succeed
from helpers.sources import SIZE, dsb2018

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.data.rle import encode
from utils.masks.ground_truth import true_instances
from utils.masks.instances import InstanceRules, label_instances
from utils.masks.mask_file import open_masks
from utils.scoring import instance_search as module
from utils.scoring.instance_metrics import INSTANCE_METRICS, match_counts
from utils.scoring.instance_search import Found, fit_instances, search
from utils.scoring.stored_thresholds import read_instance_rules

SCRIPT = "optimize_threshold.py"
SHAPE = (20, 24)


def cells(n_images, seed=0, inside=0.7, noise=0.08):
    """Return (planes float16 (N, 2, H, W), labels).

    The images have rectangles cut in two by a border, and a speck; every fourth image is empty.
    """
    rng = np.random.default_rng(seed)
    planes, labels = np.zeros((n_images, 2, *SHAPE)), np.zeros((n_images, *SHAPE), np.uint16)
    for image in range(n_images):
        planes[image, 0] = 0.15
        if image % 4 == 3:
            continue
        for number, left in ((1, 1), (3, 13)):
            top, height, cut = rng.integers(1, 6), rng.integers(6, 13), left + rng.integers(4, 7)
            rows = slice(top, top + height)
            labels[image, rows, left:cut], labels[image, rows, cut : left + 10] = number, number + 1
            planes[image, 0, rows, left : left + 10] = inside
            planes[image, 1, rows, cut - 1 : cut + 1] = 0.6
        planes[image, 0, 19, 20:22] = inside  # a speck
    planes = np.clip(planes + rng.normal(0, noise, planes.shape), 0, 1).astype(np.float16)
    return planes, labels


def files_of(folder, *sets):
    """Return an opened mask file for each (planes, labels); the packed folder `data` has the truth."""
    labels = np.concatenate([labels for _, labels in sets])
    ids = [f"image{number}" for number in range(len(labels))]
    write_packed(folder / "data", {"train": (ids, labels != 0, SHAPE)}, labels=labels)
    files, start = [], 0
    for number, (planes, _) in enumerate(sets):
        mine = ids[start : start + len(planes)]
        about = {"data_dir": str(folder / "data"), "part": "train"}
        files.append(open_masks(write_masks(folder / f"v{number}.npy", mine, planes, **about)))
        start += len(planes)
    return files


def scores_of(planes, labels, rules, metric="dsb2018"):
    """Compute the score of each image under the rules directly."""
    borders = [None] * len(planes) if planes.ndim == 3 else planes[:, 1]
    masks = planes if planes.ndim == 3 else planes[:, 0]
    found = [label_instances(mask, border, rules) for mask, border in zip(masks, borders, strict=True)]
    counts = np.stack([match_counts(*pair) for pair in zip(found, labels, strict=True)])
    return INSTANCE_METRICS[metric](counts)


def test_one_file(tmp_path):
    planes, labels = cells(7, noise=0.15)
    fit = fit_instances(files_of(tmp_path, (planes, labels)), min_areas=(5, 3))
    assert fit.score == pytest.approx(scores_of(planes, labels, fit.rules).mean())
    assert fit.score_of_components == pytest.approx(scores_of(planes[:, 0], labels, InstanceRules()).mean())
    thresholds = (0.3, 0.5, 0.7)
    for th, seed_th, min_area, fill_holes in product(thresholds, thresholds, (0, 5), (False, True)):
        rules = InstanceRules(th, seed_th, min_area, fill_holes)
        assert scores_of(planes, labels, rules).mean() <= fit.score + 1e-9
    assert fit.rules.min_area in (3, 5)  # removes the specks
    assert fit.score > fit.score_of_components + 0.3
    # each fifth of the images is scored with the result of the same search on the rest
    expected = []
    for part in range(5):
        rest = [row for row in range(7) if row % 5 != part]
        fitted = fit_instances(files_of(tmp_path / str(part), (planes[rest], labels[rest])), None, (5, 3))
        expected += scores_of(planes[part::5], labels[part::5], fitted.rules).tolist()
    assert fit.cross_fitted.score == pytest.approx(np.mean(expected))
    assert fit.cross_fitted.n_parts == 5
    assert fit.cross_fitted.low <= fit.cross_fitted.score <= fit.cross_fitted.high


def test_the_best_rules_depend_on_the_metric(tmp_path):
    """With a faint object and three false alarms, F2 prefers the false alarms to a miss, DSB2018 the miss."""
    labels = np.zeros((1, *SHAPE), np.uint16)
    labels[0, 2:8, 2:8], labels[0, 2:8, 10:16] = 1, 2
    planes = np.where(labels == 1, 0.9, np.where(labels == 2, 0.35, 0)).astype(np.float16)
    planes[0, 12:18, 1:7] = planes[0, 12:18, 9:15] = planes[0, 12:18, 17:23] = 0.35
    files = files_of(tmp_path, (planes, labels))
    for metric, found, score in (("dsb2018", 1, 1 / 2), ("airbus", 5, 10 / 13)):
        fit = fit_instances(files, metric=metric)
        assert fit.score == pytest.approx(score)
        assert label_instances(planes[0], None, fit.rules).max() == found
    assert fit.cross_fitted is None  # one image
    assert (fit.as_json(files)["cross_fitted"], fit.as_json(files)["image_scores"]) == (None, {})


def test_each_file_is_a_part_of_the_cross_fit(tmp_path):
    sure, unsure = cells(5, seed=1, inside=0.9), cells(4, seed=2, inside=0.45)
    files = files_of(tmp_path, sure, unsure)
    fit, alone = fit_instances(files), [fit_instances([masks]) for masks in files]
    held_out = [scores_of(*sure, alone[1].rules), scores_of(*unsure, alone[0].rules)]
    assert fit.cross_fitted.score == pytest.approx(np.concatenate(held_out).mean())
    assert fit.cross_fitted.n_parts == 2
    by_image = dict(zip([name for masks in files for name in masks.ids], np.concatenate(held_out), strict=True))
    assert fit.as_json(files)["image_scores"] == pytest.approx(by_image, abs=1e-4)
    pooled = np.concatenate([scores_of(*sure, fit.rules), scores_of(*unsure, fit.rules)])
    assert fit.score == pytest.approx(pooled.mean())
    assert (fit.n_images, fit.n_files, fit.n_searched) == (9, 2, 9)


def test_the_search_for_one_set_does_not_depend_on_other_sets():
    class Known:
        """Scores of two images: the first is best at .5, the second at .525, but .1 is its best on the first grid."""

        gate = None

        def need(self, requests):
            pass

        def table(self, pair, images):
            first, second = 1 - abs(pair[0] - 0.5), {0.1: 0.5, 0.525: 1.0}.get(pair[0], 0)
            return np.array([[[first, second][image] for image in images]])

    first, second = search(Known(), [np.array([0]), np.array([1])], has_border=False)
    assert first == (Found((0.5, None), 0), Found((0.5, None), 0))  # without gate probabilities both are equal
    assert second.without == Found((0.1, None), 0)


def test_thresholds_between_those_of_the_first_grid_are_found(tmp_path):
    """Objects have probability .47 and background .43, so only thresholds between the two are right."""
    labels = np.zeros((3, *SHAPE), np.uint16)
    labels[:, 2:9, 2:9], labels[:, 11:18, 4:20] = 1, 2
    planes = np.where(labels != 0, 0.47, 0.43).astype(np.float16)
    fit = fit_instances(files_of(tmp_path, (planes, labels)))
    assert (fit.score, fit.score_of_components) == (1, 0)
    assert 0.43 <= fit.rules.th < 0.47
    assert fit.rules == InstanceRules(fit.rules.th)  # ties: no clean-up, and the default seed threshold
    assert "connected components, no border" in fit.as_text()


def test_holes_are_filled_if_that_is_better(tmp_path):
    labels = np.zeros((2, *SHAPE), np.uint16)
    labels[:, 2:9, 2:9] = 1
    planes = np.where(labels != 0, 0.9, 0.1).astype(np.float16)
    planes[:, 4:7, 4:7] = 0.05
    fit = fit_instances(files_of(tmp_path, (planes, labels)))
    assert (fit.rules, fit.score) == (InstanceRules(fill_holes=True), 1)


def test_of_many_images_only_some_are_searched_but_all_are_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_SEARCHED", 8)
    large, small = cells(20, seed=3), cells(2, seed=4)
    fit = fit_instances(files_of(tmp_path, large, small))
    assert (fit.n_images, fit.n_searched) == (22, 4 + 2)
    pooled = np.concatenate([scores_of(*large, fit.rules), scores_of(*small, fit.rules)])
    assert fit.score == pytest.approx(pooled.mean())
    assert "22 in 2 mask files, 6 of them used in the search" in fit.as_text()
    assert fit_instances(files_of(tmp_path, large, small)) == fit


def test_truth_from_a_csv(tmp_path):
    planes, labels = cells(4)
    write_masks(tmp_path / "v.npy", list("dcba"), planes)
    masks, source = open_masks(tmp_path / "v.npy"), tmp_path / "truth.csv"
    rows = ["ImageId,EncodedPixels", "a,"]
    rows += [f"{name},{encode(labels[at] == number)}" for at, name in enumerate("dcb") for number in (4, 2, 1, 3)]
    source.write_text("\n".join(rows) + "\n")
    found = list(true_instances(masks, str(source)))
    renumbered = np.array([0, 3, 2, 4, 1])[labels]  # numbered in the order of the csv rows
    np.testing.assert_array_equal(found, renumbered)
    np.testing.assert_array_equal(list(true_instances(masks, str(source), [2, 0])), renumbered[[2, 0]])
    for wrong, said in (
        (f"a,{encode(labels[0] == 1)}\na,\n", ("a: object 2", "no pixels")),
        ("a,1 3\na,9 2\na,3 4\n", ("a: object 3", "shares 1 pixels with object 1")),
        ("a,1 3 2 5\n", ("a: object 1", "overlap")),
        ("a,1 1\n" * 65_536, ("at most 65535 objects", "found 65536")),
    ):
        source.write_text("\n".join(row for row in rows if not row.startswith("a")) + "\n" + wrong)
        with pytest.raises(UserError) as error:
            list(true_instances(masks, str(source)))
        assert "truth.csv" in str(error.value)
        assert "\n" not in str(error.value)
        assert all(word in str(error.value) for word in said), error.value


def test_the_script_on_packed_nuclei(tmp_path):
    labels = dsb2018(tmp_path / "source")
    packed = run_here("utils/stack_and_save.py", "--data_dir", tmp_path / "source", "--out_dir", tmp_path / "data")
    assert packed.returncode == 0, packed.stderr
    planes = np.zeros((2, 2, *SIZE))
    for row, name in enumerate("ba"):
        planes[row, 0] = np.where(labels[name] != 0, 0.8, 0.1)
    planes[0, 1, 3:5, 3:5] = 0.9  # the border where the two objects of "b" touch
    run = tmp_path / "experiments" / "border_fold0"
    write_masks(run / "snapshots" / "val.npy", ["b", "a"], planes, data_dir="data", part="train")
    write_json(run / "config.json", {})
    words = ("--masks_fn", "experiments/border_fold0/snapshots/val.npy", "--objective", "objects")
    said = succeed(SCRIPT, *words, cwd=tmp_path)
    assert "trust this score" in said
    assert "components at .5" in said
    assert "stored in experiments/border_fold0/objects.json" in said
    stored = read_json(run / "objects.json")
    assert (stored["metric"], stored["n_images"], stored["masks"]) == ("dsb2018", 2, [words[1]])
    rules = read_instance_rules(run).rules
    assert stored["score"] == pytest.approx(
        scores_of(planes.astype(np.float16), [labels["b"], labels["a"]], rules).mean()
    )
    assert stored["score_of_components"] == pytest.approx((0.2 + 1) / 2)  # the touching objects are one component
    assert stored["score"] > 0.7
    assert not (run / "threshold.json").exists()
    done = run_here(SCRIPT, *words, "--metric", "airbus", "--min_area", 2, "--out", "o.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "o.json")["metric"] == "airbus"


def test_refusals(tmp_path):
    planes, labels = cells(3)
    files_of(tmp_path, (planes[:2], labels[:2]), (planes[2:], labels[2:]))
    write_packed(tmp_path / "masks_only", {"train": (["image0", "image1"], labels[:2] != 0, SHAPE)})
    write_packed(tmp_path / "small", {"train": (["image0", "image1"], labels[:2], (9, 9))}, labels=labels[:2, :9, :9])
    about = {"data_dir": str(tmp_path / "data"), "part": "train"}
    write_masks(tmp_path / "plain.npy", ["image2"], planes[2:, 0], **about)
    write_masks(tmp_path / "logits.npy", ["image2"], 9 * planes[2:], **about)
    logits = planes[2:].copy()
    logits[0, 1] = np.nan
    write_masks(tmp_path / "nan.npy", ["image2"], logits, **about)
    write_masks(tmp_path / "none.npy", [], planes[:0], **about)
    write_masks(tmp_path / "unknown.npy", ["x"], planes[2:], **about)
    before = files_in(tmp_path)
    for words, code, said in (
        (("v0.npy", "--truth_fn", "masks_only"), 1, ("masks_only", "does not tell objects apart")),
        (("v0.npy", "--truth_fn", "small"), 1, ("size of the true objects in small", "20x24", "9x9")),
        (("v0.npy", "--truth_fn", "v1.npy"), 1, ("--truth_fn v1.npy", "csv")),
        (("v0.npy", "plain.npy"), 1, ("v0.npy has borders, but plain.npy has none")),
        (("plain.npy", "v0.npy"), 1, ("v0.npy has borders, but plain.npy has none")),
        (("v0.npy", "v0.npy"), 1, ("image0",)),
        (("logits.npy",), 1, ("logits.npy: row 0", "[0, 1]")),
        (("nan.npy",), 1, ("nan.npy: row 0", "nan")),
        (("none.npy",), 1, ("none.npy: holds no images",)),
        (("unknown.npy",), 1, ("x", "no true mask for 1 of the 1")),
        (("v0.npy", "--min_area", "-1"), 2, ("--min_area -1",)),
        (("v0.npy", "--metric", "dsb2081"), 2, ("--metric dsb2081", "did you mean dsb2018")),
        (("v0.npy", "--objective", "object"), 2, ("--objective object", "did you mean objects")),
    ):
        done = run_here(SCRIPT, "--objective", "objects", "--masks_fn", *words, cwd=tmp_path)
        assert_refused(done, code, *said)
    assert files_in(tmp_path) == before
