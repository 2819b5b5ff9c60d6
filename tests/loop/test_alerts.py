"""Alerts, posted to a real server that refuses, hangs and comes back, while the run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from incr_core._util import SIGNATURE, Webhook, signed
from incr_core.errors import JobError
from incr_core.runs import Run, open_run
from tests.support.processes import wait_until
from tests.support.repository import ROOT

HANGS = 0


class Server(ThreadingHTTPServer):
    """Answers with the statuses it is given, one each and then the last; to HANGS not at all until it ends."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.ended = list(statuses), threading.Event()
        self.asked: list[int] = []
        self.taken: list[dict[str, Any]] = []
        self.signatures: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?of=incr"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        here = self.server
        status = here.statuses.pop(0) if len(here.statuses) > 1 else here.statuses[0]
        here.asked.append(status)
        if status == HANGS:
            here.ended.wait()
            return
        if status < 300:
            here.taken.append(json.loads(body))
            here.signatures.append((self.headers.get(SIGNATURE, ""), body))
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(*statuses: int) -> Iterator[Server]:
    server = Server(*statuses)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_fails_is_tried_again_and_what_hangs_is_left() -> None:
    failed: list[str] = []
    with serving(500, HANGS, 429, 200) as server:
        hook = Webhook(server.url, b"secret", failed.append, timeout=2.0, first_wait=0.01)
        for number in range(3):
            hook.post({"number": number})
        assert hook.close(600.0) == 0
    assert server.asked[:4] == [500, HANGS, 429, 200]
    assert [*dict.fromkeys(message["number"] for message in server.taken)] == [0, 1, 2]
    for signature, body in server.signatures:
        at = int(signature.split(",")[0].removeprefix("t="))
        assert signature == signed(body, b"secret", at)
    assert failed == []


def test_what_is_refused_or_too_much_is_given_up_and_said() -> None:
    failed: list[str] = []
    with serving(404) as server:
        hook = Webhook(server.url, b"", failed.append, first_wait=0.01)
        hook.post({})
        assert hook.close(600.0) == 0
        assert (server.asked, failed) == ([404], ["answer 404, after 1 tries"])
    with serving(HANGS) as server:
        hook = Webhook(server.url, b"", failed.append, capacity=2)
        for number in range(4):
            hook.post({"number": number})
        assert hook.close(0.1) >= 2  # nobody has waited for an answer
    assert "2 messages wait already, the oldest is given up" in failed


def test_a_host_that_cannot_be_one_is_said() -> None:
    failed: list[str] = []
    hook = Webhook("http://foo..bar/", b"", failed.append, first_wait=0.01, tries=2)
    hook.post({})
    assert hook.close(600.0) == 0
    assert failed[0].startswith("UnicodeError: ")
    assert failed[0].endswith(", after 2 tries")


def rows(bad: int) -> dict[str, list[Any]]:
    return {"x": [float("nan")] * bad + [0.5] * (40 - bad), "y": [0, 1] * 20}


def test_a_run_tells_of_a_quarantine_and_nobody_waits_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "secret").write_text("hush\n")
    keys: dict[str, Any] = {"label": "y", "classes": [0, 1], "numeric": ["x"], "on_bad_row": "quarantine"}
    with serving(200) as server:
        alerts = {"webhook": server.url, "secret": f"file:{tmp_path / 'secret'}", "log": True, "quarantine": 0.1}
        out = tmp_path / "run"
        run = open_run(out, stream=[rows(0), rows(4), rows(5)], alerts=alerts, **keys).run()
    (message,) = server.taken
    assert (message["kind"], message["increment"], message["run"]) == ("quarantine", 2, "run")
    assert message["what"] == "5 of 40 rows cannot be used"
    signature, body = server.signatures[0]
    assert signature == signed(body, b"hush", int(signature.split(",")[0].removeprefix("t=")))
    assert [record.getMessage() for record in caplog.records if record.name == "incr.alerts"] == [
        "run: quarantine at part 2: 5 of 40 rows cannot be used; they are in quarantine"
    ]
    assert "hush" not in (out / "job.toml").read_text()
    # The same bits, and the same run, whoever is told.
    other = open_run(tmp_path / "other", stream=[rows(0), rows(4), rows(5)], **keys).run()
    assert run.summary.model_sha256 == other.summary.model_sha256
    assert open_run(out, stream=[rows(0), rows(4), rows(5)], **keys).run().summary.version == run.summary.version


FEED = """
import pathlib, time
def rows():
    for day in range(2):
        yield {"x": [0.1 * i for i in range(8)], "y": [i % 2 for i in range(8)]}
    while not pathlib.Path(__file__).with_name("enough").exists():
        time.sleep(0.05)
"""
JOB = """
[stream]
path = "feed:rows"
[features]
label = "y"
numeric = ["x"]
classes = [0, 1]
[learner]
objective = "binary"
[alerts]
secret = "env:HUSH"
stale = "1s"
"""


@pytest.mark.chaos
def test_the_command_tells_when_it_is_stale_and_ends_though_nobody_answers(tmp_path: Path) -> None:
    (tmp_path / "feed.py").write_text(FEED)
    (tmp_path / "job.toml").write_text(JOB)
    enough = tmp_path / "enough"
    with serving(200) as server, serving(HANGS) as silent:
        for one in (server, silent):
            out = tmp_path / str(one.server_address[1])
            command = ["run", str(tmp_path / "job.toml"), "--out", str(out), "--quiet"]
            with subprocess.Popen(
                [sys.executable, "-m", "incr_core.commands.cli", *command, "--set", f'alerts.webhook="{one.url}"'],
                env={"HUSH": "hush", "PATH": "", "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                text=True,
            ) as running:
                wait_until(lambda one=one: bool(one.asked), running)  # type: ignore[misc]
                enough.touch()
                _, said = running.communicate()
            enough.unlink()
            assert running.returncode == 0, said
    assert {message["kind"] for message in server.taken} == {"stale"}
    assert "were not taken before the run ended" in said
    assert Run(out).summary.rows_learned == 16


@pytest.mark.parametrize(
    ("alerts", "fault"),
    [
        ({"webhook": "ftp://example.org"}, "expected an address such as https://example.org/hook"),
        ({"webhook": "https://me:hush@example.org"}, "expected an address without a password in it"),
        ({"webhook": "https://example.org", "secret": "hush"}, 'expected where it is, "env:NAME" or "file:PATH"'),
        ({"webhook": "https://example.org", "secret": "env:SURELY_NOT_SET"}, "expected it in the environment as"),
        ({"on": ["drifts"]}, "did you mean 'drift'"),
        ({"stale": "soon"}, "alerts.stale"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run_and_no_secret_is_repeated(
    alerts: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as refused:
        open_run(tmp_path / "run", stream=[rows(0)], label="y", classes=[0, 1], alerts=alerts).run()
    assert fault in str(refused.value)
    assert "hush" not in str(refused.value)
    assert not (tmp_path / "run").exists()
