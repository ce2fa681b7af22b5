"""utils/share.py with a real S3 server and a real ssh server in this process (gs:// has no server to test with)."""

import itertools
import os
import signal
import socket
import threading

import pytest
import s3fs
from helpers.masks import files_in
from helpers.scripts import assert_refused, free_port
from helpers.sftp_server import PASSWORD, USER, sftp_server
from helpers.sharing import BEST, SHARED, run_to_share, share, shared
from helpers.sources import contents
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

RUN = "experiments/a_fold0"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>no more room</Message></Error>"


class Gate:
    """WSGI wrapper that records the uploads to a server and can deny them after `allowed` uploads."""

    def __init__(self, server):
        self.server, self.puts, self.allowed = server, [], None

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT":
            if self.allowed is not None and len(self.puts) >= self.allowed:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("403 Forbidden", [("Content-Length", str(len(DENIED)))])
                return [DENIED]
            self.puts.append(environ["PATH_INFO"])
        return self.server(environ, start_response)


@pytest.fixture(scope="module")
def store():
    """An S3 server: (its gate, its URL)."""
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, gate, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield gate, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a run in experiments/a_fold0; HOME is in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_to_share(tmp_path / RUN)
    return tmp_path


@pytest.fixture
def bucket(store, place, monkeypatch):
    """An S3 server named by the AWS environment variables, with an empty bucket `lab`: (its gate, its filesystem)."""
    gate, address = store
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    names = {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    names |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    if not files.exists("lab"):
        files.mkdir("lab")
    if files.exists("lab/a"):
        files.rm("lab/a", recursive=True)
    gate.puts.clear()
    yield gate, files
    gate.allowed = None


def test_a_run_is_pushed_to_and_pulled_from_an_object_store(place, bucket):
    gate, _ = bucket
    assert "s3://lab/a: 10 files" in shared("push", RUN, "s3://lab/a", cwd=place)
    assert sorted(gate.puts) == sorted(f"/lab/a/{name}" for name in {*SHARED, "share.json"})
    assert gate.puts[-1] == "/lab/a/share.json"
    assert "10 already existed" in shared("push", RUN, "s3://lab/a/", cwd=place)
    assert len(gate.puts) == 11
    shared("pull", "got/a", "s3://lab/a", cwd=place)
    ours = contents(place / RUN)
    assert contents(place / "got/a") == {name: ours[name] for name in SHARED}


def test_a_push_after_an_interrupted_one_sends_only_the_missing_files(place, bucket):
    gate, _ = bucket
    gate.allowed = 4
    assert_refused(share("push", RUN, "s3://lab/a", cwd=place), 1, "s3://lab/a: access denied (no more room)")
    sent = list(gate.puts)
    assert_refused(share("pull", "got/a", "s3://lab/a", cwd=place), 1, "s3://lab/a: expected share.json", "interrupted")
    gate.allowed = None
    assert "4 already existed" in shared("push", RUN, "s3://lab/a", cwd=place)
    assert sent == gate.puts[:4]
    assert len(gate.puts) == len(set(gate.puts)) == 11
    shared("pull", "got/a", "s3://lab/a", cwd=place)


def test_damage_and_difference_in_an_object_store(place, bucket):
    _, files = bucket
    shared("push", RUN, "s3://lab/a", cwd=place)
    path = f"lab/a/snapshots/{BEST}"
    whole = files.cat_file(path)
    files.pipe_file(path, whole[:-1] + bytes([whole[-1] ^ 1]))
    done = share("pull", "got/a", "s3://lab/a", cwd=place)
    assert_refused(done, 1, f"s3://lab/a/snapshots/{BEST}: is not what was pushed")
    assert f"snapshots/{BEST}" not in files_in(place / "got/a")
    files.pipe_file(path, whole)
    shared("pull", "got/a", "s3://lab/a", cwd=place)
    for folder, command, name in ((RUN, "push", "s3://lab/a/log.csv"), ("got/a", "pull", "got/a/log.csv")):
        (place / folder / "log.csv").write_text("epoch,iout\n1,0.9\n")
        assert_refused(share(command, folder, "s3://lab/a", cwd=place), 1, f"{name}: already exists", "differs")
    # without a manifest, as after an interrupted push, the files there are read and compared
    files.rm("lab/a/share.json")
    assert_refused(share("push", RUN, "s3://lab/a", cwd=place), 1, "s3://lab/a/log.csv", "differs")


def test_ctrl_c_leaves_no_parts_of_a_large_object(place, bucket, monkeypatch):
    gate, files = bucket
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 * 2**20)
    (place / RUN / "snapshots" / BEST).write_bytes(bytes(11 * 2**20))

    server, turns, checked = gate.server, itertools.count(), threading.Event()

    def one_part_and_ctrl_c(environ, start_response):
        """Accept one part, then send Ctrl-C. The other parts wait, so that the object cannot become complete."""
        turn = next(turns) if environ["REQUEST_METHOD"] == "PUT" and "uploadId" in environ["QUERY_STRING"] else None
        if turn:
            checked.wait()
        response = server(environ, start_response)
        if turn == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return response

    gate.server = one_part_and_ctrl_c
    try:
        assert_refused(share("push", RUN, "s3://lab/a", cwd=place), 130, "interrupted")
        assert not files.exists(f"lab/a/snapshots/{BEST}")
        assert not files.call_s3("list_multipart_uploads", Bucket="lab").get("Uploads")
    finally:
        gate.server = server
        checked.set()
    shared("push", RUN, "s3://lab/a", cwd=place)
    assert files.size(f"lab/a/snapshots/{BEST}") == 11 * 2**20


