"""Signals stop all processes of a run at the same step."""

import signal

import pytest

from net.distributed import Processes
from utils.core.errors import Interrupted
from utils.core.interrupts import StopRequest


def test_a_signal_that_arrives_while_the_processes_synchronise_is_not_lost(monkeypatch):
    stop, processes = StopRequest(), Processes(rank=0, size=2)
    arriving = iter([signal.SIGINT])

    def all_reduce(*_args, **_options):
        stop.signal_number = next(arriving, stop.signal_number)

    monkeypatch.setattr("net.distributed.dist.all_reduce", all_reduce)
    processes.raise_if_stopped(stop, "before the other processes know")
    with pytest.raises(Interrupted, match="all processes know"):
        processes.raise_if_stopped(stop, "all processes know")
