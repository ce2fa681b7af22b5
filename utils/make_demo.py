"""Write a synthetic data set in the layout of a competition, to try every script without a download.

python utils/make_demo.py --out_dir demo
python utils/make_demo.py --out_dir demo --n_train 400 --n_test 100 --seed 0
python utils/make_demo.py --kind ships --out_dir ships --n_train 60 --n_test 20 --seed 0

utils/synthetic/salt_survey.py and ship_survey.py describe the files. In contrast to a competition, both kinds have a
truth.csv with the masks of the test images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.names import pick
from utils.core.settings import OptionalInt
from utils.synthetic.salt_survey import write_salt
from utils.synthetic.ship_survey import write_ships

KINDS: dict[str, Callable[[Path, int, int, int, int | None], Iterator[str]]] = {
    "salt": write_salt,
    "ships": write_ships,
}
"""Name -> function (out_dir, n_train, n_test, seed, size) that writes the files and yields lines to print."""


@dataclass(frozen=True)
class Settings:
    """All flags of make_demo.py."""

    out_dir: str = "demo"
    """folder to write: a new or empty one, or one that holds the same data set."""
    n_train: int = 400
    """number of training images, with masks."""
    n_test: int = 100
    """number of test images, whose masks are only in truth.csv."""
    seed: int = 0
    """seed of the images; the same seed, numbers and size give the same files, byte for byte."""
    kind: str = "salt"
    """salt (TGS: grey, 101x101, one mask per image) or ships (Airbus: colour, 768x768, one csv row per ship)."""
    size: OptionalInt = None
    """height and width of the images of --kind ships, in pixels; default: 768."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Draw the images, write them, and print a summary."""
    write = pick(KINDS, settings.kind, "--kind")
    for flag, n in (("--n_train", settings.n_train), ("--n_test", settings.n_test)):
        if n < 1:
            raise UsageError(f"{flag} {n}: expected 1 or more")
    if not 0 <= settings.seed < 2**32:
        raise UsageError(f"--seed {settings.seed}: expected 0 to 2**32 - 1")
    for line in write(Path(settings.out_dir), settings.n_train, settings.n_test, settings.seed, settings.size):
        print(line)


if __name__ == "__main__":
    run(main, Settings)
