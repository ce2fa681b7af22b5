"""Predict with a snapshot ensemble: the mean over the best snapshot of each cycle of one run (arXiv 1704.00109).

python train.py --cycles 5 --n_epochs 100 --scheduler cosine --experiment_dir experiments/c_fold0
python predict_se.py --snapshot_dir experiments/c_fold0/snapshots
python predict_se.py --snapshot_dir experiments/c_fold0/snapshots --best 3 --tta null_hflip
"""

from dataclasses import dataclass, field

from utils.core.cli import run
from utils.core.prediction_settings import PredictionSettings
from utils.runs.run_folder import best_of_cycles, snapshots_in


@dataclass(frozen=True)
class Settings:
    snapshot_dir: str
    """folder of a run's snapshots."""
    best: int | None = None
    """the so many best snapshots of all; default: the best one of each cycle (where there is one
    cycle, one snapshot)."""
    tta: str = "null"
    """views joined by _, as in predict_tta.py."""
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def main(settings: Settings) -> None:
    """Predict the mean over the snapshots, and say so where it is the mean of one."""
    snapshots = best_of_cycles(settings.snapshot_dir, settings.best)
    notes = []
    if len(snapshots) == 1 and settings.best is None:
        notes = [
            f"{settings.snapshot_dir} holds one cycle, so this is its best snapshot alone, not a mean; --best K "
            f"averages the K best of {len(snapshots_in(settings.snapshot_dir))}, train.py --cycles makes several cycles"
        ]

    from net.predict_and_submit import predict_and_submit

    predict_and_submit(snapshots, settings.tta, settings.prediction, notes)


if __name__ == "__main__":
    run(main, Settings)
