"""A synthetic survey in the layout of a competition, to try every script on without a download.

python utils/make_demo.py --out_dir demo
python utils/make_demo.py --out_dir demo --n_train 400 --n_test 100 --seed 0
python utils/make_demo.py --kind ships --out_dir ships --n_train 60 --n_test 20 --seed 0

utils/synthetic/salt_survey.py and ship_survey.py say what is written; both have a truth.csv, which no competition
has.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.names import pick
from utils.synthetic.salt_survey import write_salt
from utils.synthetic.ship_survey import write_ships

KINDS: dict[str, Callable[[Path, int, int, int, int | None], Iterator[str]]] = {
    "salt": write_salt,
    "ships": write_ships,
}
"""Name -> what writes the survey (out_dir, n_train, n_test, seed, size) and tells of it, line by line."""


@dataclass(frozen=True)
class Settings:
    """All flags of make_demo.py."""

    out_dir: str = "demo"
    """folder for the survey: a new or empty one, or one with the same survey."""
    n_train: int = 400
    """images with masks."""
    n_test: int = 100
    """images whose masks are in truth.csv alone."""
    seed: int = 0
    """decides everything: the same seed and numbers give the same files, byte for byte."""
    kind: str = "salt"
    """salt (TGS: grey sections of 101x101, a mask an image) or ships (Airbus: colour, 768x768, a row a ship)."""
    size: int | None = None
    """height and width of the images of --kind ships, in pixels; default: 768."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Draw the images, write them, and print what there is."""
    write = pick(KINDS, settings.kind, "--kind")
    for flag, n in (("--n_train", settings.n_train), ("--n_test", settings.n_test)):
        if n < 1:
            raise UsageError(f"{flag} {n}: at least 1 image")
    if not 0 <= settings.seed < 2**32:
        raise UsageError(f"--seed {settings.seed}: a seed is from 0 to 2**32 - 1")
    for line in write(Path(settings.out_dir), settings.n_train, settings.n_test, settings.seed, settings.size):
        print(line)


if __name__ == "__main__":
    run(main, Settings)
