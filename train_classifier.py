"""Train an image classifier: a gate ("is the mask empty?"), or the classes in a column of train.csv.

    python train_classifier.py --minutes 10 --fold 0 --experiment_dir experiments/empty_fold0
    python train_classifier.py --minutes 50 --folds all --experiment_dir experiments/empty        # -> empty_fold0, ...
    python predict_tta.py --snapshot experiments/unet_fold0 --gate experiments/empty_fold*/
    python train_classifier.py --data_dir pets --target label --loss BCE --experiment_dir experiments/pets_fold0
    python train_classifier.py --data_dir planet --target tags --loss focal --experiment_dir experiments/planet_fold0
    python predict.py --data_dir planet --snapshot experiments/planet_fold0 --masks_fn planet.npy

All other flags are those of train.py.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.settings import OptionalText, settings_of
from utils.core.training_settings import (
    DataSettings,
    Learning,
    LearnSettings,
    MachineFlags,
    NetSettings,
    Network,
    Recipe,
    RecipeSettings,
    Reporting,
    ReportingSettings,
    RunSettings,
    SizeSettings,
    Step,
    StepSettings,
    TrainingMachineSettings,
)


@dataclass(frozen=True)
class ClassSettings:
    """Classes to learn."""

    target: OptionalText = None
    """column of train_with_folds.csv with the class of each image, or several separated by blanks; default: whether the
    mask is empty."""
    at_precision: float = 0.95
    """log the highest recall at this precision (for a single class)."""


@dataclass(frozen=True)
class Settings:
    """All flags of train_classifier.py."""

    data: DataSettings = field(default_factory=DataSettings)
    classes: ClassSettings = field(default_factory=ClassSettings)
    recipe: Recipe = field(default_factory=RecipeSettings)
    net: Network = field(default_factory=NetSettings)
    learn: Learning = field(default_factory=LearnSettings)
    run: RunSettings = field(default_factory=lambda: RunSettings(experiment_dir="experiments/empty_fold0"))
    step: Step = field(default_factory=StepSettings)
    machine: MachineFlags = field(default_factory=TrainingMachineSettings)
    reporting: Reporting = field(default_factory=ReportingSettings)

    @property
    def sizes(self) -> SizeSettings:
        """Whole images always: a crop might not show what the class is about."""
        return SizeSettings()


def train_classifier(settings: Settings | Mapping[str, Any] | str) -> dict[str, Any]:
    """Train with these settings, a dictionary of flags, or a JSON file of flags; return the summary of the last run."""
    started = time.monotonic()
    settings = settings_of(Settings, settings)
    if not 0 < settings.classes.at_precision <= 1:
        raise UsageError(
            f"--at_precision {settings.classes.at_precision}: expected a precision greater than 0 and at most 1"
        )

    from net.distributed import join_processes
    from net.tasks import class_task
    from net.train_folds import train_experiment

    about = settings.classes
    make_task = partial(
        class_task, data_dir=settings.data.data_dir, column=about.target, at_precision=about.at_precision
    )
    with join_processes() as processes:
        return train_experiment(settings, make_task, processes, started)


if __name__ == "__main__":
    run(train_classifier, Settings)
