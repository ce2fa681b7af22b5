"""HTTP server for the report page during training: read-only, serves nothing but the page.

On a loopback address (127.0.0.1) the page is at /. Requests must then have a Host header that names this machine:
otherwise a web site opened in a browser here could read the page through a domain that resolves to this machine (DNS
rebinding). On any other address the page is at a path with a random token.
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
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest of the policy is in the page
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Shown:
    """The page as it is served until the next update."""

    body: bytes
    version: str
    """Hash of the page and the problem; identifies the body."""
    made_of: tuple[bytes, str]
    """(page, problem) that the body was built from."""


def shown(page: bytes, problem: str = "") -> Shown:
    """Return the page with its version and, if it could not be updated since, a line about the problem."""
    version = hashlib.sha256(page + problem.encode()).hexdigest()[:16]
    line = f'<p id="served" role="status" data-version="{version}">{escape(problem)}</p>'
    return Shown(page.replace(SERVED.encode(), line.encode("utf-8", "replace"), 1), version, (page, problem))


class Server(ThreadingHTTPServer):
    """HTTP server of one page at one path."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.path, self.page = path, shown(b"")
        super().__init__((host, port), Answer)

    def server_bind(self) -> None:
        """Bind without the host name look-up of HTTPServer, which can be slow and is not needed."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of the connection, such as a browser that disconnects early."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Answer(BaseHTTPRequestHandler):
    """Handler of GET and HEAD for the page; refuses all other requests without revealing anything."""

    server: Server
    timeout = 30
    """seconds that a client may be idle."""

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
            for start in range(0, len(page.body), PIECE):  # the timeout applies to each piece
                self.wfile.write(page.body[start : start + PIECE])

    do_HEAD = do_GET

    def _is_for_the_page(self) -> bool:
        at = self.server.path
        known = hmac.compare_digest(self.path.encode("utf-8", "replace"), at.encode())
        return known and (at != "/" or is_this_machine(self.headers.get("Host", "")))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send only the status, without the error page, version and request details of the standard library."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # the status the library uses for unknown methods
            code = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self.send_response_only(code)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the path of a request contains the token."""


def open_server(host: str, port: int) -> Server:
    """Return a server that listens but does not handle requests yet.

    Args:
        host: an address of this machine; 0.0.0.0 for all of them.
        port: port to listen on; 0 for any free port.

    Raises:
        UsageError: the address or port is invalid.
        UserError: the port is in use, or not permitted for this user.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: expected a port from 0 to 65535")
    path = "/" if is_this_machine(host) else f"/{secrets.token_urlsafe(24)}/"
    try:
        return Server(host, port, path)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise UserError(
                f"--port {port}: already in use on {host}; choose another port, or 0 for any free port"
            ) from None
        if number in (errno.EACCES, errno.EPERM):
            raise UserError(f"--port {port}: not permitted for this user; choose a port from 1024 to 65535") from None
        raise UsageError(f"--host {host}: not an address of this machine ({error})") from None


def address_of(server: Server, host: str) -> str:
    """Return the URL of the page; if it is open to the network, a URL that also works on other devices."""
    name = _seen_from_outside() if host in EVERYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{server.server_address[1]}{server.path}"


def _seen_from_outside() -> str:
    """Return the address of this machine in its network, or its host name if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # reserved for documentation: selects a route, sends nothing
            return asked.getsockname()[0]
        except OSError:
            return socket.gethostname()


def is_this_machine(host: str) -> bool:
    """Return whether an address or a Host header is a loopback name; any port is allowed, because of SSH tunnels."""
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
"""Pause between two checks of the folders."""
SHARE = 0.2
"""Largest share of one core's time to spend on building the page; the rest is left to training."""
State = frozenset[tuple[str, int, int]]


def watch(maker: Maker, host: str, port: int | None, seconds: float = SECONDS) -> NoReturn:
    """Serve the page until Ctrl-C, and update it whenever a run has written something.

    Raises:
        UserError: there are no runs, or the port is not available.
        UsageError: the address or port is invalid.
    """
    with open_server(host, PORT if port is None else port) as server:
        state, page = folders_state(maker.paths), maker.page()
        server.page = shown(page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"{address_of(server, host)}: updated while training is running; press Ctrl-C to stop", flush=True)
        if server.path != "/":
            print("anyone who has this address can view the page, and nothing else", flush=True)
        try:
            _keep_up(server, maker, page, state, seconds)
        finally:
            server.shutdown()


def _keep_up(server: Server, maker: Maker, page: bytes, state: State | None, seconds: float) -> NoReturn:
    printed, pause = "", seconds
    while True:
        time.sleep(pause)
        began, problem = time.monotonic(), ""
        try:
            now = folders_state(maker.paths)
            if now != state:
                page, state = maker.page(), now
        except Interrupted:
            raise
        except Exception as error:  # keep serving the last good page; the next check may succeed
            problem, state = f"This page could not be updated: {explain(error)[1]}", None
        if server.page.made_of != (page, problem):
            server.page = shown(page, problem)
        if problem and problem != printed:
            print(problem, file=sys.stderr, flush=True)
        printed, pause = problem, max(seconds, (time.monotonic() - began) / SHARE)


def folders_state(paths: Sequence[str]) -> State:
    """Return names, modification times and sizes of the files of all runs; the page is outdated once they change.

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
        status = None  # the page reports it
    yield f"{folder} is {status.state if status else 'unknown'}", 0, 0  # a killed process changes no file


def _files_in(folder: Path) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name != "state.pt":
                    file = entry.stat(follow_symlinks=False)
                    yield entry.path, 0 if entry.is_dir() else file.st_mtime_ns, 0 if entry.is_dir() else file.st_size
    except OSError:
        yield f"{folder} cannot be read", 0, 0
