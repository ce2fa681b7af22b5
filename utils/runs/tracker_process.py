"""The process that sends a run's messages to its tracker: reads JSON lines from stdin, replies once at its end."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NoReturn
from urllib.parse import unquote

from utils.core.redaction import IN_ADDRESS, SECRET_NAME, redacted
from utils.runs.trackers import TRACKERS

SERVER = re.compile(r"\w+://[^/\s'\"]+")
LONGEST_REASON = 300
"""Maximum number of characters in the reason of a failure."""
SHORTEST_SECRET = 4
"""Minimum number of characters of a secret that is replaced; shorter ones may be parts of ordinary words."""


def serve() -> NoReturn:
    """Send the messages on stdin to the tracker named on the command line, until the run ends or sending fails.

    The reply on stdout is {"failed": reason}; the reason is null if nothing failed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the training handles it and then ends this process
    os.nice(10)  # if all cores are busy, the training has priority
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # keep what the package prints out of the reply
    try:
        _send(sys.argv[1], _messages())
        failed = None
    except Exception as error:
        failed = reason_of(error)
    os.write(replies, json.dumps({"failed": failed}).encode())
    os._exit(0)  # do not wait for threads of the package


def _messages() -> Iterator[tuple[str, Any]]:
    """Yield the messages on stdin. A thread reads them at once, so that the pipe to the training is never full."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    Thread(target=read, daemon=True).start()
    while (line := lines.get()).endswith("\n"):  # a kill may have truncated the last line
        what, values = json.loads(line)
        yield what, values


def _send(name: str, messages: Iterator[tuple[str, Any]]) -> None:
    _, begin = next(messages)
    tracker = TRACKERS[name](Path(begin["folder"]), begin["flags"])
    for what, values in messages:
        if what == "epoch":
            tracker.epoch(values)
        elif what == "finish":
            tracker.finish(values["summary"], [Path(file) for file in values["files"]])
        else:
            tracker.end(values)
            return
    tracker.end("interrupted")  # the training was killed


def reason_of(error: BaseException) -> str:
    """Return the reason of an error in one line without secrets; prefer the operating system's text if there is one."""
    chain: list[BaseException] = []
    while error and error not in chain:
        chain.append(error)
        wrapped = next((value for value in error.args if isinstance(value, BaseException)), None)  # as in urllib3
        error = error.__cause__ or error.__context__ or wrapped
    text = redacted((str(chain[0]).strip() or type(chain[0]).__name__).splitlines()[0])
    for link in reversed(chain):
        if reason := _system_reason(link):
            address = SERVER.search(text)
            where = link.filename or (address and address[0])
            text = f"{where}: {reason}" if where else reason
            break
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text[:LONGEST_REASON]


def _system_reason(error: BaseException) -> str | None:
    if isinstance(error, TimeoutError):
        return "no reply in time"
    if isinstance(error, ConnectionError):
        return error.strerror or str(error)
    return error.strerror if isinstance(error, OSError) else None


def _secrets() -> set[str]:
    """Return the passwords and tokens in the environment, including passwords in addresses."""
    found = {value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    for address in filter(IN_ADDRESS.search, os.environ.values()):
        password = IN_ADDRESS.search(address)[0].removesuffix("@").partition(":")[2]
        found |= {password, unquote(password)}
    return {secret for secret in found if len(secret) >= SHORTEST_SECRET}
