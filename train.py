"""Train a network on one fold, or on every fold, and write config, log, snapshots and masks to --experiment_dir.

    python train.py --data_dir data --minutes 12 --fold 0 --experiment_dir experiments/a_fold0
    python train.py --data_dir data --minutes 60 --folds all --experiment_dir experiments/a   # a_fold0, ..., a_oof.npy
    python train.py --arch wide_resnet_v1 --batch_size=32 --loss BCE --optimizer adam_1e-4 --n_epochs 200 --fold 0 \\
        --train_augs train_128_v1 --val_augs val_128_resize \\
        --experiment_dir experiments/wide_fold0_128
    python train.py --resume --experiment_dir experiments/a_fold0          # after a kill, a reboot, a Ctrl-C
    torchrun --standalone --nproc_per_node=4 train.py --batch_size 128 --experiment_dir experiments/a_fold0   # 4 GPUs
    python train.py --config experiments/a_fold0/config.json --fold 1 --experiment_dir experiments/a_fold1

From Python, as often as you like: from train import train; train({"fold": 1, "n_epochs": 20, ...})
"""

import time
from collections.abc import Mapping
from typing import Any

from utils.core.cli import run
from utils.core.settings import settings_of
from utils.core.training_settings import TrainSettings


def train(settings: TrainSettings | Mapping[str, Any] | str) -> dict[str, Any]:
    """Train with these settings, a dictionary of flags, or a JSON file of flags; return the run's summary.json."""
    started = time.monotonic()
    settings = settings_of(TrainSettings, settings)
    from net.distributed import join_processes
    from net.tasks import mask_task
    from net.train_folds import train_experiment

    with join_processes() as processes:
        return train_experiment(settings, mask_task, processes, started)


if __name__ == "__main__":
    run(train, TrainSettings)
