"""train_border.py and the following steps: from synthetic ships to a scored submission of objects."""

import json

import numpy as np
import pytest
import torch
from helpers.scripts import TINY, assert_refused, end_together, run_here, start_together, succeed

from bench.kill_resume import differences
from net.border_target import border_of
from net.losses import bce, border_losses, lovasz_hinge, soft_dice, symmetric_lovasz_bce
from net.network_kinds import ImageKind
from net.snapshot import load_snapshot
from net.tasks import border_task
from utils.data.folds import fold_rows
from utils.data.packed_data import open_packed
from utils.masks.instances import InstanceRules, label_instances
from utils.masks.mask_file import open_masks
from utils.runs.run_folder import RunFolder, find_snapshots
from utils.scoring.instance_metrics import dsb2018_scores, match_counts


@pytest.fixture(scope="module")
def ships(tmp_path_factory):
    """24 + 6 images of ships, 128x128, packed and split into three folds."""
    folder = tmp_path_factory.mktemp("ships") / "ships"
    drawn = ("--kind", "ships", "--size", 128, "--n_train", 24, "--n_test", 6, "--seed", 3, "--out_dir", folder)
    for script, *words in (
        ("utils/make_demo.py", *drawn),
        ("utils/stack_and_save.py", "--data_dir", folder),
        ("utils/make_folds.py", "--path", folder / "train.csv", "--n", 3, "--stratify", "objects"),
    ):
        done = run_here(script, *words)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def border_run(ships, tmp_path_factory):
    """A run of two epochs of a border network on crops."""
    run = tmp_path_factory.mktemp("runs") / "border_fold0"
    succeed("train_border.py", "--data_dir", ships, *TINY, "--n_epochs", 2, "--crop", 64, "--experiment_dir", run)
    return run


def test_a_run_keeps_both_planes_and_ranks_by_objects(ships, border_run):
    snapshot = find_snapshots([str(border_run)])[0]
    info = load_snapshot(snapshot).info
    assert (info.task, info.outputs, info.border) == ("border", ("mask", "border"), "both")
    masks = open_masks(snapshot.with_name(f"val_masks_{snapshot.name}.npy"))
    packed, rows = open_packed(ships), fold_rows(ships, open_packed(ships).ids, 0)[1]
    assert masks.planes.shape == (len(rows), 2, 128, 128)
    pairs = [
        (label_instances(mask, border, InstanceRules()), packed.instances[row])
        for mask, border, row in zip(masks.array, masks.border, rows, strict=True)
    ]
    score = float(dsb2018_scores(np.stack([match_counts(*pair) for pair in pairs])).mean())
    assert info.metrics["objects"] == pytest.approx(score)
    assert snapshot.name.endswith(f"objects_{score:.3f}")
    assert (border_run / "log.csv").read_text().startswith("epoch,cycle,train_loss,val_loss,iou,iout,objects,lr")


def test_two_epochs_equal_one_and_one_more(ships, border_run, tmp_path):
    words = ("--data_dir", ships, *TINY, "--crop", 64, "--experiment_dir", tmp_path / "run")
    assert run_here("train_border.py", *words, "--n_epochs", 1).returncode == 0
    done = run_here("train_border.py", "--experiment_dir", tmp_path / "run", "--resume", "--n_epochs", 2)
    assert done.returncode == 0, done.stderr
    assert differences(RunFolder(border_run), RunFolder(tmp_path / "run")) == []


def test_two_processes_train_a_border_network(ships, tmp_path):
    words = ("--data_dir", ships, *TINY, "--crop", 64, "--n_epochs", 1, "--experiment_dir", tmp_path / "run")
    codes, said = end_together(start_together("train_border.py", *words, output=tmp_path / "said"), tmp_path / "said")
    assert codes == [0, 0], said
    masks = open_masks(next((tmp_path / "run" / "snapshots").glob("val_masks_*.npy")))
    assert masks.border.shape == (8, 128, 128)


