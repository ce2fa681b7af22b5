"""Scripts in processes of their own that begin with torch imported: each is forked from one process that did it once.

Whatever starts a script again and again (kills, tests) saves seconds each time; the script cannot tell the difference.
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
    """Start `python <script> words...` in `cwd`; stdout and stderr go to the file `output`.

    The process has `pid`, `join()`, `kill()` and, once it has ended, `exitcode` (-n: by signal n).
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
