"""Compare training on crops of large images from compact and from raw packed data: images/s, interleaved in one run.

python bench/crops.py --data_dir ships            # a folder that make_demo.py --kind ships has written

Both stores hold the same images, and both networks start from the same weights and see the same crops, so only the
reading differs. In each round the stores take turns; round 0 is a warm-up. The raw arrays should fit in memory.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from net.distributed import Processes
from net.loops import fit
from net.prepare_run import prepare
from net.tasks import border_task
from net.train_folds import complete
from net.training import Run
from train_border import Settings as TrainingSettings
from utils import make_folds, stack_and_save
from utils.core.cli import run
from utils.core.interrupts import StopRequest
from utils.core.progress import EpochBar
from utils.core.settings import settings_of

STORES = ("raw", "compact")


@dataclass(frozen=True)
class Settings:
    data_dir: str = "ships"
    """folder with images and masks."""
    arch: str = "strata_s"
    """network to train."""
    crop: int = 256
    """side of the crops in pixels."""
    images: int = 160
    """images per store and round."""
    rounds: int = 6
    """measured rounds."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Pack twice, train in turns, and print the rates and their ratio."""
    with tempfile.TemporaryDirectory() as work:
        runs = {store: prepared(settings, Path(work) / store, store) for store in STORES}
        for one in runs.values():
            one.machine.tune()
        learners = {store: one.learner() for store, one in runs.items()}
        loaders = {store: one.loader() for store, one in runs.items()}
        rates: dict[str, list[float]] = {store: [] for store in STORES}
        for number in range(settings.rounds + 1):
            for store in STORES if number % 2 else STORES[::-1]:
                batches = runs[store].batches
                batches.epoch = number
                started = time.perf_counter()
                with EpochBar("training", batches.size, hidden=True) as bar:
                    fit(learners[store], loaders[store], batches, bar, StopRequest(), "")
                if number:
                    rates[store].append(batches.size / (time.perf_counter() - started))
    for store, found in rates.items():
        print(f"{store:<16}{statistics.median(found):6.1f} images/s ({min(found):.1f} to {max(found):.1f})")
    found = [compact / raw for raw, compact in zip(rates["raw"], rates["compact"], strict=True)]
    print(f"compact / raw   {statistics.median(found):6.3f} ({min(found):.3f} to {max(found):.3f})")


def prepared(settings: Settings, folder: Path, store: str) -> Run:
    """Pack the images into `folder` and prepare the training on them."""
    stack_and_save.main(stack_and_save.Settings(settings.data_dir, str(folder), store=store))
    make_folds.main(make_folds.Settings(str(folder / "train.csv"), n_splits=5))
    flags = {
        "data_dir": str(folder),
        "experiment_dir": str(folder / "run"),
        "arch": settings.arch,
        "encoder_weights": "none",
        "crop": settings.crop,
        "epoch_size": settings.images,
        "n_epochs": settings.rounds + 1,
        "quiet": True,
    }
    make_task = partial(border_task, border="both", width=1, weight=1.0)
    filled = complete(settings_of(TrainingSettings, flags), make_task, Processes(), time.monotonic())
    return prepare(filled, make_task)


if __name__ == "__main__":
    run(main, Settings)
