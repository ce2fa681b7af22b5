"""Running the scripts as a person would, and what a refusal looks like."""

import contextlib
import io
import os
import runpy
import socket
import subprocess
import sys
from types import SimpleNamespace

from bench.warm import ROOT, start
from helpers.waiting import HANGS

TINY_ARCH = "linknet_tu-test_resnet"
"""A network of half a million weights with all that others have: BatchNorm, skip connections, an encoder by timm."""
TINY = ("--arch", TINY_ARCH, "--encoder_weights", "none", "--batch_size", "8", "--optimizer", "adam_1e-3")
"""Flags of a run of train.py that is quick on a CPU."""
ENDLESS = 100_000
"""Epochs of a run that cannot finish before the test ends it."""


def run_script(script, *words, cwd=ROOT):
    """The finished process of `python <script> words...`, started in `cwd` as a user would."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )


def succeed(script, *words, cwd=ROOT):
    """The standard output of a command that has to end well."""
    done = run_script(script, *words, cwd=cwd)
    assert done.returncode == 0, f"{script} {words}: {done.stderr}\n{done.stdout}"
    return done.stdout


def start_together(script, *words, output, processes=2, cwd=ROOT, env=()):
    """Processes that work together as torchrun would start them; `output` is a folder for what each says.

    `cwd` is one folder, or one for each process.
    """
    folders = cwd if isinstance(cwd, list) else [cwd] * processes
    output.mkdir(exist_ok=True)
    together = {
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    return [
        start(
            *(script, [str(word) for word in words], output / f"{rank}.txt", folders[rank]),
            {name: str(value) for name, value in {**together, "RANK": rank, "LOCAL_RANK": rank, **dict(env)}.items()},
        )
        for rank in range(processes)
    ]


_OURS = []
"""Sockets that keep ports for the tests of this process until it ends."""


def free_port():
    """A port of this machine that nobody listens on, and that the system gives to nobody else while the tests run.

    A socket stays bound to it without listening: connections are refused, and a server that is told this port can
    still listen there, because both set SO_REUSEADDR (as asyncio, torch and uvicorn do).
    """
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ours.bind(("127.0.0.1", 0))
    _OURS.append(ours)
    return ours.getsockname()[1]


def end_together(processes, output):
    """Exit codes of the processes, and all that each said."""
    for process in processes:
        process.join(HANGS)
    said = [(output / f"{rank}.txt").read_text() for rank in range(len(processes))]
    hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hanging:
        processes[rank].kill()
    assert not hanging, f"still running: {hanging}, having said {said}"
    return [process.exitcode for process in processes], said


def run_here(script, *words, cwd=ROOT):
    """The same in this process, which has its imports behind it: for the many ways to be wrong."""
    out, err, code, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = [str(ROOT / script), *map(str, words)]
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = argv
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def assert_refused(done, code, *words):
    """One line on stderr with `words` in it, no traceback, this exit code."""
    assert done.returncode == code, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert str(word) in done.stderr
