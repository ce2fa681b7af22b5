"""One page of all experiments: a table to sort and filter, curves, thresholds, galleries, and whether B beats A.

python report.py experiments/*
python report.py experiments/unet_fold* experiments/wide_fold* --out two_nets.html
python report.py experiments --watch
python report.py experiments --watch --host 0.0.0.0

A folder is a run, or holds runs. The page is one file that needs no network. --watch writes none: it serves the page
and refreshes it while training goes on.
"""

from dataclasses import dataclass

from tyro.conf import Positional

from utils.core.cli import run
from utils.core.errors import UsageError


@dataclass(frozen=True)
class Settings:
    experiments: Positional[tuple[str, ...]] = ("experiments",)
    """runs, or folders of runs."""
    out: str | None = None
    """the page; default: report.html."""
    watch: bool = False
    """serve the page until Ctrl-C, made anew whenever a run has written something."""
    host: str | None = None
    """with --watch: where to serve it; default: 127.0.0.1. 0.0.0.0 opens it to whoever has the printed address."""
    port: int | None = None
    """with --watch: the port; default: 8080. 0 takes any that is free."""
    debug: bool = False
    """show the traceback of an error."""


def main(settings: Settings) -> None:
    """Write the page, or serve it."""
    for flag, value in (("--host", settings.host), ("--port", settings.port)):
        if value is not None and not settings.watch:
            raise UsageError(f"{flag} {value}: says where --watch serves the page; add --watch")
    if settings.watch and settings.out is not None:
        raise UsageError(f"--out {settings.out}: --watch serves the page and writes none; leave one of the two out")

    from utils.report.page import Maker
    from utils.report.serve import watch

    maker = Maker(settings.experiments)
    if settings.watch:
        watch(maker, "127.0.0.1" if settings.host is None else settings.host, settings.port)
    else:
        print(maker.write("report.html" if settings.out is None else settings.out))


if __name__ == "__main__":
    run(main, Settings)
