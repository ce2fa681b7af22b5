"""Bars on a terminal, none in a pipe, and the time left for the whole run."""

import os
import pty
import re
import subprocess
import sys
import termios

import nbformat
import pytest
from helpers.scripts import ROOT
from helpers.waiting import HANGS
from nbclient import NotebookClient

from utils.core.progress import TimeLeft, duration

EPOCH = """
from utils.core.progress import EpochBar
from utils.core.progress import TimeLeft
left = TimeLeft([1, 1, 1], done=1, latest=7200)
with EpochBar("epoch 2/3", 8, left) as bar:
    for _ in range(4):
        bar.add(2, 0.25)
print("epoch 2/3  val_loss 0.3")
"""
CLOCK = """
import itertools, time
ticks = itertools.count()
time.time = time.perf_counter = lambda: next(ticks) * 0.11
"""
"""A clock that goes on by 0.11 s whenever it is read. A bar is drawn ten times a second at most, so that each of its
steps is drawn, and the time that the epoch takes is the same on every machine."""


def test_on_a_terminal_there_is_one_bar_with_loss_speed_and_the_time_left():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    done = subprocess.Popen([sys.executable, "-c", CLOCK + EPOCH], cwd=ROOT, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the terminal is closed once the process has ended
            break
    assert done.wait() == 0
    text = shown.decode()
    assert re.search(r"epoch 2/3: +\d+%.*/8 \[.* images/s, loss 0\.2500, run 4 h left\]", text)
    assert text.rstrip().endswith("epoch 2/3  val_loss 0.3")
    assert text.count("\n") == 1  # the bar has gone, the line stays


def test_in_a_pipe_there_are_lines_only():
    done = subprocess.run([sys.executable, "-c", EPOCH], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "epoch 2/3  val_loss 0.3\n"
    assert done.stderr == ""


def test_in_a_notebook_there_is_a_bar_of_its_own_and_the_line():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(EPOCH)])
    NotebookClient(notebook, startup_timeout=HANGS, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = notebook.cells[0].outputs
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
    said = {name: "".join(one.text for one in outputs if one.get("name") == name) for name in ("stdout", "stderr")}
    assert said["stdout"].strip() == "epoch 2/3  val_loss 0.3"
    assert said["stderr"] == ""


def test_the_time_left_counts_what_each_epoch_weighs():
    left = TimeLeft([1, 1, 4, 4])
    assert left.seconds() is None
    assert left.seconds(share=0.5, elapsed=10) == pytest.approx(10 + 20 + 80 + 80)
    left.epoch_took(30)
    assert left.seconds() == pytest.approx(30 + 120 + 120)
    assert left.seconds(share=0.5, elapsed=12) == pytest.approx(18 + 240)
    assert left.seconds(share=0.9, elapsed=50) == pytest.approx(240)
    for seconds in (30, 130, 125):
        left.epoch_took(seconds)
    assert left.seconds() == 0


def test_a_run_that_goes_on_begins_with_what_its_last_epoch_took():
    assert TimeLeft([1, 1, 4], done=2, latest=30).seconds() == pytest.approx(120)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (45, "45 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (1229, "20 min"),
        (3599.6, "1 h"),
        (4320, "1 h 12 min"),
        (2.2e5, "2 d 13 h"),
    ],
)
def test_durations_are_said_in_two_units(seconds, text):
    assert duration(seconds) == text
