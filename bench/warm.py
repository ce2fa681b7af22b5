"""Start scripts in new processes that already have torch imported, forked from one process that imported it once.

This saves seconds per start for tests and for bench/kill_resume.py, which start many scripts. A script cannot tell the
difference from a new Python.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["net.training", "net.predict_and_submit"])


def start(
    script: str, words: list[str], output: str | Path, cwd: str | Path = ROOT, env: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Start `python <script> words...` in `cwd`; stdout and stderr are appended to the file `output`.

    Returns:
        A process with `pid`, `join()`, `kill()` and, after its end, `exitcode` (-n if signal n ended it).
    """
    process = _CONTEXT.Process(target=_run, args=(script, words, str(output), str(cwd), dict(env or {})))
    process.start()
    return process


def _run(script: str, words: list[str], output: str, cwd: str, env: dict[str, str]) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = [str(ROOT / script), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")
