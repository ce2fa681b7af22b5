"""Notifications: received by a real mail server, sent to unreachable addresses, and always without secrets."""

import email
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from helpers.scripts import ROOT, free_port
from helpers.waiting import HANGS

from utils.core.errors import Interrupted, ReportedElsewhere, UsageError, UserError
from utils.core.files import write_json
from utils.runs import notifications as notify
from utils.runs.notifications import addresses, check_notify, notifying

PASSWORD = "pa55-word x"
QUOTED = "pa55-word%20x"
PATIENT = f"&cto={HANGS}&rto={HANGS}"
"""Longer timeouts: apprise waits 4 s for a connection or a reply, which a busy machine may exceed."""


def summary_of(score, measure="iout"):
    best = f"snapshots/epoch_23.loss_0.5000.{measure}_{score:.3f}"
    return {"best_snapshot": best, "epoch": 23, measure: score, "seconds": 4320.0, "machine": "cuda, bfloat16"}


@pytest.fixture(scope="module")
def mailbox():
    """A mail server with authentication: its address for apprise and the list of mails received."""
    mails = []

    class Keep:
        async def handle_RCPT(self, _server, _session, envelope, address, _options):
            envelope.rcpt_tos.append(address)
            return "550 unknown" if address.startswith("nobody") else "250 known"

        async def handle_DATA(self, _server, _session, envelope):
            mails.append(email.message_from_bytes(envelope.content))
            return "250 kept"

    def knows(_server, _session, _envelope, _mechanism, login):
        return AuthResult(success=(login.login, login.password) == (b"me", PASSWORD.encode()))

    port = free_port()
    server = Controller(Keep(), "127.0.0.1", port, ready_timeout=HANGS, authenticator=knows, auth_require_tls=False)
    server.start()
    url = f"mailto://me:{QUOTED}@127.0.0.1:{port}?from=me@example.com&to=you@example.com{PATIENT}"
    yield SimpleNamespace(url=url, mails=mails)
    server.stop()


@pytest.fixture
def run(tmp_path, mailbox, monkeypatch):
    """A run folder and an empty mailbox; sending a message may take up to HANGS seconds."""
    monkeypatch.setattr(notify, "SECONDS", HANGS)
    mailbox.mails.clear()
    folder = tmp_path / "experiments" / "unet_fold0"
    folder.mkdir(parents=True)
    return folder


def the_mail(mailbox):
    [mail] = mailbox.mails
    return mail["Subject"], mail.get_payload(decode=True).decode().replace("\r\n", "\n")


def assert_no_secret(run, capsys):
    """Check that no part of the password is printed or in a file of the run; return stderr."""
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, *(path.read_text() for path in run.rglob("*") if path.is_file())):
        assert "pa55" not in text
    return printed.err


def test_a_finished_run_is_reported_with_score_time_place_and_snapshot(run, mailbox, capsys):
    others = {"a": summary_of(0.9), "b": summary_of(0.7), "c": summary_of(0.86), "d": ["no", "summary"]}
    others["e"] = {**summary_of(0.99, "auc"), "iout": 0.99}  # ranked by another measure
    for name, summary in others.items():
        write_json(run.parent / name / "summary.json", summary)
    write_json(run / "summary.json", summary_of(0.8412))
    check_notify([mailbox.url])
    with notifying([mailbox.url], run) as send_summary:
        send_summary(summary_of(0.8412))
    subject, text = the_mail(mailbox)
    assert subject == "unet_fold0: finished, iout 0.8412"
    assert "iout 0.8412 at epoch 23" in text
    assert "1 h 12 min" in text
    assert f"place 3 of 4 in {run.parent}, by iout; best of the others: a with 0.9000" in text
    assert f"{run}/snapshots/epoch_23.loss_0.5000.iout_0.841" in text
    assert assert_no_secret(run, capsys) == ""


def test_a_run_without_others_has_no_place(run, mailbox):
    with notifying([mailbox.url], run) as send_summary:
        send_summary(summary_of(0.5, "objects"))
    assert "the only finished run" in the_mail(mailbox)[1]


