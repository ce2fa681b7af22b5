"""Running the scripts as a person would, and what a refusal looks like."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--arch", "unet_resnet18", "--encoder_weights", "none", "--batch_size", "8", "--optimizer", "adam_1e-3")
"""Flags of a run of train.py that is quick on a CPU."""


def run_script(script, *words, cwd=ROOT):
    """The finished process of `python <script> words...`, started in `cwd` as a user would."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def succeed(script, *words, cwd=ROOT):
    """The standard output of a command that has to end well."""
    done = run_script(script, *words, cwd=cwd)
    assert done.returncode == 0, f"{script} {words}: {done.stderr}\n{done.stdout}"
    return done.stdout


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
