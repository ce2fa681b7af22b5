"""Make one fold of a packed set the test part of another packed folder: its masks lie apart, in truth.csv.

python utils/hold_out.py --data_dir nuclei --fold 4 --out_dir nuclei_held
python utils/submission.py score submission.csv --truth nuclei_held/truth.csv --data_dir nuclei_held

Train and tune on the new folder, predict its test part, and score that once: no choice has seen these images.
utils/held_out.py says what is written.
"""

from dataclasses import dataclass
from pathlib import Path

from utils.cli import run
from utils.fingerprint import is_packed
from utils.held_out import check_folder, hold_out, mark_of, open_folded
from utils.survey import line


@dataclass(frozen=True)
class Settings:
    """All flags of hold_out.py."""

    out_dir: str
    """folder to write: a new or empty one, or one with the same fold."""
    fold: int
    """the fold of train_with_folds.csv that becomes the test part."""
    data_dir: str = "data"
    """packed folder with folds, as stack_and_save.py and make_folds.py leave it."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Write the folder, unless it is there and whole, and print what is in it."""
    data_dir, out_dir = Path(settings.data_dir), Path(settings.out_dir)
    stack = open_folded(data_dir, settings.fold)
    mark = mark_of(data_dir, stack, settings.fold)
    check_folder(out_dir, mark)
    if is_packed(out_dir, mark):
        print(line("already there", f"{out_dir}: the data and the folds are the same as then, nothing to do"))
        return
    manifest = hold_out(data_dir, stack, settings.fold, out_dir, mark)
    for part, described in manifest["parts"].items():
        print(line(f"{part} images", len(described["ids"])))
        for entry in described["arrays"].values():
            print(line(f"  {entry['file']}", f"{entry['dtype']} {tuple(entry['shape'])}"))
    print(line("written to", out_dir))


if __name__ == "__main__":
    run(main, Settings)
