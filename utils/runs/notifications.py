"""Notifications of how a run ended, sent by apprise: mail, Telegram, Slack and about a hundred other services.

A notification that fails does not affect the run. Addresses hold passwords and tokens, so they are not stored, and
messages show only their scheme.
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

from utils.core.errors import Interrupted, ReportedElsewhere, UsageError, UserError, explain
from utils.core.files import read_json
from utils.core.progress import duration
from utils.core.redaction import redacted
from utils.runs.run_folder import RunFolder, snapshot_file

if TYPE_CHECKING:
    from apprise import Apprise

VARIABLE = "STRATA_NOTIFY"
SECONDS = 20
"""Maximum number of seconds that a run waits for its messages to be sent."""
Kind = Literal["success", "failure", "warning"]


def addresses() -> list[str]:
    """Return the addresses in STRATA_NOTIFY (separated by whitespace), without duplicates."""
    return list(dict.fromkeys(os.environ.get(VARIABLE, "").split()))


def check_notify(urls: Sequence[str]) -> None:
    """Check that apprise understands every address; send nothing.

    Raises:
        UsageError: apprise does not understand an address; the message shows only its scheme.
    """
    for url in urls:
        scheme = _scheme(url)
        if not scheme:
            raise UsageError(f"{VARIABLE}: expected addresses such as mailto://..., one has no scheme")
        if _service(url) is None:
            raise UsageError(
                f"{VARIABLE} {scheme}://...: apprise does not understand this address; "
                "`apprise --details` lists the form of each service's addresses"
            )


@contextmanager
def notifying(urls: Sequence[str], folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Notify `urls` of how the training in the `with` block ended.

    The block gets a function that takes the summary of the finished run (summary.json) and sends it. An error that
    leaves the block is sent as the one line that the script prints for it, and is raised unchanged; only
    ReportedElsewhere is not sent, because another process of the run has reported it.

    Args:
        urls: addresses that have passed `check_notify`; if empty, nothing is sent.
        folder: the run folder.
    """
    name = Path(os.path.abspath(folder)).name

    def send_summary(summary: Mapping[str, Any]) -> None:
        score, lines = _finished(summary, folder)
        send(urls, f"{name}: finished, {score}", lines, "success")

    try:
        yield send_summary
    except ReportedElsewhere:
        raise
    except (Exception, KeyboardInterrupt) as error:
        interrupted = isinstance(error, KeyboardInterrupt | Interrupted)
        lines = [_reason(error, folder), f"{folder} on {socket.gethostname()}"]
        title = f"{name}: interrupted" if interrupted else f"{name}: failed"
        send(urls, title, lines, "warning" if interrupted else "failure")
        raise


def send(urls: Sequence[str], title: str, lines: Sequence[str], kind: Kind) -> None:
    """Send a message to all addresses in parallel, and print a line on stderr for each failure.

    Return after at most SECONDS, or earlier on Ctrl-C or SIGTERM.
    """
    failures: dict[str, str | None] = dict.fromkeys(urls, f"not sent within {SECONDS} s")

    def send_to(url: str) -> None:
        failures[url] = _sent(url, title, "\n".join(lines), kind)

    # Daemon threads do not keep the process alive when a server hangs.
    threads = [Thread(target=send_to, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + SECONDS
    try:
        with _log_detached():
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
    """Send a message to one address; return the reason of a failure, or None."""
    from apprise import NotifyFormat

    try:
        service = _service(url)
        result = service.notify(text, title=title, notify_type=kind, body_format=NotifyFormat.TEXT)
        if result:
            return None
        reasons = [entry.message for entry in result.logs()]
    except Exception as error:  # no error of a service may replace the result of the run
        reasons = [f"{type(error).__name__}: {error}"]
    return _without_address(reasons[-1] if reasons else "", url)


def _without_address(text: str, url: str) -> str:
    """Return a service's message on one line, or a general one if it repeats a part of the address."""
    pieces = re.findall(r"\w{3,}", unquote(url).partition("://")[2] + " " + url.partition("://")[2])
    if not text or any(piece.lower() in text.lower() for piece in pieces):
        return "the message could not be sent (`apprise -vv --body test ADDRESS` shows the reason)"
    return " ".join(text.split())[:200]


def _service(url: str) -> "Apprise | None":
    """Return apprise with one service, or None if it does not understand the address."""
    from apprise import Apprise, AppriseAsset

    with _log_detached():
        asset = AppriseAsset(app_id="Strata", app_desc="Strata", service_timeout=0)  # 0: no time limit, no threads
        service = Apprise.instantiate(url, asset=asset)
        return None if service is None else Apprise(service, asset=asset)


@contextmanager
def _log_detached() -> Iterator[None]:
    """Keep apprise's log messages, which may contain addresses, from the handlers of other loggers."""
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
    line = redacted(explain(error)[1])
    if isinstance(error, KeyboardInterrupt) and RunFolder(folder).state.is_file():
        line += "; the same command with --resume continues from the last finished epoch"
    return line


def _finished(summary: Mapping[str, Any], folder: Path) -> tuple[str, list[str]]:
    """Return the score of a finished run for the title, and the lines of the message."""
    measure = snapshot_file(summary["best_snapshot"]).measure
    score = f"{measure} {summary[measure]:.4f}"
    return score, [
        f"{score} at epoch {summary['epoch']}",
        f"time: {duration(summary['seconds'])}, {summary['machine']}",
        _place(measure, summary[measure], folder),
        f"best snapshot: {folder / summary['best_snapshot']}",
    ]


def _place(measure: str, score: float, folder: Path) -> str:
    """Return a line about a run's place among the finished runs in the same folder that have the same measure."""
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
    """Return the score in a summary.json, or None if the file has no score by this measure."""
    try:
        summary = read_json(path)
        if snapshot_file(summary["best_snapshot"]).measure == measure:
            return float(summary[measure])
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return None  # unreadable, or not the summary of a run
    return None
