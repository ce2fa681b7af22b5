"""Report on experiments: one HTML page with a sortable table, curves, thresholds, galleries and A/B comparisons.

python report.py experiments/*
python report.py experiments/unet_fold* experiments/wide_fold* --out two_nets.html
python report.py experiments --watch
python report.py experiments --watch --host 0.0.0.0

Each argument is the folder of a run or a folder of runs. The page is a single file that works offline. With --watch no
file is written: the page is served over HTTP and updated while training is running.
"""

from dataclasses import dataclass

from tyro.conf import Positional

from utils.core.cli import run
from utils.core.errors import UsageError
from utils.core.settings import OptionalInt, OptionalText


@dataclass(frozen=True)
class Settings:
    experiments: Positional[tuple[str, ...]] = ("experiments",)
    """folders of runs, or folders that contain them."""
    out: OptionalText = None
    """file that the page is written to; default: report.html."""
    watch: bool = False
    """serve the page until Ctrl-C and update it whenever a run writes something."""
    host: OptionalText = None
    """with --watch: address to listen on; default: 127.0.0.1. 0.0.0.0 opens the page to anyone with the printed URL."""
    port: OptionalInt = None
    """with --watch: port to listen on; default: 8080. 0 takes any free port."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Write the page to a file, or serve it."""
    for flag, value in (("--host", settings.host), ("--port", settings.port)):
        if value is not None and not settings.watch:
            raise UsageError(f"{flag} {value}: only applies to a page that is served; add --watch")
    if settings.watch and settings.out is not None:
        raise UsageError(f"--out {settings.out}: --watch serves the page and writes no file; remove --out or --watch")

    from utils.report.page import Maker
    from utils.report.serve import watch

    maker = Maker(settings.experiments)
    if settings.watch:
        watch(maker, "127.0.0.1" if settings.host is None else settings.host, settings.port)
    else:
        print(maker.write("report.html" if settings.out is None else settings.out))


if __name__ == "__main__":
    run(main, Settings)
