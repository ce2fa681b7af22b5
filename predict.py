"""Predict the test images with one snapshot or the mean of several; write raw masks and a checked submission.

python predict.py --snapshot experiments/a_fold0                      # the best snapshot of a run
python predict.py --snapshot experiments/a_fold*/ --fn five_folds     # the mean over folds
torchrun --standalone --nproc_per_node=4 predict.py --snapshot experiments/a_fold0     # 4 GPUs share the images
python predict.py --snapshot experiments/a_fold0/snapshots/epoch_20.loss_0.1063.iout_0.855 --th 0.45
"""

from dataclasses import dataclass, field

from utils.core.cli import run
from utils.core.prediction_settings import Prediction, PredictionSettings
from utils.runs.run_folder import find_snapshots


@dataclass(frozen=True)
class Settings:
    snapshot: tuple[str, ...]
    """snapshot files, or experiment folders (their best snapshot)."""
    prediction: Prediction = field(default_factory=PredictionSettings)


def main(settings: Settings) -> None:
    """Predict the mean over the snapshots, without test-time augmentation."""
    snapshots = find_snapshots(settings.snapshot)

    from net.predict_and_submit import predict_and_submit

    predict_and_submit(snapshots, "null", settings.prediction)


if __name__ == "__main__":
    run(main, Settings)
