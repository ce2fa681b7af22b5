"""Predict with test-time augmentation: the mean over several views of each image, and over snapshots.

python predict_tta.py --snapshot experiments/a_fold0                          # the image and its mirror image
python predict_tta.py --snapshot experiments/a_fold*/ --tta d4                # the eight symmetries of the square
python predict_tta.py --snapshot experiments/a_fold0 --part val --masks_fn experiments/a_fold0/val_tta.npy
"""

from dataclasses import dataclass, field

from utils.core.cli import run
from utils.core.prediction_settings import Prediction, PredictionSettings
from utils.runs.run_folder import find_snapshots


@dataclass(frozen=True)
class Settings:
    snapshot: tuple[str, ...]
    """snapshot files, or experiment folders (their best snapshot)."""
    tta: str = "null_hflip"
    """views joined by _: null, hflip, vflip, rot90, rot180, rot270, transpose, transverse; d4 means all of them."""
    prediction: Prediction = field(default_factory=PredictionSettings)


def main(settings: Settings) -> None:
    """Predict the mean over snapshots and views."""
    snapshots = find_snapshots(settings.snapshot)

    from net.predict_and_submit import predict_and_submit

    predict_and_submit(snapshots, settings.tta, settings.prediction)


if __name__ == "__main__":
    run(main, Settings)
