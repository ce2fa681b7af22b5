"""Handmade runs that report to a tracker."""

from helpers.waiting import HANGS
from utils.core.files import write_json
from utils.runs import trackers
from utils.runs.run_folder import RunFolder

FLAGS = {"arch": "unet_resnet18", "batch_size": 8, "stages": ["256:20", "512:10"], "crop": None, "n_epochs": 3}
SECRET = "pa55word"


def rows(n_epochs):
    """Return rows of log.csv for these epochs."""
    return [{"epoch": epoch, "val_loss": 1 / epoch, "iout": epoch / 10, "seconds": 5.0} for epoch in n_epochs]


def new_run(path, n_epochs_logged=0):
    """Create the folder of a run that has logged some epochs."""
    path.mkdir(parents=True)
    write_json(path / "config.json", FLAGS)
    folder = RunFolder(path)
    if n_epochs_logged:
        folder.write_log(rows(range(1, n_epochs_logged + 1)))
    return folder


def patience(monkeypatch):
    """Make runs wait for their tracker without a timeout or a message, so that a busy machine changes no output."""
    for name in ("SECONDS_FINISHED", "SECONDS_BROKEN_OFF", "SECONDS_BEFORE_NOTICE"):
        monkeypatch.setattr(trackers, name, HANGS)
