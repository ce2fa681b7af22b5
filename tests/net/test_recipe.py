"""The recipe chooses what is left out, from what the images look like; flags override their parts."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
from helpers.scripts import TINY, assert_refused, run_here, succeed
from PIL import Image

from net.facts import Facts, asked_sizes, facts_of, given_flags, is_upright
from net.prepare_run import foreground_shares
from net.recipe import ORIGINAL, divided, filled, full_size, sizes_of, stages_for
from net.tasks import border_task, class_task, mask_task
from utils.core.files import read_json
from utils.core.settings import settings_of, to_flat
from utils.core.training_settings import TrainSettings
from utils.data.packed_data import open_packed


def facts(**changed):
    found = {
        "kind": "mask",
        "images": 3200,
        "fold_images": 800,
        "side": 101,
        "short_side": 101,
        "foreground": 0.3,
        "thickness": 20.0,
        "upright": True,
        "minutes": 12.0,
    }
    return Facts(**{**found, "on_gpu": False, "given": {}, **changed})


def chosen(flags=(), **changed):
    """Return the flags of a run on such images, and the lines that are printed."""
    settings = settings_of(TrainSettings, dict(flags))
    settings, lines = filled(settings, facts(given=given_flags(settings), **{"minutes": None, **changed}))
    return to_flat(settings), lines


def test_the_recipe_fills_every_flag_and_says_why():
    flags, lines = chosen()
    assert flags["arch"] == "strata_m"
    assert flags["optimizer"] == "muon_0.02"
    assert flags["loss"] == ["symmetric_lovasz_bce"]
    assert "--arch strata_m --encoder_weights none (no time is given)" in lines[0]
    assert [stage.split(":")[0] for stage in flags["stages"]] == ["52", "80", "104"]
    assert flags["n_epochs"] == sum(int(stage.split(":")[1]) for stage in flags["stages"]) == 25
    assert flags["warmup"] == 125
    assert len(lines) == 7
    assert all("--" in line for line in lines)


def test_a_flag_overrides_its_part_only():
    flags, lines = chosen({"optimizer": "adamw_1e-3", "n_epochs": 7})
    assert (flags["optimizer"], flags["scheduler"], flags["n_epochs"]) == ("adamw_1e-3", "linear", 7)
    assert flags["arch"] == "strata_m"
    assert not any("optimizer" in line for line in lines)
    flags, _ = chosen({"train_augs": "train_128_v1"})
    assert (flags["train_augs"], flags["stages"]) == ("train_128_v1", [])
    flags, _ = chosen({"arch": "unet_resnet18"})
    assert {int(stage.split(":")[0]) % 32 for stage in flags["stages"]} == {0}
    flags, _ = chosen({"arch": "unet_resnet18"})
    assert flags["optimizer"] == "adamw_1e-3"
    assert chosen({"train_augs": "train_256_v1"})[0]["val_augs"] == "val_256"
    assert chosen({"val_augs": "val_128_resize"}, side=256)[0]["train_augs"] == "affine_128"
    assert chosen({"val_augs": "val_256"})[0]["train_augs"] == "affine_256"
    flags, lines = chosen({**ORIGINAL, "loss": ["BCE"], "stages": ["64:100"], "metric": "iou"})
    assert lines == []


def test_the_original_recipe_is_that_of_2018():
    flags, lines = chosen({"recipe": "original"})
    assert {name: flags[name] for name in ORIGINAL} == {**ORIGINAL, "loss": ["BCE"]}
    assert flags["stages"] == []
    assert lines == []
    assert chosen({"recipe": "original"}, kind="border")[0]["loss"] == ["boundary_bce"]
    assert chosen({"recipe": "original"}, kind="label")[0]["arch"] == "resnet18"
    assert chosen({"recipe": "original", "stages": ["64:3", "96:2"]})[0]["n_epochs"] == 5
    assert chosen({"recipe": "original"}, asked={64: 0.5, 128: 0.5})[0]["stages"] == ["64:80", "128:20"]


@pytest.mark.parametrize(
    ("changed", "flag", "value"),
    [
        ({"minutes": 3.0}, "arch", "strata_s"),
        ({"minutes": 12.0}, "arch", "strata_s"),
        ({"minutes": 25.0}, "arch", "strata_m"),
        ({"minutes": 300.0}, "arch", "strata_l"),
        ({"minutes": 1.5, "on_gpu": True}, "arch", "strata_l"),
        ({"minutes": 0.5, "on_gpu": True}, "arch", "strata_m"),
        ({"images": 3200, "on_gpu": True}, "batch_size", 64),
        ({"upright": False}, "train_augs", "affine_128_d4"),
        ({"side": 256}, "train_augs", "affine_256"),
        ({"images": 300}, "batch_size", 16),
        ({"kind": "border"}, "loss", ["boundary_symmetric_lovasz_bce"]),
        ({"foreground": 0.02}, "loss", ["BCE", "symmetric_lovasz_bce:.55"]),
        ({"foreground": 0.02, "kind": "border"}, "loss", ["boundary_bce", "boundary_symmetric_lovasz_bce:.55"]),
        ({"kind": "labels"}, "loss", ["BCE"]),
        ({"kind": "labels"}, "stages", []),
        ({"side": 768, "short_side": 600}, "crop", 256),
        ({"side": 768, "short_side": 90}, "crop", 90),
        ({}, "metric", "iou"),
        ({"competition": "iout"}, "metric", "iout"),
        ({"competition": "dsb2018"}, "metric", "iou"),
        ({"thickness": 2.5}, "metric", "pooled_iou"),
        ({"foreground": 0.02}, "metric", "pooled_iou"),
        ({"kind": "border"}, "metric", None),
        ({"kind": "labels"}, "metric", None),
        ({"mixed": True, "coloured": True}, "contrast_stretch", True),
        ({"mixed": True}, "contrast_stretch", None),
        ({"coloured": True}, "contrast_stretch", None),
    ],
)
def test_the_facts_change_the_recipe(changed, flag, value):
    assert chosen(**changed)[0][flag] == value


def test_images_that_are_seen_often_are_changed_more_strongly():
    assert chosen({"n_epochs": 59})[0]["aug_strength"] is None
    flags, lines = chosen({"n_epochs": 60})
    assert flags["aug_strength"] == 1.5
    assert "--aug_strength 1.5 --channel_dropout 0.2" in lines[-1]
    assert chosen({"n_epochs": 60, "arch": "unet_resnet18"})[0]["channel_dropout"] is None
    assert chosen({"n_epochs": 60, "epoch_size": 1600})[0]["aug_strength"] is None
    assert chosen({"n_epochs": 60, "aug_strength": 1.0})[0]["aug_strength"] == 1
    assert chosen({"n_epochs": 60, "train_augs": "train_128_v1"})[0]["aug_strength"] is None
    assert chosen({"n_epochs": 60}, mixed=True)[0]["aug_strength"] is None
    assert chosen({"n_epochs": 60}, kind="labels")[0]["aug_strength"] is None


def test_few_images_that_are_seen_often_get_rectangles_of_each_other():
    flags, lines = chosen({"n_epochs": 60}, images=450)
    assert flags["cutmix"] == 0.5
    assert "--aug_strength 1.5 --cutmix 0.5 --channel_dropout 0.2" in lines[-1]
    assert chosen({"n_epochs": 59}, images=450)[0]["cutmix"] is None
    assert chosen({"n_epochs": 60}, images=451)[0]["cutmix"] is None
    assert chosen({"n_epochs": 60}, images=450, kind="border")[0]["cutmix"] is None
    assert chosen({"n_epochs": 60, "arch": "unet_resnet18"}, images=450)[0]["cutmix"] is None
    assert chosen({"n_epochs": 60, "cutmix": 0.0}, images=450)[0]["cutmix"] == 0


def test_pretrained_weights_have_a_recipe_of_their_own():
    flags, _ = chosen({"encoder_weights": "imagenet"})
    assert (flags["arch"], flags["optimizer"]) == ("unet_resnet34", "adamw_1e-3")
    assert (flags["encoder_rate"], flags["encoder_weights"]) == (0.1, "imagenet")
    classifier, _ = chosen({"encoder_weights": "imagenet"}, kind="labels")
    assert (classifier["arch"], classifier["encoder_rate"]) == ("resnet34", 0.1)
    whole, _ = chosen({"encoder_weights": "imagenet", "arch": "convnext_tiny"}, kind="labels")
    assert (whole["encoder_rate"], whole["optimizer"]) == (1.0, "adamw_1e-4"), "a timm model has no separate encoder"


def test_a_training_that_starts_from_a_snapshot_has_its_network(survey, trained, tmp_path):
    flags = ("--data_dir", survey, "--snapshot", trained, "--n_epochs", 1, "--experiment_dir", tmp_path / "run")
    done = run_here("train.py", *flags)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run" / "config.json")["arch"] == read_json(trained / "config.json")["arch"]
    assert "(the network of --snapshot)" in done.stdout


def test_sizes_keep_the_images_pixels_and_small_objects_are_not_halved():
    assert sizes_of(facts(), "strata_m") == pytest.approx({52: 0.3, 80: 0.35, 104: 0.35})
    assert list(sizes_of(facts(), "unet_resnet18")) == [64, 96, 128]
    assert sizes_of(facts(foreground=0.02), "strata_m") == {80: 0.5, 104: 0.5}
    assert sizes_of(facts(side=24), "strata_m") == {24: 1.0}
    assert max(sizes_of(facts(side=300), "strata_m")) == full_size(facts(side=300)) == 300
    assert max(sizes_of(facts(side=768, short_side=600), "strata_m")) == 256
    assert max(sizes_of(facts(side=768, short_side=90), "strata_m")) == 88


def test_sizes_may_be_asked_for_without_their_epochs(survey, tmp_path):
    assert asked_sizes(["64", "128"]) == {64: 0.5, 128: 0.5}
    assert asked_sizes(["64:.3", "128:0.9"]) == pytest.approx({64: 0.25, 128: 0.75})
    assert asked_sizes(["64:3", "128:.9"]) == asked_sizes([]) == {}
    flags = ("--data_dir", survey, "--arch", "strata_s", "--n_epochs", 6, "--experiment_dir", tmp_path / "run")
    assert run_here("train.py", *flags, "--stages", "24:.5", "32:.5").returncode == 0
    assert read_json(tmp_path / "run" / "config.json")["stages"] == ["24:4", "32:2"]
    done = run_here("train.py", *flags[:-1], tmp_path / "no", "--stages", "24:4", "32:.5")
    assert_refused(done, 2, "--stages 32:.5", "expected <size>:<epochs>")


def test_epochs_are_divided_among_the_sizes_by_their_time():
    sizes = {52: 0.3, 80: 0.35, 104: 0.35}
    assert stages_for(sizes, 25) == ["52:14", "80:7", "104:4"]
    assert stages_for(sizes, 2) == ["80:1", "104:1"]
    assert stages_for(sizes, 1) == ["104:1"]
    for total in range(3, 40):
        parts = divided(total, np.array([5.0, 2.0, 0.01]))
        assert sum(parts) == total
        assert min(parts) >= 1


def test_images_with_an_up_and_a_down_are_told_from_images_without(survey):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    assert not is_upright(noise)
    layers = np.broadcast_to(noise[:, :, :1], noise.shape)
    assert is_upright(layers)
    assert is_upright(layers.transpose(0, 2, 1, 3))
    sky = np.concatenate([noise[:, :16] // 2 + 128, noise[:, 16:] // 2], axis=1)
    assert is_upright(sky)
    assert is_upright(open_packed(survey).images[:])  # seismic layers


def test_facts_are_measured_on_the_images(survey):
    packed = open_packed(survey)
    settings = settings_of(TrainSettings, {"minutes": 12.0, "data_dir": str(survey)})
    rows = np.arange(len(packed.ids))
    found = facts_of(settings, packed, mask_task(packed), rows, 8, 3, False)
    masks = np.asarray(packed.masks)
    assert found.minutes == 4
    assert (found.kind, found.images, found.side) == ("mask", 24, 101)
    assert found.foreground == pytest.approx(masks[masks.any((1, 2))].mean())
    assert found.thickness > 4
    assert found.competition == "iout"
    tasks = {"border": border_task(packed, "outline", 1, 1.0), "labels": class_task(packed, "", None, 0.9)}
    for kind, task in tasks.items():
        assert facts_of(settings, packed, task, rows, 8, 1, False).kind.startswith(kind[:5])


def small_set(folder, shapes, mask):
    """Pack images of noise with masks by `mask(number, shape)`; return the packed folder, with two folds."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / "train" / name).mkdir(parents=True)
    for number, shape in enumerate(shapes):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / "train/images" / f"{number}.png")
        Image.fromarray(mask(number, shape).astype(np.uint8) * 255).save(folder / "train/masks" / f"{number}.png")
    succeed("utils/stack_and_save.py", "--data_dir", folder)
    rows = [f"{number},{number % 2}" for number in range(len(shapes))]
    (folder / "train_with_folds.csv").write_text("\n".join(["id,fold", *rows]) + "\n")
    return folder


