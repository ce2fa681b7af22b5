"""A web server for one page: read-only, nothing but the page, and no word about what else there is.

On this machine alone (127.0.0.1) the page stands at /; requests must then name this machine, so that a web site that a
browser here visits cannot read the page by a name of its own that it points here (DNS rebinding). At any other address
the page stands behind a random token in the path.
"""

import errno
import hashlib
import hmac
import ipaddress
import secrets
import socket
import socketserver
import sys
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from utils.errors import UsageError, UserError
from utils.report.page import SERVED

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
