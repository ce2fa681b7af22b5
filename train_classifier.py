"""Train a classifier of images: "is there anything in the mask?" (a gate), or the labels in a column of train.csv.

    python train_classifier.py --arch resnet18 --encoder_weights none --fold 0 --experiment_dir experiments/empty_fold0
    python train_classifier.py --arch resnet34 --folds all --experiment_dir experiments/empty     # -> empty_fold0, ...
    python predict_tta.py --snapshot experiments/unet_fold0 --gate experiments/empty_fold*/
    python train_classifier.py --data_dir pets --target label --loss BCE --experiment_dir experiments/pets_fold0
    python train_classifier.py --data_dir planet --target tags --loss focal --experiment_dir experiments/planet_fold0
    python predict.py --data_dir planet --snapshot experiments/planet_fold0 --masks_fn planet.npy

Everything else is as in train.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.settings import settings_of
from utils.core.training_settings import (
    DataSettings,
    LearnSettings,
    MachineSettings,
    NetSettings,
    RunSettings,
    SizeSettings,
    StepSettings,
    TellSettings,
)


@dataclass(frozen=True)
class LabelSettings:
    """What is told apart."""

    target: str | None = None
    """column of train_with_folds.csv: a label, or several words, in each cell; default: whether the mask is empty."""
    at_precision: float = 0.95
    """the log has the highest recall with this precision (of one label alone)."""


@dataclass(frozen=True)
class Settings:
    data: DataSettings = field(default_factory=DataSettings)
    net: NetSettings = field(default_factory=lambda: NetSettings(arch="resnet18"))
    learn: LearnSettings = field(default_factory=LearnSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    step: StepSettings = field(default_factory=StepSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    tell: TellSettings = field(default_factory=TellSettings)
    run: RunSettings = field(default_factory=lambda: RunSettings(experiment_dir="experiments/empty_fold0"))

    @property
    def sizes(self) -> SizeSettings:
        """Whole images always: a crop may hold nothing of what the label is for."""
        return SizeSettings()


def train_classifier(settings: Settings | Mapping[str, Any] | str) -> dict[str, Any]:
    """Train as settings, or a dictionary or a JSON file of flags, say; the summary of the run (of the last fold)."""
    settings = settings_of(Settings, settings)
    if not 0 < settings.labels.at_precision <= 1:
        raise UsageError(f"--at_precision {settings.labels.at_precision}: expected a share, above 0 and up to 1")

    from net.distributed import join_processes
    from net.tasks import class_task
    from net.train_folds import train_experiment

    about = settings.labels
    make_task = partial(
        class_task, data_dir=settings.data.data_dir, column=about.target, at_precision=about.at_precision
    )
    with join_processes() as processes:
        return train_experiment(settings, make_task, processes)


if __name__ == "__main__":
    run(train_classifier, Settings)
