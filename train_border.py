"""Train one fold of a border net: two outputs a pixel, mask and border, so that objects that touch come apart.

    python train_border.py --data_dir nuclei --arch unet_resnet18 --encoder_weights none --fold 0 \\
        --experiment_dir experiments/nuclei_border_fold0
    python train_border.py --arch wide_resnet_border --loss boundary_lovasz --border touching --border_width 2 \\
        --border_weight 2 --fold 0 --experiment_dir experiments/wide_border_fold0
    python train_border.py --resume --experiment_dir experiments/wide_border_fold0
    python predict.py --snapshot experiments/wide_border_fold0 --part val --masks_fn val.npy
    python optimize_threshold.py --masks_fn val.npy --objective objects
    python predict_tta.py --snapshot experiments/wide_border_fold0 --objects

Everything else is as in train.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.settings import settings_of
from utils.core.training_settings import LearnSettings, TrainSettings


@dataclass(frozen=True)
class BorderSettings:
    """What the border is."""

    border: Literal["outline", "touching", "both"] = "both"
    """touching: where two objects touch or come close; outline: the rim of each; plain masks have an outline only."""
    border_width: int = 1
    """pixels at the net's size that the border reaches into an object, and from one object towards another."""
    border_weight: float = 1.0
    """of the border's loss beside the mask's."""


@dataclass(frozen=True)
class Settings(TrainSettings):
    """All flags of train.py, and those of the border."""

    learn: LearnSettings = field(default_factory=lambda: LearnSettings(loss="boundary_bce"))
    border: BorderSettings = field(default_factory=BorderSettings)


def train_border(settings: Settings | Mapping[str, Any] | str) -> dict[str, Any]:
    """Train as settings, or a dictionary or a JSON file of flags, say; the run's summary as in its summary.json."""
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
        return train_experiment(settings, make_task, processes)


if __name__ == "__main__":
    run(train_border, Settings)
