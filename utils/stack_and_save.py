"""Pack images and masks into memory-mapped arrays, row by row, and print a report of the findings.

python utils/stack_and_save.py --data_dir data
python utils/stack_and_save.py --data_dir nuclei --out_dir nuclei_packed --size 256x256
python utils/stack_and_save.py --data_dir ships --store compact --skip_broken

utils/data/layouts.py lists the known folder layouts; utils/data/packed_data.py describes the files that are written.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.settings import OptionalText
from utils.data.layouts import LAYOUTS, find_source
from utils.data.packed_tables import class_columns
from utils.data.packing import fingerprint, is_packed, pack_source
from utils.data.packing_plan import Store, without_broken
from utils.data.packing_report import line, report_lines
from utils.data.source_files import header_of


@dataclass(frozen=True)
class Settings:
    """All flags of stack_and_save.py."""

    data_dir: str = "data"
    """folder with images and masks, in one of the layouts in utils/data/layouts.py."""
    out_dir: OptionalText = None
    """folder for the arrays; default: data_dir."""
    size: OptionalText = None
    """resize all images and masks to HEIGHTxWIDTH, such as 256x256; default: every image keeps its size."""
    store: Store = "auto"
    """raw arrays, which are read fastest, or compact: images as the bytes of their files, masks as run-lengths; auto
    takes compact if raw arrays would take more than a quarter of the free disk."""
    skip_broken: bool = False
    """leave out training images whose file, mask or run-lengths are broken, and list them in the report."""
    force: bool = False
    """pack again even if the source has not changed, such as after damage to the packed files."""
    debug: bool = False
    """show the traceback of an error."""


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of a text such as "256x256".

    Raises:
        UsageError: the text has another form.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if not match:
        raise UsageError(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as --size 256x256")
    return int(match[1]), int(match[2])


def main(settings: Settings) -> None:
    """Pack `data_dir`, unless it is already packed, and print the report."""
    size = parse_size(settings.size) if settings.size is not None else None
    source = find_source(settings.data_dir)
    out_dir = Path(settings.out_dir or settings.data_dir)
    print(line("layout", f"{source.layout} ({LAYOUTS[source.layout][0]})"), flush=True)
    if table := source.class_table:
        print(line("classes", f"{table} (columns: {', '.join(class_columns(header_of(table)))})"), flush=True)
    mark = fingerprint(source, size, settings.skip_broken)
    if not settings.force and is_packed(out_dir, mark, settings.store):
        print(line("already packed", f"{out_dir}: the source has not changed, nothing to do (--force packs it again)"))
        return
    source, skipped = without_broken(source) if settings.skip_broken else (source, {})
    manifest = pack_source(source, size, settings.store, out_dir, mark, skipped)
    for part, report in manifest.report.items():
        print(*report_lines(part, report), sep="\n")
    entries = [entry for described in manifest.parts.values() for entry in described.arrays.values()]
    for entry in entries:
        print(line(entry.file, entry.shown))
    if settings.store == "auto" and any(entry.codec for entry in entries):
        print(line("store", "compact, because raw arrays would take more than a quarter of the free disk"))
    if any(described.mixed for described in manifest.parts.values()):
        print(line("sizes", "each image keeps its own; --size 256x256 would resize all of them"))
    print(line("packed in", out_dir))
    if "train" in manifest.parts:
        print(line("next", f"python utils/make_folds.py --path {shlex.quote(f'{out_dir}/train.csv')} --n_splits 5"))


if __name__ == "__main__":
    run(main, Settings)
