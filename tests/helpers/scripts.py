"""Run the scripts as a user would, and check their error messages."""

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
"""A network of half a million weights with the parts of larger ones: BatchNorm, skip connections, a timm encoder."""
TINY = (
    *("--arch", TINY_ARCH, "--recipe", "original", "--encoder_weights", "none", "--batch_size", "8"),
    *("--optimizer", "adam_1e-3"),
)
"""Flags of a run of train.py that is fast on a CPU."""
ENDLESS = 100_000
"""Number of epochs of a run that cannot finish before the test ends it."""


def run_script(script, *words, cwd=ROOT):
    """Run `python <script> words...` in `cwd` as a user would; return the finished process."""
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
    """Run a command that has to succeed; return its standard output."""
    done = run_script(script, *words, cwd=cwd)
    assert done.returncode == 0, f"{script} {words}: {done.stderr}\n{done.stdout}"
    return done.stdout


def start_together(script, *words, output, processes=2, cwd=ROOT, env=()):
    """Start processes that train together, as torchrun would start them; return them by rank.

    Args:
        script: script to run in each process.
        words: its flags.
        output: folder for the output of each process.
        processes: number of processes.
        cwd: one folder, or a list with one for each process.
        env: additional environment variables.
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
"""Sockets that reserve ports for the tests of this process until it ends."""


def free_port():
    """Return a port without a listener that the system gives to no other process while the tests run.

    A socket stays bound to the port without listening, so connections are refused. A server can still listen on the
    port because both sockets set SO_REUSEADDR (as asyncio, torch and uvicorn do).
    """
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ours.bind(("127.0.0.1", 0))
    _OURS.append(ours)
    return ours.getsockname()[1]


def end_together(processes, output):
    """Wait for the processes of `start_together`; return their exit codes and their output."""
    for process in processes:
        process.join(HANGS)
    outputs = [(output / f"{rank}.txt").read_text() for rank in range(len(processes))]
    hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hanging:
        processes[rank].kill()
    assert not hanging, f"still running: {hanging}, their output: {outputs}"
    return [process.exitcode for process in processes], outputs


def run_here(script, *words, cwd=ROOT):
    """Run a script like `run_script`, but in this process, which is faster because its imports are done."""
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
    """Check that a script ended with this exit code and one line on stderr that contains `words`."""
    assert done.returncode == code, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert str(word) in done.stderr
