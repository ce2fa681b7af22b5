"""Test bench/mask_rcnn.py: the training targets, the label maps of detections, and the command."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.masks import write_packed
from helpers.scripts import assert_refused, run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.resnet import BasicBlock, ResNet

from bench import mask_rcnn_parts as parts
from bench.mask_rcnn_objects import Found, fit_thresholds, label_map, sure_only
from net.device import Machine
from utils.competition.submission_check import check_submission
from utils.core.errors import UserError
from utils.core.files import write_json, write_text
from utils.data.rle import decode_union
from utils.masks.ground_truth import read_run_lengths
from utils.scoring.instance_metrics import match_counts

IDS = [f"image{number}" for number in range(6)]


def ellipses(n_objects, shape=(64, 64), seed=0, semiaxes=(2, 12)):
    """Return a label map (H, W) uint16 of ellipses that do not overlap, some cut by the image border."""
    rng, labels = np.random.default_rng(seed), np.zeros(shape, np.uint16)
    down, across = np.mgrid[: shape[0], : shape[1]]
    for number in range(1, n_objects + 1):
        (y, x), (a, b) = rng.uniform(0, shape), rng.uniform(*semiaxes, 2)
        labels[(((down - y) / a) ** 2 + ((across - x) / b) ** 2 < 1) & (labels == 0)] = number
    return labels


def square(top, left, size, score):
    """Return (box, score, mask) of a detected square."""
    return [left - 0.5, top - 0.5, left + size - 0.5, top + size - 0.5], score, np.ones((28, 28))


def found(*detections):
    boxes, scores, masks = zip(*detections, strict=True) if detections else ([], [], [])
    return Found(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(masks, np.float16).reshape(-1, 28, 28),
    )


def through_roi_align(labels):
    """Return the detections of a perfect network, with masks as torchvision makes them for training."""
    target = parts.target_of(labels)
    masks = project_masks_on_boxes(target["masks"], target["boxes"], torch.arange(len(target["boxes"])), 28)
    return Found(target["boxes"].numpy(), np.ones(len(masks), np.float32), masks.numpy().astype(np.float16))


def test_target_has_box_and_mask_of_every_object_regardless_of_its_number():
    labels = np.zeros((8, 10), np.uint16)
    labels[2:4, 3:7], labels[7, 9] = 5, 2
    target = parts.target_of(labels)
    assert target["boxes"].tolist() == [[8.5, 6.5, 9.5, 7.5], [2.5, 1.5, 6.5, 3.5]]
    assert target["labels"].tolist() == [1, 1]
    assert target["masks"].dtype == torch.uint8
    assert np.array_equal(target["masks"].numpy(), [labels == 2, labels == 5])


def test_target_of_an_image_without_objects():
    target = parts.target_of(np.zeros((8, 10), np.uint16))
    assert [tuple(target[name].shape) for name in ("boxes", "labels", "masks")] == [(0, 4), (0,), (0, 8, 10)]


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_the_same_after_roi_align_and_back(seed):
    labels = ellipses(8, seed=seed)
    labels[0, :9] = labels[40:, 63] = 0
    labels[0, 3], labels[45:60, 63] = 20, 21  # one pixel, and one column at the image border
    again = label_map(through_roi_align(labels), 0.5, labels.shape)
    for place, number in enumerate(np.setdiff1d(labels, [0]), start=1):
        ours, truth = again == place, labels == number
        assert np.count_nonzero(ours & truth) > 0.97 * np.count_nonzero(ours | truth)


def test_a_map_of_another_size_is_the_map_enlarged():
    one = found(square(3, 5, 4, 0.9), square(10, 2, 6, 0.8))
    small = label_map(one, 0.5, (20, 16))
    assert np.array_equal(label_map(one, 0.5, (60, 32), packed=(20, 16)), np.kron(small, np.ones((3, 2))))
    assert np.count_nonzero(small == 1) == 16


def test_the_highest_score_gets_the_pixel_and_a_sliver_is_left_out():
    labels = label_map(found(square(0, 0, 10, 0.9), square(0, 2, 10, 0.8), square(6, 0, 10, 0.7)), 0.5, (20, 20))
    assert np.count_nonzero(labels == 1) == 100
    assert 2 not in labels  # 20 of its 100 pixels were left
    assert np.count_nonzero(labels == 3) == 60
    assert not label_map(found(), 0.5, (20, 20)).any()


@settings(max_examples=25, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(-3, 18), st.integers(-3, 18), st.integers(1, 9)), max_size=12),
    kept=st.integers(0, 12),
)
def test_raising_the_score_threshold_is_leaving_out_the_last_detections(places, kept):
    scores = np.linspace(0.9, 0.1, len(places))
    detections = [square(*place, score) for place, score in zip(places, scores, strict=True)]
    score_th = scores[kept] if kept < len(places) else 0.05
    all_of_them = label_map(found(*detections), 0.5, (20, 20))
    assert np.array_equal(
        sure_only(all_of_them, found(*detections), np.float32(score_th)),
        label_map(found(*detections[:kept]), 0.5, (20, 20)),
    )


def test_thresholds_exclude_false_detections_and_pixels():
    truth = np.zeros((20, 20), np.uint16)
    truth[2:8, 2:8], truth[12:18, 4:10] = 1, 2
    halo = 0.45 * np.ones((28, 28))
    halo[7:21, 7:21] = 1  # 6 of 12 pixels
    box, _, _ = square(-1, -1, 12, 0.0)
    best = fit_thresholds([found((box, 0.9, halo), square(12, 4, 6, 0.7), square(10, 14, 5, 0.32))], [truth])
    assert best.score == 1
    assert 0.32 <= best.score_th < 0.7
    assert best.mask_th >= 0.5


def test_batches_take_every_row_once_before_any_again():
    source = parts.batches(np.arange(10, 17), 3, np.random.default_rng(0))
    drawn = np.concatenate([next(source) for _ in range(7)])
    for epoch in drawn.reshape(3, 7):
        assert sorted(epoch) == list(range(10, 17))


def test_turned_gives_image_and_labels_the_same_of_eight_orientations():
    rng, labels = np.random.default_rng(0), np.arange(16, dtype=np.uint16).reshape(4, 4)
    seen = set()
    for _ in range(100):
        image, turned = parts.turned(labels[..., None].astype(np.uint8), labels, rng)
        assert np.array_equal(image[..., 0], turned)
        seen.add(turned.tobytes())
    assert len(seen) == 8


def test_rate_warms_up_then_falls():
    rates = [parts.rate_at(share) for share in (0, 0.025, 0.05, 0.5, 1)]
    assert rates[0] < rates[1] < rates[2] == 1 > rates[3] > rates[4] == pytest.approx(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_images_become_three_planes(channels):
    image = np.full((4, 5, channels), 51, np.uint8)
    assert torch.equal(parts.image_tensor(image), torch.full((3, 4, 5), 0.2))


def tiny(**common):
    """Return a Mask R-CNN with few weights."""
    trunk = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone = parts.BackboneWithFPN(trunk, {f"layer{n}": str(n - 1) for n in range(1, 5)}, [64, 128, 256, 512], 16)
    heads = {"box_head": parts.TwoMLPHead(16 * 49, 32), "mask_head": parts.MaskRCNNHeads(16, (16,), 1)}
    last = {"box_predictor": parts.FastRCNNPredictor(32, 2), "mask_predictor": parts.MaskRCNNPredictor(16, 16, 2)}
    few = {"box_batch_size_per_image": 16, "rpn_post_nms_top_n_test": 20}
    return parts.MaskRCNN(backbone, None, **heads, **last, **few, **common)


def train_tiny(monkeypatch, **flags):
    """Train on two images of 64x64."""
    monkeypatch.setitem(parts.MODELS, "small", tiny)
    machine = Machine(torch.device("cpu"), torch.float32)
    labels = np.stack([ellipses(4, seed=seed) for seed in range(2)])
    images = ((labels[..., None] > 0) * 200).astype(np.uint8)
    asked = {"minutes": 9.0, "max_steps": 0, "batch_size": 2, "rate": 1e-3, "seed": 0, **flags}
    model = parts.build("small", (64, 64), machine)
    return parts.train(model, images, labels, np.arange(2), SimpleNamespace(**asked), machine.device)


def test_training_ends_by_the_clock(monkeypatch):
    done = train_tiny(monkeypatch, minutes=1e-6)
    assert (done.steps, done.images) == (1, 2)
    assert np.isfinite(done.loss)


def test_a_loss_that_is_not_finite_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="--rate"):
        train_tiny(monkeypatch, rate=1e25, max_steps=4)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Pack six grey 64x64 images in three folds, the first two without objects, and two test images, one resized."""
    folder = tmp_path_factory.mktemp("packed")
    labels = np.stack([ellipses(max(0, 4 * (row - 1)), seed=row) for row in range(6)])
    arrays = {"train_labels": labels, "train_images": ((labels[..., None] > 0) * 200).astype(np.uint8)}
    arrays["test_images"] = arrays["train_images"][4:]
    described = {"train": {"ids": IDS, "sizes": None}, "test": {"ids": ["a", "b"], "sizes": [[64, 64], [90, 130]]}}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        part, _, kind = name.partition("_")
        entry = {"file": f"{name}.npy", "shape": array.shape, "dtype": str(array.dtype), "sha256": "0" * 64}
        described[part].setdefault("arrays", {})[kind] = entry
    write_json(folder / "manifest.json", {"format": 1, "parts": described})
    rows = [f"{name},{row % 3}" for row, name in enumerate(IDS)]
    write_text(folder / "train_with_folds.csv", "\n".join(["id,fold", *rows, ""]))
    return folder


