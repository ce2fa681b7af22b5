"""Waiting for other processes, however busy the machine is."""

import time

HANGS = 1200
"""Seconds after which something counts as hanging. No test needs a tenth of it, so a busy machine changes no result."""


def until(found, alive=lambda: True):
    """Return what `found` returns as soon as it is true.

    Args:
        found: is called again and again.
        alive: whether it can still become true; the wait fails at once when it cannot, such as after a process ended.
    """
    deadline = time.monotonic() + HANGS
    while not (value := found()):
        assert alive() or found(), "it can no longer come: what it was waiting for has ended"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return value