def test_from_a_border_network_to_an_airbus_submission_and_its_f2(ships, border_run, tmp_path):
    """The steps of recipes/ships.sh: gate, border network, objects, submission, score."""
    gate = tmp_path / "empty"
    classifier = ("--arch", "test_resnet", "--encoder_weights", "none", "--batch_size", 8, "--optimizer", "adam_1e-3")
    done = run_here(
        *("train_classifier.py", "--data_dir", ships, *classifier, "--n_epochs", 1),
        *("--folds", "all", "--experiment_dir", gate),
    )
    assert done.returncode == 0, done.stderr
    assert "empty_oof.npy: out-of-fold scores of 24 images: auc" in done.stdout
    common = ("--data_dir", ships, "--snapshot", border_run, "--gate", tmp_path / "empty_fold0")
    val = border_run / "val.npy"
    done = run_here("predict.py", *common, "--part", "val", "--masks_fn", val)
    assert done.returncode == 0, done.stderr
    assert "objects (DSB2018's score)" in done.stdout
    for more in (("--objective", "objects", "--metric", "airbus"), ("--gate_probs", f"{gate}_oof.npy")):
        done = run_here("optimize_threshold.py", "--masks_fn", val, *more)
        assert done.returncode == 0, done.stderr
    assert "the gate" in done.stdout
    found = json.loads((border_run / "objects.json").read_text())
    done = run_here(
        *("predict_tta.py", *common, "--tta", "d4", "--tile", 96, "--overlap", 32, "--objects"),
        *("--masks_fn", tmp_path / "test.npy", "--label_pngs", tmp_path / "pngs"),
        *("--submission_dir", tmp_path / "submissions"),
    )
    assert done.returncode == 0, done.stderr
    assert f"{border_run}/objects.json" in done.stdout
    labels, masks = np.load(tmp_path / "test_labels.npy"), open_masks(tmp_path / "test.npy")
    rules = InstanceRules(found["th"], found["seed_th"], found["min_area"], found["fill_holes"])
    gate_th = json.loads((border_run / "gate.json").read_text())["gate_threshold"]
    gated_out = np.load(tmp_path / "test_gate.npy")[:, 0] <= (-1 if gate_th is None else gate_th)
    for place in range(6):
        expected = label_instances(masks.array[place], masks.border[place], rules)
        assert np.array_equal(labels[place], 0 * expected if gated_out[place] else expected)
    assert len(list((tmp_path / "pngs").glob("*.png"))) == 6
    (submission,) = (tmp_path / "submissions").glob("*.csv")
    for command, truth in (("check", ()), ("score", ("--truth", ships / "truth.csv"))):
        done = run_here("utils/submission.py", command, submission, "--data_dir", ships, *truth)
        assert done.returncode == 0, done.stderr
    assert "score (airbus)" in done.stdout


def test_borders_of_plain_masks_are_outlines(survey, tmp_path):
    words = ("--data_dir", survey, *TINY, "--n_epochs", 1, "--loss", "boundary_lovasz", "--experiment_dir")
    done = run_here("train_border.py", "--only_nonempty", *words, tmp_path / "run")
    assert "(0 empty) to train on, 8 to validate" in done.stdout, done.stderr
    (snapshot,) = find_snapshots([str(tmp_path / "run")])
    assert ".iout_" in snapshot.name
    assert_refused(
        run_here("train_border.py", *words, tmp_path / "other", "--border", "touching"),
        *(1, "--border touching", "do not tell objects apart", "--border outline"),
    )


def test_the_mask_is_the_first_plane_and_probabilities_of_one_label_add_up(ships):
    packed = open_packed(ships)
    row = int(np.argmax([labels.any() for labels in packed.instances]))
    task = border_task(packed, "touching", 2, 1.0)
    objects = task.kind.truth_tensor(packed.instances[row])[None]
    target = task.target(objects)
    assert np.array_equal(target[0, 0], packed.instances[row] != 0)
    assert torch.equal(target[:, 1:], border_of(objects, "touching", 2))
    sums = ImageKind("label", ("cat", "dog")).probabilities(torch.randn(3, 2)).sum(1)
    assert torch.allclose(sums, torch.ones(3))


def test_each_term_of_a_border_loss_has_its_weight():
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(3, 2, 7, 9, generator=generator) > 0.7).float()
    logits = torch.randn(3, 2, 7, 9, generator=generator)
    terms_of = {
        "boundary_bce": [bce],
        "boundary_lovasz": [lovasz_hinge],
        "boundary_symmetric_lovasz_bce": [symmetric_lovasz_bce],
        "boundary_bce_lovasz": [bce, lovasz_hinge],
        "boundary_bce_dice": [bce, soft_dice],
    }
    losses = border_losses(0.3)
    assert list(losses) == list(terms_of)
    for name, terms in terms_of.items():
        mask, border = (sum(term(logits[:, k : k + 1], target[:, k : k + 1]) for term in terms) for k in (0, 1))
        assert torch.allclose(losses[name](logits, target), mask + 0.3 * border), name


def test_networks_of_two_kinds_and_wrong_flags_are_refused(survey, ships, trained, border_run, tmp_path):
    start = ("--data_dir", ships, *TINY, "--experiment_dir", tmp_path / "run")
    assert_refused(run_here("train.py", *start, "--snapshot", border_run), 1, "of the task mask, found border")
    grey = ("--data_dir", survey, *TINY, "--experiment_dir", tmp_path / "run")
    assert_refused(run_here("train_border.py", *grey, "--snapshot", trained), 1, "of the task border, found mask")
    for words, said in (
        (("--loss", "BCE"), ("--loss BCE", "boundary_bce")),
        (("--border_width", 0), ("--border_width 0",)),
        (("--border_weight", 0), ("--border_weight 0",)),
    ):
        assert_refused(run_here("train_border.py", *start, *words), 2, *said)
    predict = ("--data_dir", ships, "--masks_fn", tmp_path / "m.npy")
    mask_run = tmp_path / "mask_run"
    done = run_here("train.py", "--data_dir", ships, *TINY, "--n_epochs", 1, "--experiment_dir", mask_run)
    assert done.returncode == 0, done.stderr
    mixed = run_here("predict.py", *predict, "--snapshot", border_run, mask_run)
    assert_refused(mixed, 1, "a mask network (mask)", "a border network (mask, border)", "networks of one kind")
    assert_refused(
        run_here("predict.py", *predict, "--snapshot", mask_run, "--gate", border_run), 1, "--gate", "border"
    )
    assert not (tmp_path / "run").exists()
