"""Runs that are interrupted at a given moment."""

import contextlib

import pytest

from net import snapshot


@contextlib.contextmanager
def after_epoch(number, act):
    """Call `act` as soon as the state of epoch `number` is written."""
    write = snapshot.write

    def and_act(path, values):
        write(path, values)
        if path.name == "state.pt" and values["progress"]["epoch"] == number:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "write", and_act)
        yield
