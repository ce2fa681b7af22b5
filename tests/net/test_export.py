"""utils/export.py: files that ONNX Runtime and torch run without this project, with the predictions of predict.py."""

import importlib.util
import json
from types import SimpleNamespace

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from helpers.masks import files_in, write_packed
from helpers.scripts import ROOT, assert_refused, run_here

from net.device import Machine
from net.export import Predictions
from net.export_formats import FORMATS, Format
from net.geometry import contrast_stretched
from net.network_kinds import ImageKind, PixelKind
from net.predictor import load_predictors
from net.snapshot import SnapshotInfo, save_snapshot
from net.tta import VIEWS
from utils.core.errors import Interrupted
from utils.core.files import write_json
from utils.masks.mask_file import open_masks

NAME = "epoch_1.loss_0.5000.iout_0.500"
ENDS = {"onnx": ".onnx", "torchscript": ".torchscript.pt", "torch_export": ".pt2"}
MASK, BORDER = PixelKind("mask", ("mask",)), PixelKind("border", ("mask", "border"))
LABEL = ImageKind("label", ("cat", "cow", "dog"))
SIZES = {"val_128": 128, "val_256": 256, "val_native": None}


@pytest.fixture
def make_run(tmp_path):
    """Return a function that creates a run folder with one snapshot of an untrained network with large logits."""

    def make(kind=MASK, arch="unet_tu-test_resnet", channels=1, val_augs="val_128", shape=(101, 101), **more):
        torch.manual_seed(1)
        network = kind.build(arch, channels)
        with torch.no_grad():
            list(network.parameters())[-2].mul_(20)
        run = tmp_path / "run_fold0"
        (run / "snapshots").mkdir(parents=True)
        write_json(run / "config.json", {})
        about = {"arch": arch, "task": kind.name, "outputs": kind.outputs, "channels_in": channels, "fold": 0}
        about |= {"val_augs": val_augs, "size": SIZES[val_augs], "shape": shape, "data_digest": "d1", **more}
        save_snapshot(run / "snapshots" / NAME, network, SnapshotInfo(**about))
        return run

    return make


def pictures(number, shape, channels=1):
    """(number, h, w, C) uint8."""
    rng = np.random.default_rng(number)
    soft = [cv2.GaussianBlur(rng.normal(128, 900, (*shape, channels)), (0, 0), 6) for _ in range(number)]
    return np.stack(soft).reshape(number, *shape, channels).clip(0, 255).astype(np.uint8)


def expected(run, images):
    """Return the predictions of this project for the images: (N, K, h, w) or (N, K)."""
    here, packed = Machine(torch.device("cpu"), torch.float32), SimpleNamespace(channels=images.shape[3])
    (predictor,), _ = load_predictors([run / "snapshots" / NAME], here, packed)
    with torch.inference_mode():
        return predictor.predict(images, [VIEWS["null"]]).numpy()


