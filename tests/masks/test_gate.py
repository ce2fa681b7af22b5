"""predict.py --gate: networks that predict whether an image contains anything. Nothing is trained."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.masks import files_in
from helpers.scripts import assert_refused, run_here

from net.dataset import fitted, normalised
from net.geometry import VAL_AUGS
from net.network_kinds import ImageKind, PixelKind
from net.predictor import rebuild
from net.snapshot import SnapshotInfo, load_snapshot, save_snapshot
from utils.core.files import write_json
from utils.core.tables import read_table
from utils.data.folds import fold_rows
from utils.data.packed_data import ids_digest, open_packed
from utils.data.rle import encode
from utils.masks.mask_file import binarize, open_masks
from utils.masks.probability_file import open_probabilities
from utils.runs.run_folder import RunFolder, find_snapshots

GATE = ImageKind("labels", ("not_empty",))


def untrained(folder, data_dir, arch, kind=None, fold=0, seed=0):
    """Create an experiment folder with a snapshot of random weights, as training would leave it."""
    kind, packed, run = kind or PixelKind("mask", ("mask",)), open_packed(data_dir), RunFolder(folder)
    torch.manual_seed(seed)
    info = SnapshotInfo(
        arch=arch,
        task=kind.name,
        outputs=kind.outputs,
        channels_in=packed.channels,
        val_augs="val_128",
        size=128,
        fold=fold,
        data_digest=packed.digest,
        val_ids_digest=ids_digest(packed.ids[row] for row in fold_rows(data_dir, packed.ids, fold)[1]),
    )
    write_json(run.config, {"arch": arch})
    save_snapshot(run.snapshot(1, 0.5, "score", 0.5, None).path, kind.build(arch, packed.channels), info)
    return folder


@pytest.fixture(scope="module")
def nets(survey, tmp_path_factory):
    """Mask networks and gates of folds 0 and 1, a network for labels, and a deeply supervised mask network."""
    folder = tmp_path_factory.mktemp("nets")
    mask, gate = "unet_tu-test_resnet", "test_resnet"
    return SimpleNamespace(
        mask=untrained(folder / "mask", survey, mask),
        mask_1=untrained(folder / "mask_1", survey, mask, fold=1),
        gate=untrained(folder / "gate", survey, gate, GATE),
        gate_1=untrained(folder / "gate_1", survey, gate, GATE, fold=1, seed=1),
        labels=untrained(folder / "labels", survey, gate, ImageKind("label", ("cat", "dog"))),
        deep=untrained(folder / "deep", survey, "ds_resnet_34"),
    )


def words_for(survey, out, snapshot, *words):
    files = ("--masks_fn", out / "m.npy", "--submission_dir", out / "submissions", "--precision", "float32")
    return ("predict.py", "--data_dir", survey, "--snapshot", snapshot, *files, *words)


def predicted(survey, out, snapshot, *words):
    """Predict and return the printed text, the raw masks, the gate's probabilities and the submission (id -> cell)."""
    before = set((out / "submissions").glob("*.csv"))
    done = run_here(*words_for(survey, out, snapshot, *words))
    assert done.returncode == 0, done.stderr
    gate = open_probabilities(out / "m_gate.npy") if (out / "m_gate.npy").exists() else None
    written = [*set((out / "submissions").glob("*.csv")) - before]
    cells = dict(zip(*read_table(*written).values(), strict=True)) if written else None
    return SimpleNamespace(said=done.stdout, masks=open_masks(out / "m.npy"), gate=gate, cells=cells)


def test_the_gate_empties_masks_in_the_submission_and_leaves_the_raw_ones(survey, nets, tmp_path):
    plain = predicted(survey, tmp_path / "plain", nets.mask, "--th", 0.001)
    assert plain.gate is None
    assert all(plain.cells.values())
    first = predicted(survey, tmp_path / "gated", nets.mask, "--gate", nets.gate, "--th", 0.001)
    assert "of 8 images are gated out at threshold 0.5 (no gate.json found)" in first.said
    assert first.gate.ids == first.masks.ids
    assert first.gate.labels == ["not_empty"]
    th = float(np.sort(first.gate.array[:, 0])[3])
    gated = predicted(survey, tmp_path / "gated", nets.mask, "--gate", nets.gate, "--th", 0.001, "--gate_th", th)
    assert f"gate: 4 of 8 images are gated out at threshold {th:.6g} (--gate_th)" in gated.said
    assert "emptied regardless of the prediction: 4 images by the gate" in gated.said
    assert np.array_equal(gated.masks.array, plain.masks.array)
    for name, value in zip(gated.gate.ids, gated.gate.array[:, 0], strict=True):
        assert gated.cells[name] == (plain.cells[name] if value > th else ""), name


