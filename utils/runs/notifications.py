"""Messages about how a run ended, by apprise: mail, Telegram, Slack and a hundred more. None of them can harm the run.

An address holds passwords and tokens: it is written nowhere, and no message shows more of it than its scheme.
"""

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from utils.core.errors import Interrupted, ToldElsewhere, UsageError, UserError, explain
from utils.core.files import read_json
from utils.core.progress import duration
from utils.core.redaction import open_text
from utils.runs.run_folder import RunFolder, snapshot_file

if TYPE_CHECKING:
    from apprise import Apprise

VARIABLE = "STRATA_NOTIFY"
SECONDS = 20
"""The longest that a run waits for its messages to be sent."""
Kind = Literal["success", "failure", "warning"]


def urls_of(flag: Sequence[str]) -> list[str]:
    """The addresses of --notify, and those of STRATA_NOTIFY (several with blanks between), each once."""
    return list(dict.fromkeys([*flag, *os.environ.get(VARIABLE, "").split()]))


def check_notify(urls: Sequence[str]) -> None:
    """See that apprise understands every address; nothing is sent.

    Raises:
        UsageError: it does not understand one, which is named by its scheme only.
    """
    for url in urls:
        scheme = _scheme(url)
        if not scheme:
            raise UsageError(f"--notify (or {VARIABLE}): expected addresses such as mailto://..., one has no scheme")
        if _service(url) is None:
            raise UsageError(
                f"--notify (or {VARIABLE}) {scheme}://...: apprise does not understand this address; "
                "`apprise --details` shows how each is written"
            )


@contextmanager
def telling(urls: Sequence[str], folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Send word of how the run in `folder` ended, after a block around its training.

    The block gets a function that takes the summary of the finished run (summary.json) and sends it. An error that
    leaves the block is sent as the one line that it will print, and goes on unchanged.

    Args:
        urls: addresses that `check_notify` has passed; none: nothing is sent.
        folder: the run's.
    """
    name = Path(os.path.abspath(folder)).name

    def told(summary: Mapping[str, Any]) -> None:
        score, lines = _finished(summary, folder)
        send(urls, f"{name}: finished, {score}", lines, "success")

    try:
        yield told
    except ToldElsewhere:
        raise
    except (Exception, KeyboardInterrupt) as error:
        interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
        lines = [_reason(error, folder), f"{folder} on {socket.gethostname()}"]
        title = f"{name}: interrupted" if interrupted else f"{name}: failed"
        send(urls, title, lines, "warning" if interrupted else "failure")
        raise


def send(urls: Sequence[str], title: str, lines: Sequence[str], kind: Kind) -> None:
    """Send a message to all addresses at once; one that cannot be reached is a line on stderr.

    Returns after SECONDS at most, or when Ctrl-C or SIGTERM does not want to wait.
    """
    failures: dict[str, str | None] = dict.fromkeys(urls, f"not sent within {SECONDS} s")

    def send_to(url: str) -> None:
        failures[url] = _sent(url, title, "\n".join(lines), kind)

    # Threads of our own, that do not keep the process from ending when a server hangs.
    threads = [Thread(target=send_to, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + SECONDS
    try:
        with _unheard():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(deadline - time.monotonic(), 0))
    except (KeyboardInterrupt, Interrupted):
        return
    for url, failure in failures.items():
        if failure:
            print(f"notify: {_scheme(url)}://...: {failure}; the run is not affected", file=sys.stderr, flush=True)


def _sent(url: str, title: str, text: str, kind: Kind) -> str | None:
    """Send a message; what went wrong, or None."""
    from apprise import NotifyFormat

    try:
        service = _service(url)
        result = service.notify(text, title=title, notify_type=kind, body_format=NotifyFormat.TEXT)
        if result:
            return None
        said = [entry.message for entry in result.logs()]
    except Exception as error:  # whatever a service raises: the run has ended, and its word counts
        said = [f"{type(error).__name__}: {error}"]
    return _without_address(said[-1] if said else "", url)


def _without_address(text: str, url: str) -> str:
    """What a service says, if it repeats no piece of the address; else that it failed."""
    pieces = re.findall(r"\w{3,}", unquote(url).partition("://")[2] + " " + url.partition("://")[2])
    if not text or any(piece.lower() in text.lower() for piece in pieces):
        return "the message could not be sent (`apprise -vv --body test ADDRESS` says why)"
    return " ".join(text.split())[:200]


def _service(url: str) -> "Apprise | None":
    """apprise with one service, or None if it does not understand the address."""
    from apprise import Apprise, AppriseAsset

    with _unheard():
        asset = AppriseAsset(app_id="Strata", app_desc="Strata", service_timeout=0)  # no limit: no threads of its own
        service = Apprise.instantiate(url, asset=asset)
        return None if service is None else Apprise(service, asset=asset)


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep apprise's own log, which may name addresses, from logs that somebody has set up."""
    log = logging.getLogger("apprise")
    before, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.propagate = before


def _scheme(url: str) -> str:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return match[1].lower() if match else ""


def _reason(error: BaseException, folder: Path) -> str:
    line = open_text(explain(error)[1])
    if isinstance(error, KeyboardInterrupt) and RunFolder(folder).state.is_file():
        line += "; the same command with --resume goes on from the last finished epoch"
    return line


def _finished(summary: Mapping[str, Any], folder: Path) -> tuple[str, list[str]]:
    """The score of a finished run, as a title names it, and the lines of the message."""
    measure = snapshot_file(summary["best_snapshot"]).measure
    score = f"{measure} {summary[measure]:.4f}"
    return score, [
        f"{score} at epoch {summary['epoch']}",
        f"time: {duration(summary['seconds'])}, {summary['machine']}",
        _place(measure, summary[measure], folder),
        f"best snapshot: {folder / summary['best_snapshot']}",
    ]


def _place(measure: str, score: float, folder: Path) -> str:
    """Where a run stands among the finished ones beside it that are ranked by the same measure."""
    here = Path(os.path.abspath(folder))
    others = [path for path in here.parent.glob("*/summary.json") if path.parent != here]
    scores = {path.parent.name: rival for path in others if (rival := _score(path, measure)) is not None}
    if not scores:
        return f"the only finished run in {here.parent} that is ranked by {measure}"
    place = 1 + sum(rival > score for rival in scores.values())
    best = max(scores, key=scores.__getitem__)
    rest = f"best of the others: {best} with {scores[best]:.4f}"
    return f"place {place} of {len(scores) + 1} in {here.parent}, by {measure}; {rest}"


def _score(path: Path, measure: str) -> float | None:
    """The score in a summary.json; None where there is none by this measure."""
    try:
        summary = read_json(path)
        if snapshot_file(summary["best_snapshot"]).measure == measure:
            return float(summary[measure])
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return None  # not ours, or cannot be read
    return None
