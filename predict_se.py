"""Predict with a snapshot ensemble: the mean over the best snapshot of each cycle of one run (arXiv 1704.00109).

python train.py --cycles 5 --n_epochs 100 --scheduler cosine --experiment_dir experiments/c_fold0
python predict_se.py --snapshot_dir experiments/c_fold0/snapshots
python predict_se.py --snapshot_dir experiments/c_fold0/snapshots --best 3 --tta null_hflip
"""

from dataclasses import dataclass, field

from utils.core.cli import run
from utils.core.prediction_settings import Prediction, PredictionSettings
from utils.core.settings import OptionalInt
from utils.runs.run_folder import ensemble_snapshots, snapshots_in


@dataclass(frozen=True)
class Settings:
    snapshot_dir: str
    """folder with the snapshots of a run."""
    best: OptionalInt = None
    """number of snapshots to average, the best of all cycles; default: the best one of each cycle (a single snapshot
    if there is one cycle)."""
    tta: str = "null"
    """views joined by _, as in predict_tta.py; null is the image itself."""
    prediction: Prediction = field(default_factory=PredictionSettings)


def main(settings: Settings) -> None:
    """Predict the mean over the snapshots, and print a note if there is only one."""
    snapshots = ensemble_snapshots(settings.snapshot_dir, settings.best)
    notes = []
    if len(snapshots) == 1 and settings.best is None:
        notes = [
            f"{settings.snapshot_dir} holds one cycle, so only its best snapshot is used; add --best K to average the "
            f"K best of its {len(snapshots_in(settings.snapshot_dir))} snapshots, or train with several --cycles"
        ]

    from net.predict_and_submit import predict_and_submit

    predict_and_submit(snapshots, settings.tta, settings.prediction, notes)


if __name__ == "__main__":
    run(main, Settings)
