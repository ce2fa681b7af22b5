"""The page made again and again while training goes on, and served (utils/report/serve.py)."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from utils.cli import explain
from utils.errors import Interrupted, UserError
from utils.report.find_runs import runs_below
from utils.report.maker import Maker
from utils.report.serve import Server, address_of, open_server, shown
from utils.run_status import read_status

PORT = 8080
SECONDS = 2.0
"""Between two looks at the folders."""
SHARE = 0.2
"""Of one core's time that making the page takes at most: training has the rest."""

State = frozenset[tuple[str, int, int]]


def watch(maker: Maker, host: str, port: int | None, seconds: float = SECONDS) -> NoReturn:
    """Serve the page until Ctrl-C, and make it anew whenever a run has written something.

    Raises:
        UsageError, UserError: there are no runs, or no way to listen there (`open_server`).
    """
    with open_server(host, PORT if port is None else port) as server:
        state, page = folders_state(maker.paths), maker.page()
        server.page = shown(page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"{address_of(server, host)}: made anew while training goes on; Ctrl-C ends it", flush=True)
        if server.path != "/":
            print("whoever has this address can look at the page, and at nothing else", flush=True)
        try:
            _keep_up(server, maker, page, state, seconds)
        finally:
            server.shutdown()


def _keep_up(server: Server, maker: Maker, page: bytes, state: State | None, seconds: float) -> NoReturn:
    told, pause = "", seconds
    while True:
        time.sleep(pause)
        began, problem = time.monotonic(), ""
        try:
            now = folders_state(maker.paths)
            if now != state:
                page, state = maker.page(), now
        except Interrupted:
            raise
        except Exception as error:  # whatever it is: the last good page stays, and the next look may find it mended
            problem, state = f"This page is not made anew: {explain(error)[1]}", None
        if server.page.made_of != (page, problem):
            server.page = shown(page, problem)
        if problem and problem != told:
            print(problem, file=sys.stderr, flush=True)
        told, pause = problem, max(seconds, (time.monotonic() - began) / SHARE)


def folders_state(paths: Sequence[str]) -> State:
    """Name, time of change and size of every file of every run: while that is the same, so is the page.

    Raises:
        UserError: there are no runs.
    """
    return frozenset(mark for folder in runs_below(paths) for mark in _marks_of(folder))


def _marks_of(folder: Path) -> Iterator[tuple[str, int, int]]:
    yield from _files_in(folder)
    for place, _, _ in os.walk(folder / "snapshots"):
        yield from _files_in(Path(place))
    try:
        status = read_status(folder)
    except (UserError, OSError):
        status = None  # the page says so
    yield f"{folder} is {status.state if status else 'unknown'}", 0, 0  # a process that was killed writes nothing


def _files_in(folder: Path) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name != "state.pt":
                    file = entry.stat(follow_symlinks=False)
                    yield entry.path, 0 if entry.is_dir() else file.st_mtime_ns, 0 if entry.is_dir() else file.st_size
    except OSError:
        yield f"{folder} cannot be read", 0, 0