def test_thresholds_of_gate_json_are_the_default(survey, nets, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(nets.mask, run)
    found = predicted(survey, tmp_path, run, "--gate", nets.gate)
    middle = float(np.quantile(found.masks.array.astype(np.float64), 0.5))
    th = float(np.sort(found.gate.array[:, 0])[2])
    write_json(run / "gate.json", {"gate_threshold": th, "threshold": middle, "min_area": 0, "helps": True})
    found = predicted(survey, tmp_path, run, "--gate", nets.gate)
    assert f"gate: 3 of 8 images are gated out at threshold {th:.6g} ({run}/gate.json)" in found.said
    assert f"threshold {middle:.6g} ({run}/gate.json)" in found.said
    for name, mask, value in zip(found.masks.ids, found.masks.array, found.gate.array[:, 0], strict=True):
        assert found.cells[name] == (encode(binarize(mask, middle)) if value > th else "")
    without = predicted(survey, tmp_path / "without", run)
    assert "threshold 0.5 (no threshold.json found)" in without.said
    write_json(run / "gate.json", {"gate_threshold": None, "threshold": middle, "min_area": 0, "helps": False})
    assert "gate: 0 of 8 images" in predicted(survey, tmp_path, run, "--gate", nets.gate).said


def test_gates_are_averaged_and_a_deeply_supervised_net_is_one(survey, nets, tmp_path):
    alone = {
        name: predicted(survey, tmp_path / name, nets.mask, "--gate", getattr(nets, name)).gate.array
        for name in ("gate", "gate_1", "deep")
    }
    together = predicted(survey, tmp_path, nets.mask, "--gate", nets.gate, nets.deep, nets.gate_1)
    assert np.allclose(together.gate.array, np.mean(list(alone.values()), axis=0), atol=1e-6)
    assert np.abs(alone["gate"] - alone["gate_1"]).max() > 1e-4
    (path,) = find_snapshots([str(nets.deep)])
    images = open_packed(survey, "test").images
    seen = normalised(fitted(images, VAL_AUGS["val_128"]))
    with torch.inference_mode():
        image_class = torch.sigmoid(rebuild(load_snapshot(path), path)(seen).image)
    assert np.allclose(alone["deep"][:, 0], image_class.numpy(), atol=1e-5)


def test_a_validation_fold_is_scored_with_its_own_gate(survey, nets, tmp_path):
    scores = {}
    for th in (0, 1):
        words = ("--part", "val", "--gate", nets.gate, "--gate_th", th, "--th", 0.001)
        found = predicted(survey, tmp_path, nets.mask, *words)
        assert found.cells is None
        scores[th] = float(found.said.partition("validation fold: iout ")[2][:6])
        assert f"gate: {8 * th} of 8 images" in found.said
    packed = open_packed(survey)
    empty = [not packed.masks[row].any() for row in fold_rows(survey, packed.ids, 0)[1]]
    assert scores[1] == pytest.approx(np.mean(empty), abs=1e-4)
    assert scores[0] != scores[1]
    assert found.gate.ids == [packed.ids[row] for row in fold_rows(survey, packed.ids, 0)[1]]


def test_an_invalid_gate_or_one_for_other_images_is_refused_before_anything_is_written(survey, nets, tmp_path):
    for code, snapshot, words, said in (
        (
            1,
            nets.mask,
            ("--gate", nets.labels),
            ("expected a network of train_classifier.py without --target", "found a label network (cat, dog)"),
        ),
        (1, nets.mask, ("--gate", nets.mask), ("--gate", "a mask network (mask)", "ds_resnet_34")),
        (1, nets.mask, ("--gate", tmp_path / "none"), ("--gate", "no such file or folder")),
        (1, nets.mask, ("--gate", nets.gate_1, "--part", "val"), ("holds out fold 1", "the gate of the same fold")),
        (1, nets.mask, ("--gate", nets.gate, nets.gate_1, "--part", "val"), ("holds out fold 1",)),
        (2, nets.mask, ("--gate", nets.gate, "--gate_th", 1.5), ("--gate_th 1.5", "in [0, 1]")),
        (2, nets.mask, ("--gate_th", 0.5), ("--gate_th 0.5: needs a gate",)),
        (2, nets.mask, ("--th", -0.1), ("--th -0.1", "in [0, 1]")),
        (
            1,
            nets.mask,
            ("--snapshot", nets.mask, nets.labels),
            ("a label network (cat, dog), but", "networks of one kind"),
        ),
        (2, nets.labels, ("--gate", nets.gate), ("--gate: applies to masks, but the snapshot predicts image classes",)),
        (2, nets.labels, ("--th", 0.4), ("--th: applies to masks",)),
        (2, nets.labels, ("--keep_largest", 1), ("--keep_largest: applies to masks",)),
    ):
        assert_refused(run_here(*words_for(survey, tmp_path, snapshot, *words)), code, *said)
        assert files_in(tmp_path) == [], words


def test_gate_probabilities_of_other_images_are_refused(survey, nets, tmp_path):
    """The gate predicted fold 1, the masks are of fold 0."""
    val = ("--part", "val")
    masks, other = tmp_path / "fold0", tmp_path / "fold1"
    predicted(survey, masks, nets.mask, *val)
    predicted(survey, other, nets.mask_1, "--gate", nets.gate_1, *val)
    before = files_in(tmp_path)
    probabilities = ("--gate_probs", other / "m_gate.npy")
    done = run_here("optimize_threshold.py", "--masks_fn", masks / "m.npy", *probabilities)
    assert_refused(done, 1, "m_gate.npy: no gate probability for 8 of 8 images", "predicted for other images or folds")
    done = run_here("predict_fold_avg.py", masks / "m.npy", "--masks_fn", tmp_path / "mean.npy", *probabilities)
    assert_refused(done, 1, "m_gate.npy: no gate probability for 8 of 8 images")
    assert files_in(tmp_path) == before