def opened(path):
    """Open a file without the project; return a function (images (B, C, h, w) -> probabilities) and the description."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        about = session.get_modelmeta().custom_metadata_map["strata"]
        return lambda images: session.run(None, {"images": images})[0], json.loads(about)
    extra = {"strata.json": ""}
    if path.suffix == ".pt":
        with pytest.warns(FutureWarning, match="deprecated"):
            module = torch.jit.load(path, _extra_files=extra)
    else:
        module = torch.export.load(path, extra_files=extra).module()
    return lambda images: module(torch.from_numpy(images)).numpy(), json.loads(extra["strata.json"])


def planes(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def export(run, to="onnx", *words):
    """Export a run; return the function of the opened file, its description, and the finished script."""
    done = run_here("utils/export.py", run, "--to", to, *words)
    assert done.returncode == 0, done.stderr
    return *opened(run / "snapshots" / f"{NAME}{ENDS[to]}"), done


def test_every_format_predicts_like_predict_py_for_any_number_of_images(make_run, tmp_path):
    run, images = make_run(), pictures(5, (101, 101))
    write_json(run / "threshold.json", {"threshold": 0.37, "min_area": 5})
    write_packed(tmp_path / "data", {"test": (list("abcde"), None, (101, 101))})
    np.save(tmp_path / "data" / "test_images.npy", images)
    words = ("--data_dir", tmp_path / "data", "--precision", "float32", "--submission_dir", tmp_path)
    done = run_here("predict.py", "--snapshot", run, *words, "--masks_fn", tmp_path / "masks.npy")
    assert done.returncode == 0, done.stderr
    masks = open_masks(tmp_path / "masks.npy").array.astype(np.float32)
    assert masks.std() > 0.05

    for to in ENDS:
        predict, about, done = export(run, to)
        for rows in (slice(0, 1), slice(1, 5)):
            found = predict(planes(images[rows]))
            assert found.dtype == np.float32
            assert np.abs(found[:, 0] - masks[rows]).max() < 1e-3
        file = run / "snapshots" / f"{NAME}{ENDS[to]}"
        assert to == "torchscript" or str(ROOT).encode() not in file.read_bytes()
        line, deprecated = done.stdout.partition("\n")[::2]
        assert "images (batch, 1, 101, 101) uint8 -> probabilities (batch, 1, 101, 101) float32" in line
        assert float(line.rpartition(" ")[2]) < 1e-4
        assert ("deprecated" in deprecated) == (to == "torchscript")
        assert done.stderr == ""
        assert about["images"]["shape"] == about["probabilities"]["shape"] == ["batch", 1, 101, 101]
        assert about["rules"] == {"threshold": 0.37, "min_area": 5}
        assert (about["arch"], about["data_digest"], about["images"]["scaled"]) == ("unet_tu-test_resnet", "d1", None)
    assert set(files_in(run / "snapshots")) == {NAME, *(NAME + end for end in ENDS.values())}


@pytest.mark.parametrize(
    ("arch", "shape"),
    [("unet_tu-test_resnet", ()), ("strata_s", (256, 256)), ("strata_tu-test_resnet", ())],
    ids=["mixed sizes", "one size", "own encoder, mixed sizes"],
)
def test_a_network_for_images_at_their_own_size_takes_any_size(make_run, arch, shape):
    run = make_run(BORDER, arch, channels=3, val_augs="val_native", shape=shape)
    rules = {"th": 0.4, "seed_th": 0.6, "min_area": 8, "fill_holes": True}
    write_json(run / "objects.json", rules)
    predict, about, _ = export(run)
    assert about["images"]["shape"] == ["batch", 3, "height", "width"]
    assert (about["images"]["channels"], about["probabilities"]["of"]) == ("RGB", ["mask", "border"])
    assert about["rules"] == rules
    for number, shape in ((1, (96, 64)), (2, (33, 101)), (4, (63, 33))):
        images = pictures(number, shape, 3)
        found = predict(planes(images))
        assert found.shape == (number, 2, *shape)
        assert np.abs(found - expected(run, images)).max() < 1e-4


@pytest.mark.filterwarnings("error")  # the script prints one line instead of torch's many warnings
@pytest.mark.parametrize(
    ("val_augs", "shape", "scaled", "how"),
    [("val_256", (101, 75), (202, 150), "INTER_LINEAR"), ("val_128", (200, 300), (85, 128), "INTER_AREA")],
)
def test_the_file_takes_scaled_images_and_predicts_at_their_original_size(make_run, val_augs, shape, scaled, how):
    run, images = make_run(val_augs=val_augs, shape=shape), pictures(2, shape)
    predict, about, done = export(run, "torchscript")
    assert about["images"]["shape"] == ["batch", 1, *scaled]
    assert about["images"]["scaled"] == {"from": list(shape), "to": list(scaled), "by": f"cv2.resize, {how}"}
    assert "resize images from {}x{} to {}x{} first (cv2.resize, {})".format(*shape, *scaled, how) in done.stdout
    resized = [cv2.resize(image, scaled[::-1], interpolation=getattr(cv2, how)) for image in images]
    found = predict(np.stack(resized)[:, None])
    assert found.shape == (2, 1, *shape)
    assert np.abs(found - expected(run, images)).max() < 1e-4


def test_the_file_of_a_network_for_stretched_contrast_takes_stretched_images(make_run):
    run, images = make_run(contrast_stretch=True), pictures(2, (101, 101)) // 3
    predict, about, done = export(run)
    assert about["images"]["contrast_stretched"]["percentiles"] == [1.0, 99.8]
    assert "stretch each channel from its percentiles 1 and 99.8 to 0 and 255 first" in done.stdout
    stretched = np.stack([contrast_stretched(image) for image in images])
    assert np.abs(predict(planes(stretched)) - expected(run, images)).max() < 1e-4


def test_labels(make_run):
    run, images = make_run(LABEL, "test_resnet", 3), pictures(3, (101, 101), 3)
    write_json(run / "labels.json", {"thresholds": {}})
    predict, about, done = export(run, "torchscript")
    assert "probabilities (batch, 3) float32" in done.stdout
    assert (about["probabilities"]["of"], about["rules"]) == (["cat", "cow", "dog"], {})
    found = predict(planes(images))
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found - expected(run, images)).max() < 1e-5


def replaced(monkeypatch, to, **parts):
    own = FORMATS[to]
    monkeypatch.setitem(FORMATS, to, Format(**({"write": own.write, "read": own.read} | parts)))
    return own


def test_if_an_exporter_needs_a_fixed_size_the_file_takes_the_size_of_the_training_images(make_run, monkeypatch):
    def of_one_size(module, example, free, about):
        if 2 in free:
            raise ValueError("sides are fixed")
        return own.write(module, example, free, about)

    own = replaced(monkeypatch, "torchscript", write=of_one_size)
    run, images = make_run(val_augs="val_native", shape=(101, 75)), pictures(3, (101, 75))
    predict, about, done = export(run, "torchscript")
    assert about["images"]["shape"] == about["probabilities"]["shape"] == ["batch", 1, 101, 75]
    assert "is fixed, because the exporter cannot make it dynamic (ValueError: sides are fixed)" in done.stdout
    assert np.abs(predict(planes(images)) - expected(run, images)).max() < 1e-4


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_file_with_other_predictions_is_removed(make_run, monkeypatch, factor):
    def of_another_contrast(module, *rest):
        before = module.predictions.gain.clone()
        module.predictions.gain.mul_(factor)
        try:
            return own.write(module, *rest)
        finally:
            module.predictions.gain.copy_(before)

    own, run = replaced(monkeypatch, "torchscript", write=of_another_contrast), make_run()
    done = run_here("utils/export.py", run, "--to", "torchscript")
    assert_refused(done, 1, "predictions differ from those of the network", "0.001", "try --to onnx or torch_export")
    assert files_in(run / "snapshots") == [NAME]


def test_a_file_for_a_fixed_number_of_images_is_removed(make_run, monkeypatch):
    def of_two(path):
        predict = own.read(path)
        return lambda images: predict(images[:2])

    own, run = replaced(monkeypatch, "torchscript", read=of_two), make_run()
    done = run_here("utils/export.py", run, "--to", "torchscript")
    assert_refused(done, 1, "--to torchscript: unet_tu-test_resnet cannot be exported", "for 3 images")
    assert files_in(run / "snapshots") == [NAME]


def test_a_network_that_an_exporter_cannot_follow_is_one_error(make_run, monkeypatch):
    def by_its_content(self, images):
        return torch.sigmoid(images.float() - 128 if images.float().mean() > 100 else images.float())

    monkeypatch.setattr(Predictions, "forward", by_its_content)
    run = make_run()
    done = run_here("utils/export.py", run, "--to", "torch_export")
    assert_refused(done, 1, "--to torch_export: unet_tu-test_resnet cannot be exported to this format", "try --to onnx")
    assert files_in(run / "snapshots") == [NAME]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Interrupted(15, "terminated"), 143)])
def test_an_interrupted_export_leaves_no_file(make_run, monkeypatch, error, code):
    def stopped(*_):
        raise error

    replaced(monkeypatch, "torchscript", read=stopped)
    run = make_run()
    assert run_here("utils/export.py", run, "--to", "torchscript").returncode == code
    assert files_in(run / "snapshots") == [NAME]


def test_an_existing_file_is_not_replaced(make_run, tmp_path):
    run, there = make_run(), tmp_path / "mine.onnx"
    there.write_text("mine")
    assert_refused(run_here("utils/export.py", run, "--out", there), 1, there, "already exists", "--out")
    assert there.read_text() == "mine"
    assert_refused(run_here("utils/export.py", run, "--out", tmp_path / "x.pt2"), 2, "ends in .onnx for --to onnx")


def test_a_missing_package_or_snapshot_is_one_error(make_run, tmp_path, monkeypatch):
    run, find = make_run(), importlib.util.find_spec
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").write_bytes((run / "snapshots" / NAME).read_bytes()[:5000])
    assert_refused(run_here("utils/export.py", tmp_path / "empty"), 1, "no snapshots in this folder")
    assert_refused(run_here("utils/export.py", tmp_path / "half"), 1, tmp_path / "half", "truncated")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == "onnxscript" else find(n, *rest))
    assert_refused(run_here("utils/export.py", run), 1, "needs onnxscript; pip install -e '.[export]'")
    assert files_in(tmp_path) == ["half", "run_fold0/config.json", f"run_fold0/snapshots/{NAME}"]
