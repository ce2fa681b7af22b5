"""Parsers of Dockerfile and .dockerignore, and a mock of the Docker engine."""

import io
import os
import re
import shutil
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from helpers.scripts import ROOT


def instructions(path=ROOT / "Dockerfile"):
    """Return a Dockerfile's instructions [(stage, word, rest)], without comments; stages are counted from 0."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    found, stage = [], -1
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        word, rest = line.split(maxsplit=1)
        stage += word == "FROM"
        found.append((stage, word, rest))
    return found


def kept(names, rules):
    """Return the names that the rules of a .dockerignore let into the image; the last rule that matches decides.

    Only two of Docker's patterns are supported: a name at the top level, and `**/` with a name at any level.
    """

    def matches(pattern, name):
        parts = name.split("/")
        if pattern.startswith("**/"):
            return any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
        assert "/" not in pattern, pattern
        return fnmatch(parts[0], pattern)

    def is_kept(name):
        verdicts = [rule.startswith("!") for rule in rules if matches(rule.lstrip("!"), name)]
        return not verdicts or verdicts[-1]

    return {name for name in names if is_kept(name)}


def rules_of(path=ROOT / ".dockerignore"):
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def copy_kept(folder):
    """Copy the files that `COPY . .` would copy to `folder`; return the names at the top level."""
    tops = [path.name for path in ROOT.iterdir() if kept([path.name], rules_of())]
    for top in tops:
        if (ROOT / top).is_dir():
            shutil.copytree(ROOT / top, folder / top, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / top, folder / top)
    return tops


def sent_by_docker(folder):
    """Return the names of the files that the real `docker build` sends from `folder`, received by a mock engine."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(folder / ".docker")}
    with _engine() as (port, received):
        words = ["docker", "--host", f"tcp://127.0.0.1:{port}", "build", "."]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = received
    with tarfile.open(fileobj=io.BytesIO(archive)) as context:
        return {entry.name for entry in context if entry.isfile()}


@contextmanager
def _engine():
    received = []

    class Engine(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer(b"")

        def do_POST(self):
            body = bytearray()
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            received.append(bytes(body))
            self._answer(b'{"stream": "taken"}\n')

        def _answer(self, body):
            self.send_response(200)
            self.send_header("API-Version", "1.43")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, received
        finally:
            server.shutdown()
            thread.join()


def programs_folder(folder, **programs):
    """Create a folder for PATH with the programs that `make` needs and the given shell scripts (name = text)."""
    folder.mkdir()
    for name in ("bash", "id", "sh"):
        (folder / name).symlink_to(shutil.which(name))
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return Path(folder)
