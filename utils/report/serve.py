"""Serve the page of experiments while training goes on: read-only, nothing but the page.

On this machine alone (127.0.0.1) the page stands at /; requests must then name this machine, so that a web site that a
browser here visits cannot read the page by a name of its own that it points here (DNS rebinding). At any other address
the page stands behind a random token in the path.
"""

import errno
import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

from utils.core.errors import Interrupted, UsageError, UserError, explain
from utils.report.find_runs import runs_below
from utils.report.page import SERVED, Maker
from utils.runs.status import read_status

EVERYWHERE = ("", "0.0.0.0", "::")
PIECE = 1 << 16

HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest stands in the page
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Shown:
    """What is served until the next round."""

    body: bytes
    version: str
    """Of just this body."""
    made_of: tuple[bytes, str]
    """Page and problem."""


def shown(page: bytes, problem: str = "") -> Shown:
    """A page as it is served, with its version in it, and a line about what went wrong since it was made."""
    version = hashlib.sha256(page + problem.encode()).hexdigest()[:16]
    line = f'<p id="served" role="status" data-version="{version}">{escape(problem)}</p>'
    return Shown(page.replace(SERVED.encode(), line.encode("utf-8", "replace"), 1), version, (page, problem))


class Server(ThreadingHTTPServer):
    """Serves one page, at one path."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.path, self.page = path, shown(b"")
        super().__init__((host, port), Answer)

    def server_bind(self) -> None:
        """Without the look-up of this machine's name that an HTTPServer does, which can take long and is not used."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that leaves before the answer is there is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Answer(BaseHTTPRequestHandler):
    """GET and HEAD of the page; everything else is refused without a word about what is here."""

    server: Server
    timeout = 30
    """seconds that a reader may be silent."""

    def do_GET(self) -> None:
        page = self.server.page
        if not self._is_for_the_page():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response_only(HTTPStatus.OK)
        for name, value in {**HEADERS, "ETag": f'"{page.version}"', "Content-Length": str(len(page.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            for start in range(0, len(page.body), PIECE):  # the timeout is one of each piece
                self.wfile.write(page.body[start : start + PIECE])

    do_HEAD = do_GET

    def _is_for_the_page(self) -> bool:
        at = self.server.path
        known = hmac.compare_digest(self.path.encode("utf-8", "replace"), at.encode())
        return known and (at != "/" or is_this_machine(self.headers.get("Host", "")))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The plain status: no page of the library's, no version, nothing of the request."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # how the library calls a method that there is none for
            code = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self.send_response_only(code)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told: the address has the token in it."""


def open_server(host: str, port: int) -> Server:
    """A server that listens, and does not answer yet.

    Args:
        host: an address of this machine; 0.0.0.0 for all of them.
        port: 0 for any that is free.

    Raises:
        UsageError: no such address or port.
        UserError: the port is taken, or not for this user.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: a port is from 0 to 65535")
    path = "/" if is_this_machine(host) else f"/{secrets.token_urlsafe(24)}/"
    try:
        return Server(host, port, path)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise UserError(f"--port {port}: is taken on {host}; name another one, or 0 for any that is free") from None
        if number in (errno.EACCES, errno.EPERM):
            raise UserError(f"--port {port}: is not for this user; name one from 1024 on") from None
        raise UsageError(f"--host {host}: is no address of this machine ({error})") from None


def address_of(server: Server, host: str) -> str:
    """What to type into a browser, here or, where it is open to the network, on a phone."""
    name = _seen_from_outside() if host in EVERYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{server.server_address[1]}{server.path}"


def _seen_from_outside() -> str:
    """The address that this machine has in its network, or its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # an address for documentation: nothing is sent, only a way is chosen
            return asked.getsockname()[0]
        except OSError:
            return socket.gethostname()


def is_this_machine(host: str) -> bool:
    """Whether an address, or the Host header of a request, names this machine to itself; the port may be a tunnel's."""
    for name in (host, host.rpartition(":")[0]):
        name = name.removeprefix("[").removesuffix("]")
        if name.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            continue
    return False


PORT = 8080
SECONDS = 2.0
"""Between two looks at the folders."""
SHARE = 0.2
"""Of one core's time that making the page takes at most: training has the rest."""
State = frozenset[tuple[str, int, int]]


def watch(maker: Maker, host: str, port: int | None, seconds: float = SECONDS) -> NoReturn:
    """Serve the page until Ctrl-C, and make it anew whenever a run has written something.

    Raises:
        UsageError, UserError: there are no runs, or no way to listen there (`open_server`).
    """
    with open_server(host, PORT if port is None else port) as server:
        state, page = folders_state(maker.paths), maker.page()
        server.page = shown(page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"{address_of(server, host)}: made anew while training goes on; Ctrl-C ends it", flush=True)
        if server.path != "/":
            print("whoever has this address can look at the page, and at nothing else", flush=True)
        try:
            _keep_up(server, maker, page, state, seconds)
        finally:
            server.shutdown()


def _keep_up(server: Server, maker: Maker, page: bytes, state: State | None, seconds: float) -> NoReturn:
    told, pause = "", seconds
    while True:
        time.sleep(pause)
        began, problem = time.monotonic(), ""
        try:
            now = folders_state(maker.paths)
            if now != state:
                page, state = maker.page(), now
        except Interrupted:
            raise
        except Exception as error:  # whatever it is: the last good page stays, and the next look may find it mended
            problem, state = f"This page is not made anew: {explain(error)[1]}", None
        if server.page.made_of != (page, problem):
            server.page = shown(page, problem)
        if problem and problem != told:
            print(problem, file=sys.stderr, flush=True)
        told, pause = problem, max(seconds, (time.monotonic() - began) / SHARE)


def folders_state(paths: Sequence[str]) -> State:
    """Name, time of change and size of every file of every run: while that is the same, so is the page.

    Raises:
        UserError: there are no runs.
    """
    return frozenset(mark for folder in runs_below(paths) for mark in _marks_of(folder))


def _marks_of(folder: Path) -> Iterator[tuple[str, int, int]]:
    yield from _files_in(folder)
    for place, _, _ in os.walk(folder / "snapshots"):
        yield from _files_in(Path(place))
    try:
        status = read_status(folder)
    except (UserError, OSError):
        status = None  # the page says so
    yield f"{folder} is {status.state if status else 'unknown'}", 0, 0  # a process that was killed writes nothing


def _files_in(folder: Path) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name != "state.pt":
                    file = entry.stat(follow_symlinks=False)
                    yield entry.path, 0 if entry.is_dir() else file.st_mtime_ns, 0 if entry.is_dir() else file.st_size
    except OSError:
        yield f"{folder} cannot be read", 0, 0
