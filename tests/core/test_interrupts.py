"""Signals: asked for once, obeyed once, by all."""

import signal

import pytest

from net.distributed import Processes
from utils.core.errors import Interrupted
from utils.core.interrupts import StopRequest


def test_a_signal_that_comes_while_the_processes_ask_each_other_is_not_lost(monkeypatch):
    stop, processes = StopRequest(), Processes(rank=0, size=2)
    arriving = iter([signal.SIGINT])

    def all_reduce(*_args, **_options):
        stop.signal_number = next(arriving, stop.signal_number)

    monkeypatch.setattr("net.distributed.dist.all_reduce", all_reduce)
    processes.obey_stop(stop, "the others do not know of it yet")
    with pytest.raises(Interrupted, match="now they do"):
        processes.obey_stop(stop, "now they do")
