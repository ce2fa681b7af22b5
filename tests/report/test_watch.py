"""The served page: updated while training is running, nothing else is served, access control."""

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
from helpers.pages import Page, write_experiments
from helpers.runs import log_rows, write_run
from helpers.scripts import ROOT, assert_refused, run_here
from helpers.waiting import HANGS, until

from utils.core.errors import Interrupted, UsageError
from utils.core.tables import write_table
from utils.report.serve import address_of, folders_state, is_this_machine, open_server, shown, watch

TRAINING = """import sys
from pathlib import Path
from utils.runs.status import tracked_status
with tracked_status(Path(sys.argv[1])):
    sys.stdin.read()"""
"""A run that is active as long as its standard input is open."""


def ask(address, method="GET", path=None, **headers):
    """Send a request; return the status, headers and body of the response."""
    host, port, own = re.fullmatch(r"http://([^/]+):(\d+)(/.*)", address).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=HANGS)
    connection.putrequest(method, own if path is None else path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


@pytest.fixture
def serving():
    """Return a function that starts a server in this process and returns (its address, the server)."""
    servers = []

    def started(host="127.0.0.1", page=b"<!-- served --> a page"):
        server = open_server(host, 0)
        servers.append(server)
        server.page = shown(page)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return address_of(server, host), server

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


def test_it_follows_a_training_reports_problems_and_stops_with_ctrl_c(tmp_path):
    experiments = write_experiments(tmp_path)
    script = [sys.executable, str(ROOT / "report.py"), "experiments", "--watch", "--port", "0"]
    watching = subprocess.Popen(
        script,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )
    try:
        address, _, rest = watching.stdout.readline().partition(": ")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert "Ctrl-C to stop" in rest
        _, headers, body = ask(address)
        page = Page(body)
        assert page.row("solo9")["epochs"] == "2"
        assert 'data-version="' + headers["ETag"].strip('"') in page.text
        assert "connect-src 'self'" in page.policy
        assert 'href="./' not in page.text  # the folders of the runs are not served

        write_table(experiments / "solo9" / "log.csv", log_rows([0.2] * 4))
        until(lambda: Page(ask(address)[2]).row("solo9")["epochs"] == "4")
        assert ask(address)[1]["ETag"] != headers["ETag"]

        experiments.rename(tmp_path / "away")
        until(lambda: b"This page could not be updated" in ask(address)[2])
        body = ask(address)[2]
        assert b"experiments: no such file or folder" in body
        assert Page(body).row("solo9")["epochs"] == "4"  # the last good page
        (tmp_path / "away").rename(experiments)
        until(lambda: b"This page could not be updated" not in ask(address)[2])

        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "experiments"]  # nothing was written
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=HANGS)
    finally:
        watching.kill()
    assert watching.returncode == 130
    assert out == ""
    problem, ended = err.splitlines()
    assert problem.startswith("This page could not be updated: experiments: no such file or folder")
    assert ended.startswith("report.py: interrupted")


def test_only_the_page_is_served_and_only_read(serving):
    address, _ = serving()
    status, headers, body = ask(address)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body.endswith(b" a page")
    assert int(headers["Content-Length"]) == len(body)
    assert not {"Server", "Date"} & set(headers)
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    head = ask(address, "HEAD")
    assert (head[0], head[1], head[2]) == (200, headers, b"")
    for path in ("/report.py", "/experiments/", "/../pyproject.toml", "/%2e%2e/", "/?x=1", "*", "/index.html"):
        assert ask(address, path=path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"):
        status, headers, body = ask(address, method)
        assert (status, headers["Allow"], body) == (405, "GET, HEAD", b""), method
        assert "Server" not in headers


def test_a_host_header_that_is_not_this_machine_is_refused(serving):
    address, server = serving()
    port = server.server_address[1]
    for host in ("127.0.0.1", f"localhost:{port}", "LOCALHOST", "localhost:1", "[::1]:80", "127.0.0.2:5"):
        assert ask(address, Host=host)[0] == 200, host
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "192.168.1.2", "", "localhost.evil.example"):
        assert ask(address, Host=host)[0] == 404, host
    assert not is_this_machine("0.0.0.0")


