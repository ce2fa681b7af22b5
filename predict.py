"""Predict the test images with one snapshot, or with the mean of several: raw masks and a checked submission.

python predict.py --snapshot experiments/a_fold0                      # the best snapshot of a run
python predict.py --snapshot experiments/a_fold*/ --fn five_folds     # the mean over folds
torchrun --standalone --nproc_per_node=4 predict.py --snapshot experiments/a_fold0     # 4 GPUs share the images
python predict.py --snapshot experiments/a_fold0/snapshots/epoch_20.loss_0.1063.iout_0.855 --th 0.45
"""

from dataclasses import dataclass, field

from utils.cli import run
from utils.run_folder import find_snapshots
from utils.settings import MachineSettings, PredictSettings, SubmissionSettings


@dataclass(frozen=True)
class Settings:
    snapshot: tuple[str, ...]
    """snapshot files, or experiment folders (their best one)."""
    predict: PredictSettings = field(default_factory=PredictSettings)
    submission: SubmissionSettings = field(default_factory=SubmissionSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """The mean over the snapshots, each image seen as it is."""
    snapshots = find_snapshots(settings.snapshot)

    from net.prediction import predict_and_submit

    predict_and_submit(snapshots, "null", settings.predict, settings.submission, settings.machine)


if __name__ == "__main__":
    run(main, Settings)
