"""Who is to be told of a run's end is told; who cannot be told costs a warning and some seconds, and no secret."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workflows.run import notify as module
from workflows.run.notify import VARIABLE, notify

pytestmark = pytest.mark.alone  # waits half a second and a second for answers

SECRET = "T0p5ecretPath"


@pytest.fixture
def webhook():
    """A server that keeps what it is sent, and answers as the path says."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            if "slow" in self.path:
                time.sleep(2)
            self.send_response(500 if "fail" in self.path else 204)
            self.end_headers()

        def log_message(self, *words): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", got
    server.shutdown()
    thread.join()
    server.server_close()


def told(monkeypatch, caplog, place):
    monkeypatch.setenv(VARIABLE, place)
    notify({"run": "toy-1", "status": "failed", "error": "https://me:hunter2@example.org/ refused"})
    assert SECRET not in caplog.text
    return caplog.text


def test_a_webhook_gets_the_message_without_secrets(monkeypatch, caplog, webhook):
    url, got = webhook
    assert told(monkeypatch, caplog, f"{url}/{SECRET}") == ""
    ((kind, body),) = got
    assert kind == "application/json"
    assert json.loads(body) == {"run": "toy-1", "status": "failed", "error": "https://***@example.org/ refused"}


@pytest.mark.parametrize(
    ("path", "words"), [("fail", "answered 500"), ("slow", "no answer within 0.5 s|does not answer")]
)
def test_a_webhook_that_fails_is_a_warning(monkeypatch, caplog, webhook, path, words):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    before = time.monotonic()
    assert re.search(words, told(monkeypatch, caplog, f"{webhook[0]}/{path}/{SECRET}"))
    assert time.monotonic() - before < 1.5


@pytest.mark.parametrize("place", [f"http://127.0.0.1:1/{SECRET}", f"https://[{SECRET}"])
def test_a_webhook_that_is_not_there_is_a_warning(monkeypatch, caplog, place):
    assert "does not answer" in told(monkeypatch, caplog, place)


def test_a_command_gets_the_message(monkeypatch, caplog, tmp_path):
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read()); print(1)"
    assert told(monkeypatch, caplog, f"{sys.executable} -c '{code}' {tmp_path}/told {SECRET}") == ""
    assert json.loads((tmp_path / "told").read_text())["run"] == "toy-1"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{sys.executable} -c 'raise SystemExit(3)' {SECRET}", "ended with 3"),
        (f"/nowhere/{SECRET}", "does not start"),
        (f"unbalanced ' {SECRET}", "does not start"),
    ],
    ids=["fails", "absent", "no command"],
)
def test_a_command_that_fails_is_a_warning(monkeypatch, caplog, command, words):
    assert words in told(monkeypatch, caplog, command)


def test_a_command_that_hangs_ends_with_its_children(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(module, "TIMEOUT_S", 1.0)
    child = "import os,sys,time; open(sys.argv[1],'w').write(str(os.getpid())); time.sleep(600)"
    code = f'import subprocess,sys; subprocess.run([sys.executable, "-c", "{child}", sys.argv[1]])'
    (tmp_path / "hang.py").write_text(code)
    assert "took more than 1 s" in told(monkeypatch, caplog, f"{sys.executable} {tmp_path}/hang.py {tmp_path}/pid")
    pid = (tmp_path / "pid").read_text()
    deadline = time.monotonic() + 5
    while _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_is_sent_unless_asked_for(monkeypatch, caplog):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(module, "_call", lambda *words: pytest.fail("called"))
    notify({"run": "toy-1"})
    monkeypatch.setenv(VARIABLE, " ")
    notify({"run": "toy-1"})
    assert VARIABLE in os.environ and caplog.text == ""