def test_on_the_network_the_page_needs_the_token(serving):
    address, server = serving("0.0.0.0")
    port, token = server.server_address[1], server.path
    assert re.fullmatch(r"/[\w-]{32}/", token)
    assert address.endswith(f":{port}{token}")
    assert "0.0.0.0" not in address
    here = f"http://127.0.0.1:{port}"
    assert ask(here + token)[0] == 200
    assert ask(here + token, Host="phone.example")[0] == 200
    other = token[:-2] + ("A" if token[-2] != "A" else "B") + "/"
    for path in ("/", token[:-1], f"{token}x", other, token.lower() if token.lower() != token else token.upper()):
        status, headers, body = ask(here + path)
        assert (status, body) == (404, b""), path
        assert token.strip("/") not in str(headers)
    assert serving("0.0.0.0")[1].path != token


def test_the_line_about_a_problem_is_escaped_and_changes_the_version():
    page = b"<head></head><!-- served --><p><!-- served --></p>"
    plain, told = shown(page), shown(page, "<b>&")
    assert plain.version != told.version
    assert b'role="status"' in plain.body
    assert told.body.count(b"&lt;b&gt;&amp;</p>") == 1
    assert told.body.endswith(b"<p><!-- served --></p>")
    assert shown(page).body == plain.body


def test_wrong_addresses_are_reported_in_one_line(serving, tmp_path):
    _, server = serving()
    taken = server.server_address[1]
    write_experiments(tmp_path)
    for words, code, message in (
        (("--port", taken), 1, f"--port {taken}: already in use on 127.0.0.1"),
        (("--port", 70000), 2, "--port 70000: expected a port from 0 to 65535"),
        (("--host", "192.0.2.77"), 2, "--host 192.0.2.77: not an address of this machine"),
    ):
        done = run_here("report.py", "experiments", "--watch", *words, cwd=tmp_path)
        assert_refused(done, code, message)
    with pytest.raises(UsageError, match="not an address of this machine"):
        open_server("x" * 300, 0)


def test_a_signal_stops_it_while_the_page_is_built(tmp_path):
    run = write_run(tmp_path / "run")

    class Stopped:
        paths = (str(run),)
        made = 0

        def page(self):
            self.made += 1
            if self.made == 2:
                raise Interrupted(signal.SIGTERM, "terminated")
            if self.made > 2:
                raise SystemExit("it continued")
            (run / "threshold.json").write_text("{}")
            return b"a page"

    with pytest.raises(Interrupted):
        watch(Stopped(), "127.0.0.1", 0, seconds=0.01)


def test_which_changes_make_the_page_outdated(tmp_path):
    experiments = write_experiments(tmp_path)
    run = experiments / "unet_fold0"
    states = [folders_state([str(experiments)])]

    def differs():
        states.append(folders_state([str(experiments)]))
        return states[-1] != states[-2]

    assert not differs()
    (run / "state.pt").write_bytes(b"not shown on the page")
    (run / ".log.csv.part").write_bytes(b"half")
    assert not differs()
    (run / "threshold.json").write_text("{}")
    assert differs()
    (run / "snapshots" / "cycle_1").mkdir()
    (run / "snapshots" / "cycle_1" / "epoch_9.loss_1.0.iout_0.9").write_bytes(b"x")
    assert differs()
    (experiments / "another").mkdir()
    assert differs()
    words = [sys.executable, "-c", TRAINING, str(run)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        until((run / "status.json").exists, lambda: child.poll() is None)
        assert differs()
        assert not differs()
        child.kill()
    assert differs()  # its process has ended, although no file has changed