def upper_part(_number, shape):
    return np.indices(shape)[0] > 9


@pytest.mark.parametrize(
    ("shape", "n", "mask", "note"),
    [
        ((20, 24), 4, upper_part, ""),
        ((24, 400), 4, upper_part, ""),
        ((40, 40), 4, lambda _number, shape: np.zeros(shape), "every mask of the training images is empty"),
        ((40, 40), 4, lambda _number, shape: np.ones(shape), "every mask of the training images is full"),
        ((40, 40), 6, lambda number, shape: upper_part(0, shape) * (number % 2), "fold 0 has no image with a mask"),
    ],
)
def test_unusual_sets_are_trained_with_a_note(tmp_path, shape, n, mask, note):
    data = small_set(tmp_path / "data", [shape] * n, mask)
    done = run_here("train.py", "--data_dir", data, "--n_epochs", 2, "--experiment_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert len(notes) == bool(note)
    assert note in "".join(notes)


def test_a_share_of_nonempty_images_is_checked(survey, tmp_path):
    flags = ("--data_dir", survey, *TINY, "--n_epochs", 1, "--experiment_dir", tmp_path / "run")
    for wrong in ("2", "half", ".5:.7:.9", "-.1"):
        done = run_here("train.py", *flags, f"--nonempty_share={wrong}")
        assert_refused(done, 2, f"--nonempty_share {wrong}", "expected a share from 0 to 1")
    assert run_here("train.py", *flags, "--nonempty_share", ".9:true").returncode == 0


def test_colours_are_stretched_where_it_is_applied():
    stained = {"mixed": True, "coloured": True}
    assert chosen(**stained)[0]["contrast_stretch"]
    assert not any("contrast_stretch" in line for line in chosen(kind="labels", **stained)[1])


@pytest.mark.parametrize("recipe", ["auto", "original"])
def test_epochs_that_are_not_given_are_divided_into_the_cycles(recipe):
    flags, _ = chosen({"recipe": recipe, "cycles": 7})
    assert flags["n_epochs"] % 7 == 0


def test_folds_of_more_than_4000_images_are_limited_by_the_recipe():
    small, large = (chosen(fold_images=count)[0] for count in (4000, 4001))
    assert (small["val_limit"], large["val_limit"]) == (None, 2000)
    assert "--val_limit 2000 (after each epoch; the fold has 4001 images)" in chosen(fold_images=4001)[1][-2]
    assert chosen({"val_limit": 50}, fold_images=4001)[0]["val_limit"] == 50


def test_large_images_with_thick_objects_are_shrunk_and_others_cropped():
    large = {"side": 640, "short_side": 640, "thickness": 66.0}
    flags, lines = chosen(**large)
    assert flags["crop"] is None
    assert [stage.split(":")[0] for stage in flags["stages"]] == ["128", "196", "256"]
    assert "objects are thick (66 of 640 pixels), so images are shrunk to 256" in lines[1]
    for changed in ({"thickness": 20.0}, {"kind": "border"}, {"mixed": True}):
        flags, lines = chosen(**{**large, **changed})
        assert flags["crop"] == 256
        assert "shrunk" not in lines[1]
    assert chosen(**{**large, "side": 320, "short_side": 320})[0]["crop"] is None


def test_images_with_a_rough_and_a_smooth_half_are_upright():
    """Road under the sky: both are equally bright."""
    rng = np.random.default_rng(0)

    def image(half):
        pixels = rng.normal(120, 5, (128, 200, 3))
        pixels[half] += rng.normal(0, 20, (64, 200, 3))
        return pixels.clip(0, 255).astype(np.uint8)

    halves = np.s_[:64], np.s_[64:]
    assert is_upright(image(halves[1]) for _ in range(40))
    assert is_upright(image(halves[1]) for _ in range(40)) == is_upright(image(halves[0]) for _ in range(40))
    assert not is_upright(image(halves[number % 2]) for number in range(40))
    assert not is_upright([image(halves[1])])


class OneByOne:
    """Rows that are read one at a time, because a thousand large images do not fit into memory."""

    def __init__(self, rows):
        self.rows, self.dtype, self.shapes = rows, rows.dtype, [row.shape for row in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        assert isinstance(row, int | np.integer), "several images at once"
        return self.rows[row]


def test_facts_and_shares_are_measured_image_by_image(survey):
    packed = open_packed(survey)
    one_by_one = replace(packed, images=OneByOne(packed.images), masks=OneByOne(packed.masks))
    task = mask_task(one_by_one)
    assert facts_of(settings_of(TrainSettings, {}), one_by_one, task, np.arange(24), 8, 1, False).images == 24
    task, alive = mask_task(packed), []

    def target(truths):
        alive[:] = [reference for reference in alive if reference() is not None]
        assert len(alive) < 3, "all targets are kept"
        made = truths.clone()
        alive.append(weakref.ref(made))
        return made

    found = foreground_shares(packed, replace(task, target=target), np.arange(24))
    assert found == pytest.approx([packed.masks[:].mean()])
