"""From folders to the page, once or again and again: what has not changed is neither judged nor drawn again."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import UsageError
from utils.files import whole_file
from utils.report.facts import Overview
from utils.report.find_runs import runs_below, short_names
from utils.report.groups import overview
from utils.report.judge import Cache
from utils.report.page import GENERATOR, build_page
from utils.report.pictures import Pictures
from utils.report.read_run import read_run
from utils.report.words import count


@dataclass
class Maker:
    """Makes the page of the runs below some paths."""

    paths: Sequence[str]
    cache: Cache = field(default_factory=Cache)
    pictures: Pictures = field(default_factory=Pictures)

    def read(self) -> Overview:
        """All runs as they are now; raises UserError if there are none."""
        folders = runs_below(self.paths)
        names = short_names(folders)
        return overview([read_run(path, name, self.cache) for path, name in zip(folders, names, strict=True)])

    def page(self) -> bytes:
        """The page as it is served."""
        return build_page(self.read(), self.pictures, None)

    def write(self, out: str | Path) -> str:
        """Write the page to a file, as a whole; what was done, in a line.

        Raises:
            UsageError: `out` is a folder, or a file that is no page of ours.
            UserError: there are no runs.
        """
        out = Path(out)
        _check(out)
        found = self.read()
        page = build_page(found, self.pictures, out.parent)
        with whole_file(out) as part:
            part.write_bytes(page)
        runs = [run for group in found.groups for run in group.runs]
        lost = sum(run.state == "unreadable" for run in runs)
        unreadable = f" ({lost} of them cannot be read, and the page says why)" if lost else ""
        rows = count(len(found.groups), "row")
        return f"{out}: {count(len(runs), 'run')} in {rows}{unreadable}, {len(page) / 1e6:.1f} MB"


def _check(out: Path) -> None:
    """Raise a UsageError where the page would replace something else."""
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file, such as {out / 'report.html'}")
    if os.path.lexists(out):
        with open(out, "rb") as file:
            if GENERATOR.encode() not in file.read(2000):
                raise UsageError(f"--out {out}: is there already and is no page of experiments; name another file")