def test_a_store_that_cannot_be_used(place, bucket, monkeypatch):
    refused = {
        "s3://none/a": ("s3://none/a: not found", "bucket"),
        "s3://lab/none": ("s3://lab/none: nothing is shared there",),
    }
    for url, messages in refused.items():
        assert_refused(share("pull", "got/a", url, cwd=place), 1, *messages)
    assert_refused(share("push", RUN, "s3://none/a", cwd=place), 1, *refused["s3://none/a"])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert_refused(share("push", RUN, "s3://lab/a", cwd=place), 1, "s3://lab/a: no credentials")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    done = share("push", RUN, "s3://lab/a", cwd=place)
    assert_refused(done, 1, "s3://lab/a: cannot be reached", "network")
    assert "s3cret" not in done.stderr


def test_a_run_is_pushed_and_pulled_over_ssh(place):
    with sftp_server(place / "home") as port:
        url = f"ssh://{USER}:{PASSWORD.replace(':', '%3A')}@127.0.0.1:{port}{place}/there/a"
        printed = shared("push", RUN, url, cwd=place)
        assert printed == f"ssh://{USER}:***@127.0.0.1:{port}{place}/there/a: 10 files, 0.0 MB\n"
        assert set(files_in(place / "there/a")) == {*SHARED, "share.json"}
        shared("pull", "got/a", url, cwd=place)
        ours = contents(place / RUN)
        assert contents(place / "got/a") == {name: ours[name] for name in SHARED}
        # without a manifest, as after an interrupted push, the files there are read and compared
        (place / "there/a/share.json").unlink()
        (place / "there/a/log.csv").unlink()
        assert "9 already existed" in shared("push", RUN, url, cwd=place)
        (place / "there/a/share.json").unlink()
        (place / "there/a/snapshots" / BEST).write_bytes(b"WEIGHTS")
        assert_refused(share("push", RUN, url, cwd=place), 1, f"snapshots/{BEST}", "differs")
        assert "share.json" not in files_in(place / "there/a")
        # a file that cannot be renamed leaves no partial file
        (place / "there/c/summary.json").mkdir(parents=True)
        assert_refused(share("push", RUN, url.replace("there/a", "there/c"), cwd=place), 1, "there/c: ")
        assert [name for name in files_in(place / "there/c") if ".part" in name or "share" in name] == []
        # names from ~/.ssh/config
        config = place / "home/.ssh/config"
        config.write_text(f"Host lab\n  HostName 127.0.0.1\n  Port {port}\n  User {USER}\n")
        assert_refused(share("pull", "got/b", f"ssh://lab{place}/there/a", cwd=place), 1, "no credentials")
        named = f"ssh://:{PASSWORD.replace(':', '%3A')}@lab{place}/there/b"
        assert "10 files" in shared("push", RUN, named, cwd=place)


def test_an_ssh_server_with_an_unknown_key_or_another_password_is_refused(place):
    with sftp_server(place / "home") as port:
        known = place / "home/.ssh/known_hosts"
        line = known.read_text()
        url = f"ssh://{USER}:wrong@127.0.0.1:{port}{place}/there"
        done = share("push", RUN, url, cwd=place)
        assert_refused(done, 1, f"ssh://{USER}:***@127.0.0.1:{port}", "access denied")
        assert "wrong" not in done.stderr
        known.write_text("")
        assert_refused(share("push", RUN, url, cwd=place), 1, "127.0.0.1: not in ~/.ssh/known_hosts")
        with sftp_server(place / "other"):
            other = (place / "other/.ssh/known_hosts").read_text()
        known.write_text(f"{line.split()[0]} {other.partition(' ')[2]}")
        assert_refused(share("push", RUN, url, cwd=place), 1, "127.0.0.1: its key differs from the one in")
    assert not (place / "there").exists()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"ssh://127.0.0.1:{closed.getsockname()[1]}/there"
        assert_refused(share("push", RUN, url, cwd=place), 1, f"{url}: cannot be reached")
    assert_refused(share("push", RUN, "ssh://127.0.0.1/", cwd=place), 2, "ssh://127.0.0.1/: expected a folder")
