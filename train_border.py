"""Train a border network: it predicts mask and border, so that touching objects are separated.

    python train_border.py --data_dir nuclei --minutes 25 --fold 0 --experiment_dir experiments/nuclei_border_fold0
    python train_border.py --arch wide_resnet_border --loss boundary_lovasz --border touching --border_width 2 \\
        --border_weight 2 --fold 0 --experiment_dir experiments/wide_border_fold0
    python train_border.py --resume --experiment_dir experiments/wide_border_fold0
    python predict.py --snapshot experiments/wide_border_fold0 --part val \\
        --masks_fn experiments/wide_border_fold0/val.npy
    python optimize_threshold.py --masks_fn experiments/wide_border_fold0/val.npy --objective objects
    python predict_tta.py --snapshot experiments/wide_border_fold0 --objects

All other flags are those of train.py.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.settings import settings_of
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
    Sizes,
    SizeSettings,
    Step,
    StepSettings,
    TrainingMachineSettings,
)


@dataclass(frozen=True)
class BorderSettings:
    """Definition and weight of the border."""

    border: Literal["outline", "touching", "both"] = "both"
    """touching: between objects that touch or nearly touch; outline: the rim of every object; both: the two together.
    Masks without instances only have an outline."""
    border_width: int = 1
    """width of the border in pixels at the input size: how far the outline reaches into an object, and how close two
    objects have to be for the pixels between them to be border."""
    border_weight: float = 1.0
    """weight of the border's loss; the mask's loss has a weight of 1."""


@dataclass(frozen=True)
class Settings:
    """All flags of train_border.py."""

    data: DataSettings = field(default_factory=DataSettings)
    border: BorderSettings = field(default_factory=BorderSettings)
    recipe: Recipe = field(default_factory=RecipeSettings)
    net: Network = field(default_factory=NetSettings)
    learn: Learning = field(default_factory=LearnSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sizes: Sizes = field(default_factory=SizeSettings)
    step: Step = field(default_factory=StepSettings)
    machine: MachineFlags = field(default_factory=TrainingMachineSettings)
    reporting: Reporting = field(default_factory=ReportingSettings)


def train_border(settings: Settings | Mapping[str, Any] | str) -> dict[str, Any]:
    """Train with these settings, a dictionary of flags, or a JSON file of flags; return the run's summary.json."""
    started = time.monotonic()
    settings = settings_of(Settings, settings)
    about = settings.border
    if about.border_width < 1:
        raise UsageError(f"--border_width {about.border_width}: expected a number of pixels, 1 or more")
    if not about.border_weight > 0:
        raise UsageError(f"--border_weight {about.border_weight}: expected a weight greater than 0")

    from net.distributed import join_processes
    from net.tasks import border_task
    from net.train_folds import train_experiment

    make_task = partial(border_task, border=about.border, width=about.border_width, weight=about.border_weight)
    with join_processes() as processes:
        return train_experiment(settings, make_task, processes, started)


if __name__ == "__main__":
    run(train_border, Settings)
