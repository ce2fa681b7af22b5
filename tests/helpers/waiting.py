"""Wait for other processes, regardless of how busy the machine is."""

import time

HANGS = 1200
"""Timeout in seconds. No test needs a tenth of it, so a busy machine does not change results."""


def until(found, alive=lambda: True):
    """Call `found` until its result is true; return the result.

    Args:
        found: function to call repeatedly.
        alive: function that returns False if `found` can no longer succeed, for example because a process has ended;
            the wait then fails at once.
    """
    deadline = time.monotonic() + HANGS
    while not (value := found()):
        assert alive() or found(), "the condition can no longer become true: the process has ended"
        assert time.monotonic() < deadline, "timeout: the condition never became true"
        time.sleep(0.02)
    return value
