"""Train the same small network in bfloat16 and in float32 with several seeds, to compare the scores with the noise.

python bench/precision.py --data_dir demo

Prints the validation loss and the iout of the best epoch, and the training speed in images/s.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.warm import start
from utils.core.cli import run
from utils.core.errors import UserError
from utils.core.files import read_json
from utils.core.tables import read_table
from utils.runs.run_folder import RunFolder

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    data_dir: str = "demo"
    """packed folder with folds."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """seeds of the runs."""
    n_epochs: int = 14
    """number of epochs of each run."""
    flags: str = (
        "--arch unet_resnet18 --encoder_weights none --loss bce_lovasz --optimizer adam_1e-3 --scheduler cosine "
        "--batch_size 8 --keep 1"
    )
    """additional flags of train.py."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Train with each seed in each precision, one run after the other, and print the scores."""
    found: dict[str, list[tuple[float, float, float]]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as work:
        for seed in settings.seeds:
            for precision in PRECISIONS:
                folder = RunFolder(Path(work) / f"{precision}_{seed}")
                found[precision].append(_train(settings, folder, seed, precision))
                loss, iout, speed = found[precision][-1]
                print(
                    f"{precision:<9} seed {seed}: val_loss {loss:.4f}  iout {iout:.4f}  {speed:.0f} images/s",
                    flush=True,
                )
    for precision, results in found.items():
        losses, iouts, _ = zip(*results, strict=True)
        print(f"{precision:<9} val_loss {_spread(losses)}  iout {_spread(iouts)}")


def _train(settings: Settings, folder: RunFolder, seed: int, precision: str) -> tuple[float, float, float]:
    words = ["--data_dir", settings.data_dir, "--n_epochs", str(settings.n_epochs), *settings.flags.split()]
    words += ["--seed", str(seed), "--precision", precision, "--experiment_dir", str(folder.path)]
    process = start("train.py", words, f"{folder.path}.txt", Path.cwd())
    process.join()
    if process.exitcode:
        raise UserError(f"train.py failed: {Path(f'{folder.path}.txt').read_text().strip()[-300:]}")
    summary = read_json(folder.summary)
    speeds = [float(speed) for speed in read_table(folder.log)["images_per_s"]]
    return summary["val_loss"], summary["iout"], statistics.median(speeds)


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    run(main, Settings)
