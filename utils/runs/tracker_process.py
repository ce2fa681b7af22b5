"""The process that sends what a run tells its tracker: reads lines of JSON from stdin, answers once, at its end."""

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

from utils.core.redaction import IN_ADDRESS, SECRET_NAME, open_text
from utils.runs.trackers import TRACKERS

SERVER = re.compile(r"\w+://[^/\s'\"]+")
LONGEST_REASON = 300
"""Characters of a message."""
SHORTEST_SECRET = 4
"""Characters; what is shorter would tear holes into any text."""


def serve() -> NoReturn:
    """Send what comes in for the tracker that the command line names, until the run has ended or a sending fails.

    The answer on stdout is {"failed": reason}, null where all went well.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the training is told, and then ends this process
    os.nice(10)  # where all cores are taken, the training goes first
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a package prints is no answer
    try:
        _send(sys.argv[1], _messages())
        failed = None
    except Exception as error:
        failed = reason_of(error)
    os.write(answers, json.dumps({"failed": failed}).encode())
    os._exit(0)  # without waiting for threads of the package


def _messages() -> Iterator[tuple[str, Any]]:
    """What comes in. A thread takes it off the pipe at once, so that the training never finds it full."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    Thread(target=read, daemon=True).start()
    while (line := lines.get()).endswith("\n"):  # a kill may have cut the last one
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
    """One line that says what went wrong, without secrets: the machine's own word for it, where there is one."""
    chain: list[BaseException] = []
    while error and error not in chain:
        chain.append(error)
        wrapped = next((value for value in error.args if isinstance(value, BaseException)), None)  # as urllib3 does it
        error = error.__cause__ or error.__context__ or wrapped
    text = open_text((str(chain[0]).strip() or type(chain[0]).__name__).splitlines()[0])
    for link in reversed(chain):
        if word := _word_for(link):
            address = SERVER.search(text)
            where = link.filename or (address and address[0])
            text = f"{where}: {word}" if where else word
            break
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text[:LONGEST_REASON]


def _word_for(error: BaseException) -> str | None:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionError):
        return error.strerror or str(error)
    return error.strerror if isinstance(error, OSError) else None


def _secrets() -> set[str]:
    """What no message may hold: passwords and tokens in the environment, also those within addresses."""
    found = {value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    for address in filter(IN_ADDRESS.search, os.environ.values()):
        password = IN_ADDRESS.search(address)[0].removesuffix("@").partition(":")[2]
        found |= {password, unquote(password)}
    return {secret for secret in found if len(secret) >= SHORTEST_SECRET}
