"""Progress bars on a terminal, in a notebook and in a pipe, and the time left for the entire run."""

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
"""A clock that advances by 0.11 s whenever it is read. tqdm redraws a bar at most ten times per second, so with this
clock every step is drawn, and the epoch takes the same time on every machine."""


def test_a_terminal_shows_one_bar_with_loss_speed_and_time_left():
    our_end, their_end = pty.openpty()
    termios.tcsetwinsize(their_end, (24, 100))
    done = subprocess.Popen([sys.executable, "-c", CLOCK + EPOCH], cwd=ROOT, stdout=their_end, stderr=their_end)
    os.close(their_end)
    shown = b""
    while True:
        try:
            shown += os.read(our_end, 4096)
        except OSError:  # the terminal is closed when the process ends
            break
    assert done.wait() == 0
    text = shown.decode()
    assert re.search(r"epoch 2/3: +\d+%.*/8 \[.* images/s, loss 0\.2500, run 4 h left\]", text)
    assert text.rstrip().endswith("epoch 2/3  val_loss 0.3")
    assert text.count("\n") == 1  # the bar is erased, the printed line stays


def test_a_pipe_gets_lines_only():
    done = subprocess.run([sys.executable, "-c", EPOCH], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "epoch 2/3  val_loss 0.3\n"
    assert done.stderr == ""


def test_a_notebook_shows_a_widget_bar_and_the_line():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(EPOCH)])
    NotebookClient(notebook, startup_timeout=HANGS, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = notebook.cells[0].outputs
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
    streams = {name: "".join(one.text for one in outputs if one.get("name") == name) for name in ("stdout", "stderr")}
    assert streams["stdout"].strip() == "epoch 2/3  val_loss 0.3"
    assert streams["stderr"] == ""


def test_the_time_left_takes_the_weight_of_each_epoch_into_account():
    left = TimeLeft([1, 1, 4, 4])
    assert left.seconds() is None
    assert left.seconds(share=0.5, elapsed=10) == pytest.approx(10 + 20 + 80 + 80)
    left.epoch_finished(30)
    assert left.seconds() == pytest.approx(30 + 120 + 120)
    assert left.seconds(share=0.5, elapsed=12) == pytest.approx(18 + 240)
    assert left.seconds(share=0.9, elapsed=50) == pytest.approx(240)
    for seconds in (30, 130, 125):
        left.epoch_finished(seconds)
    assert left.seconds() == 0


def test_a_resumed_run_starts_with_the_time_of_its_last_epoch():
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
def test_durations_use_at_most_two_units(seconds, text):
    assert duration(seconds) == text