def test_a_failure_is_reported_in_one_line_and_raised_unchanged(run, mailbox):
    error = UserError("a <b>.png & http://me:pa55@host/: no such file")
    with pytest.raises(UserError) as raised, notifying([mailbox.url], run):
        raise error
    assert raised.value is error
    subject, text = the_mail(mailbox)
    assert subject == "unet_fold0: failed"
    assert "a <b>.png & http://***@host/: no such file" in text
    assert str(run) in text


def test_an_unexpected_error_is_reported_as_it_is_printed(run, mailbox):
    with pytest.raises(ZeroDivisionError), notifying([mailbox.url], run):
        raise ZeroDivisionError("division by zero")
    assert "unexpected ZeroDivisionError: division by zero" in the_mail(mailbox)[1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Interrupted(15, "2 epochs are kept; --resume continues"), "2 epochs are kept; --resume continues"),
        (KeyboardInterrupt(), "the same command with --resume continues"),
    ],
)
def test_an_interruption_is_reported_with_the_way_to_continue(run, mailbox, error, line):
    (run / "state.pt").touch()
    with pytest.raises(type(error)), notifying([mailbox.url], run):
        raise error
    subject, text = the_mail(mailbox)
    assert subject == "unet_fold0: interrupted"
    assert line in text


def test_an_error_reported_by_another_process_is_not_sent_again(run, mailbox):
    with pytest.raises(ReportedElsewhere), notifying([mailbox.url], run):
        raise ReportedElsewhere(1)
    assert mailbox.mails == []


def test_an_unreachable_address_prints_one_line_and_the_others_get_their_message(run, mailbox, capsys, caplog):
    port = free_port()
    broken = f"mailto://me:{QUOTED}@127.0.0.1:{port}?from=me@example.com"
    refused = mailbox.url.replace("to=you", "to=nobody")
    with notifying([broken, mailbox.url, refused], run) as send_summary:
        send_summary(summary_of(0.6))
    assert the_mail(mailbox)[0] == "unet_fold0: finished, iout 0.6000"
    warnings = assert_no_secret(run, capsys).splitlines()
    assert len(warnings) == 2
    assert not [record for record in caplog.records if record.name.startswith("apprise")]
    assert all(line.startswith("notify: mailto://...: ") and str(port) not in line for line in warnings)


def test_the_message_of_a_service_is_shown_unless_it_repeats_the_address():
    url = "tgram://123456789:abcdefg/12315544/"
    assert notify._without_address("Bad Request,\nerror=404.", url) == "Bad Request, error=404."
    for leak in ("no chat 12315544", "bot ABCDEFG is unknown"):
        assert notify._without_address(leak, url).startswith("the message could not be sent")


HANGING = """
import sys
from pathlib import Path
from utils.runs import notifications as notify

notify.SECONDS = 1
notify.check_notify([sys.argv[2]])
with notify.notifying([sys.argv[2]], Path(sys.argv[1])):
    raise ValueError
"""


def test_a_server_that_never_answers_delays_the_run_for_a_limited_time(run):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"mailto://me:{QUOTED}@127.0.0.1:{hanging.getsockname()[1]}?from=me@example.com&cto=600"
        command = [sys.executable, "-c", HANGING, str(run), url]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS, check=False)
    assert "notify: mailto://...: not sent within 1 s" in done.stderr
    assert done.stderr.endswith("ValueError\n")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"mailtoo://me:{QUOTED}@host", "mailtoo://..."),
        ("tgram://pa55", "tgram://..."),
        ("pa55@example.com", "one has no scheme"),
    ],
)
def test_an_invalid_address_is_refused_and_only_its_scheme_shown(url, shown, capsys, caplog):
    with pytest.raises(UsageError) as refused:
        check_notify(["json://localhost", url])
    message = str(refused.value)
    assert shown in message
    assert "STRATA_NOTIFY" in message
    assert "pa55" not in message
    assert (capsys.readouterr().err, caplog.text) == ("", "")
    assert "\n" not in message


def test_addresses_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("STRATA_NOTIFY", "json://a\n mailto://b  json://a ")
    assert addresses() == ["json://a", "mailto://b"]
    monkeypatch.delenv("STRATA_NOTIFY")
    assert addresses() == []


def test_nothing_is_sent_without_addresses(run, capsys):
    with notifying([], run) as send_summary:
        send_summary(summary_of(0.5))
    assert capsys.readouterr() == ("", "")
