"""Flags: how --help groups them, and how the flags of earlier versions are read."""

import json
import re

import pytest
from helpers.scripts import run_here

from utils.core.errors import UsageError
from utils.core.settings import settings_of, to_flat
from utils.core.training_settings import TrainSettings, epochs_in_cycle
from utils.runs.run_folder import RunFolder


@pytest.mark.parametrize("script", ["train.py", "train_border.py", "train_classifier.py"])
def test_help_shows_the_everyday_flags_before_the_advanced_ones(script):
    text = run_here(script, "--help").stdout
    titles = re.findall(r"^\W+([a-z][a-z: ]*) options\b", text, flags=re.MULTILINE)
    everyday = [title for title in titles if not title.startswith("advanced")]
    advanced = [title.removeprefix("advanced: ") for title in titles[len(everyday) :]]
    assert everyday[0] == "data"
    assert {"network", "training", "run"} <= set(everyday)
    assert advanced == [title for title in ("sizes", "steps", "machine", "reporting") if title in advanced]
    assert len(advanced) >= 3
    shown = re.findall(r"^\W*--(\w+)", text.partition("data options")[2].partition("advanced: ")[0], flags=re.MULTILINE)
    assert {"data_dir", "fold", "arch", "loss", "optimizer", "scheduler", "n_epochs", "batch_size"} <= set(shown)
    assert {"experiment_dir", "resume"} <= set(shown)
    assert len(shown) <= 21
    assert "{None}" not in text
    assert "default: None" not in text


def test_the_config_of_an_earlier_version_is_read_in_todays_flags(tmp_path):
    old = {"ema": 0.99, "swa": None, "notify": [], "n_epochs": 4, "val_transforms": "crop_from_128"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    settings = settings_of(TrainSettings, tmp_path / "config.json")
    assert (settings.step.average, settings.learn.n_epochs) == ("ema_0.99", 4)
    RunFolder(tmp_path).check_flags(to_flat(settings))
    with pytest.raises(UsageError, match=r"--average swa_2: .* has ema_0.99"):
        RunFolder(tmp_path).check_flags({"average": "swa_2"})
    with pytest.raises(UsageError, match=r"--ema: .* use --average ema_0.9"):
        settings_of(TrainSettings, {"ema": 0.9})


def test_stages_and_epochs_that_contradict_each_other_are_refused():
    flags = {"stages": ["64:2", "96:3"], "warmup": 0, "encoder_rate": 1.0, "batch_size": 8}
    assert epochs_in_cycle(settings_of(TrainSettings, {**flags, "n_epochs": 5})) == 5
    with pytest.raises(UsageError, match=r"--stages 64:2 96:3 has 5 epochs in total, --n_epochs is 4; leave"):
        epochs_in_cycle(settings_of(TrainSettings, {**flags, "n_epochs": 4}))


def test_a_flag_with_several_values_may_be_one_text():
    assert settings_of(TrainSettings, {"loss": "lovasz"}).learn.loss == ("lovasz",)


def test_the_config_of_a_run_before_recipes_repeats_its_defaults(tmp_path):
    old = {"arch": "unet_resnet18", "optimizer": "adam_1e-4", "seed": 1, "loss": "BCE"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    settings = settings_of(TrainSettings, tmp_path / "config.json")
    assert (settings.recipe.recipe, settings.learn.loss) == ("original", ("BCE",))
    assert settings_of(TrainSettings, {"arch": "unet_resnet18"}).recipe.recipe == "auto"