@pytest.fixture(scope="module")
def finished(packed):
    """Run two steps twice; return the output and the two folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parts.MODELS, "small", tiny)
        patch.setattr("bench.mask_rcnn_objects.SCORE_THS", (0.1, 0.5))
        flags = ("--data_dir", packed, "--fold", 2, "--max_steps", 2, "--precision", "float32", "--device", "cpu")
        folders = [packed / name for name in ("run", "again")]
        done = [run_here("bench/mask_rcnn.py", *flags, "--out", folder) for folder in folders]
    for one in done:
        assert one.returncode == 0, one.stderr
    return done[0].stdout, folders


def test_the_command_writes_label_maps_a_valid_submission_and_a_summary(packed, finished):
    output, (out, _) = finished
    assert np.load(out / "val_labels.npy").any()  # otherwise the checks below would prove little
    for part, ids in (("val", [IDS[2], IDS[5]]), ("test", ["a", "b"])):
        maps = np.load(out / f"{part}_labels.npy")
        assert (maps.shape, maps.dtype) == ((2, 64, 64), np.uint16)
        assert json.loads((out / f"{part}_labels.json").read_text())["ids"] == ids
        for one in maps:
            assert np.array_equal(np.union1d(one, [0]), np.arange(one.max() + 1))
    verdict = check_submission(out / "test_submission.csv", None, {"a": (64, 64), "b": (90, 130)})
    assert not verdict.problems
    assert (out / "test_submission.csv").read_text().startswith("ImageId,EncodedPixels\na,")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 2
    assert f"DSB2018 score {summary['val_score']:.5f}" in output
    assert summary["torchvision"]


def test_submission_and_test_labels_hold_the_same_objects(finished):
    _, (out, _) = finished
    maps, cells = np.load(out / "test_labels.npy"), read_run_lengths(out / "test_submission.csv")
    assert len(cells["a"]) == maps[0].max() > 0
    assert np.array_equal(decode_union(cells["a"], (64, 64)), maps[0] > 0)
    large = decode_union(cells["b"], (90, 130))  # the size of its source image
    lines, columns = ((np.arange(64) + 0.5) * size / 64 for size in large.shape)
    assert np.mean(large[lines.astype(int)][:, columns.astype(int)] == (maps[1] > 0)) > 0.95


def test_the_fitted_score_is_that_of_the_label_maps(packed, finished):
    _, (out, _) = finished
    truth, maps = np.load(packed / "train_labels.npy")[[2, 5]], np.load(out / "val_labels.npy")
    scores = []
    for predicted, true in zip(maps, truth, strict=True):
        hits, *misses = match_counts(predicted, true).T
        scores.append(np.mean([h / n if (n := h + a + b) else 1 for h, a, b in zip(hits, *misses, strict=True)]))
    assert json.loads((out / "summary.json").read_text())["val_score"] == pytest.approx(np.mean(scores))


def test_the_same_seed_gives_the_same_objects(finished):
    _, folders = finished
    first, second = (np.load(folder / "val_labels.npy") for folder in folders)
    assert np.array_equal(first, second)


def test_wrong_use_is_refused_in_one_line(packed, finished, tmp_path):
    _, (out, _) = finished
    refused = [
        (("--out", out), 2, "--out", "finished run"),
        (("--out", tmp_path / "new", "--minutes", 0), 2, "--minutes 0", "more than 0"),
        (("--out", tmp_path / "new", "--fold", 7), 2, "--fold 7", "no such fold"),
        (("--out", tmp_path / "new", "--max_steps", -1), 2, "--max_steps -1"),
    ]
    for flags, code, *words in refused:
        assert_refused(run_here("bench/mask_rcnn.py", "--data_dir", packed, *flags), code, *words)
    assert not (tmp_path / "new").exists()


def test_images_without_label_maps_or_all_in_one_fold_are_refused(tmp_path):
    folder = write_packed(tmp_path, {"train": (["a", "b"], np.ones((2, 8, 8)), (8, 8))})
    for second, word in ((1, "without label maps"), (0, "more folds")):
        write_text(folder / "train_with_folds.csv", f"id,fold\na,0\nb,{second}\n")
        done = run_here("bench/mask_rcnn.py", "--data_dir", folder, "--out", tmp_path / "new")
        assert_refused(done, 1, folder, word)
