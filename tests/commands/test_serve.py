"""`incr serve`, as a process that answers on the loopback address."""

from __future__ import annotations

import json
import random
import select
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from incr_core.commands.cli import main
from incr_core.commands.serve import serve
from incr_core.errors import ArgumentError, VersionError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import Version, run
from incr_core.serving import Champion, Serving
from incr_core.storage import remove
from tests.support.certificates import write_certificates
from tests.support.served import ask, serving, started


def learned(table: Path, out: Path, **features: Any) -> Path:
    document = {
        "stream": {"path": str(table), "every": 500},
        "features": {"label": "size", "numeric": ["height", "weight"], "categorical": ["colour"]} | features,
        "model": {"hidden": [16]},
        "learner": {"objective": "multiclass"},
    }
    run(Job.from_document(document).resolved(), out)
    return out


@pytest.mark.slow
def test_it_answers_as_predict_does_and_follows_the_champion(table: Path, tmp_path: Path) -> None:
    out = learned(table, tmp_path / "run")
    rows = pq.read_table(table).slice(0, 20).select(["height", "weight", "colour"]).to_pylist()
    expected = Version.load(out).predict(table).drop_columns(["row"]).slice(0, 20).to_pylist()
    with serving(out) as url:
        assert ask(f"{url}/health") == {"status": "ok", "version": 4, "fault": None}
        answer = ask(f"{url}/predict", {"rows": rows})
        assert answer["version"] == 4
        assert answer["refused"] == []
        for said, told in zip(answer["predictions"], expected, strict=True):
            assert said["class"] == told["class"]
            assert said == pytest.approx(told, abs=1e-6)
        told = ask(f"{url}/version")
        assert told["version"] == 4
        assert told["rows"] == 500
        # Another champion: it is read beside the answers of the old one, and then takes its place.
        RunDirectory.open(out).promote(2)
        while (again := ask(f"{url}/predict", {"rows": rows}))["version"] != 2:
            assert again == answer
        second = Version.load(out, 2).predict(table).drop_columns(["row"]).slice(0, 20).to_pylist()
        assert again["predictions"][0] == pytest.approx(second[0], abs=1e-6)
        # Rows that cannot be used, values that are missing, and questions that are none.
        mixed = ask(f"{url}/predict", {"rows": [{**rows[0], "height": None}, {**rows[0], "height": "tall"}, rows[1]]})
        assert [said is None for said in mixed["predictions"]] == [False, True, False]
        assert mixed["refused"] == [{"row": 1, "column": "height", "reason": "expected float, got text"}]
        status, text = ask(f"{url}/predict", {"rows": [{"height": 1.0}]})
        assert status == 422
        assert "expected the columns height, weight, colour, got none named weight, colour" in text
        assert ask(f"{url}/predict", {"rows": []})[0] == 422
        assert ask(f"{url}/predict", {"rows": [{**rows[0], "colour": {"a": 1}}]})[0] == 422
        assert ask(f"{url}/nothing")[0] == 404


def upload(url: str, head: str, pieces: Iterator[bytes], end: str = "\r\n") -> tuple[bytes, int]:
    """The answer to what is sent in pieces until there is one, and how many bytes were sent until then.

    end: of the head.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=600) as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}{end}".encode()
        )
        sent = 0
        for piece in pieces:
            if select.select([connection], [], [], 0)[0]:
                break
            try:
                connection.sendall(piece)
            except ConnectionError:
                break
            sent += len(piece)
        answer = b""
        with suppress(ConnectionError):
            while b'"}' not in answer and (more := connection.recv(65_536)):
                answer += more
        return answer, sent


def raw_status(url: str, raw: bytes) -> bytes:
    """The status of the answer to some bytes and the end of them; none where the connection is closed without one."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=600) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        try:
            return connection.recv(65_536)[9:12]
        except ConnectionError:
            return b""


def memory(pid: int) -> int:
    """The bytes of memory that a process has needed at most."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_a_body_above_the_limit_is_refused_before_it_is_read(table: Path, tmp_path: Path) -> None:
    out = learned(table, tmp_path / "run")
    piece = b" " * 65_536
    chunk = b"10000\r\n" + piece + b"\r\n"
    row = {"height": 170, "weight": 70.5, "colour": "red"}
    with started(out) as (url, pid):
        before = ask(f"{url}/predict", {"rows": [row]})
        used = memory(pid)
        answer, sent = upload(url, f"Content-Length: {100 << 20}\r\n", (piece for _ in range(1600)))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert sent < 8_000_000
        answer, sent = upload(url, "Transfer-Encoding: chunked\r\n", (chunk for _ in range(1600)))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"expected at most 8,000,000 bytes, got more" in answer
        assert sent < 32_000_000  # 100 MB were offered; what the sockets hold is sent too
        # Neither a name nor a value, nor what is behind a body, may go on for ever.
        for head in ("X-Name: ", "X", "Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: "):
            _, sent = upload(url, head, (b"x" * 65_536 for _ in range(1600)), end="")
            assert sent < 32_000_000
        # What is no HTTP, or nearly, is refused or dropped.
        draw = random.Random(4)
        good = json.dumps({"rows": [row]}).encode()
        opening = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        for _ in range(300):
            raw = bytearray(opening % len(good) + good)
            for _ in range(draw.randint(1, 6)):
                raw[draw.randrange(len(raw))] = draw.randrange(256)
            status = raw_status(url, draw.randbytes(50) if draw.random() < 0.2 else bytes(raw))
            assert status in (b"", b"200", b"400", b"404", b"405", b"408", b"413", b"415", b"422"), (status, raw)
        assert memory(pid) - used < 64 << 20
        assert ask(f"{url}/predict", {"rows": [row]}) == before
    (tmp_path / "token").write_text("secret\n")
    write_certificates(tmp_path / "tls")
    trust = ssl.create_default_context(cafile=str(tmp_path / "tls/ca.crt"))
    secure = ["--tls-cert", str(tmp_path / "tls/server.pem"), "--tls-key", str(tmp_path / "tls/server.key")]
    limits = ["--max-bytes", "200", "--max-rows", "1", "--token-file", str(tmp_path / "token")]
    with serving(out, *limits, *secure) as url:
        assert url.startswith("https://127.0.0.1:")

        def tell(*rows: Any, token: str = "secret") -> Any:
            return ask(f"{url}/predict", {"rows": rows}, token=token, context=trust)

        assert tell(row) == before
        assert tell(row, row)[0] == 413
        assert tell({**row, "colour": "x" * 200})[0] == 413
        assert tell(row, token="")[0] == tell(row, token="other")[0] == 401
    assert main(["serve", str(out), "--tls-cert", str(tmp_path / "token"), "--tls-key", str(tmp_path / "token")]) == 2
    assert main(["serve", str(out), "--max-rows", "0"]) == 2


@pytest.mark.slow
def test_a_champion_that_cannot_be_read_leaves_the_old_one_answering(table: Path, tmp_path: Path) -> None:
    out = learned(table, tmp_path / "run")
    champion = Champion(out)
    RunDirectory.open(out).promote(1)
    remove(out / "versions/1/model.safetensors")
    champion.look()
    row = {"height": 170, "weight": 70.5, "colour": "red"}
    assert champion.predict([row])["version"] == 4
    assert champion.fault is not None
    assert "version 1" in champion.fault


def test_what_cannot_be_served_is_told(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "nowhere")]) == 2
    assert "expected a run directory, found none" in capsys.readouterr().err
    out = learned(table, tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"--port 80: cannot be opened on 192.0.2.1"):
        serve(out, Serving(host="192.0.2.1", port=80))  # an address kept for documentation
    RunDirectory.create(tmp_path / "empty", (out / "job.toml").read_text(), "local:f00d").close()
    with pytest.raises(VersionError, match="no version yet"):
        Champion(tmp_path / "empty")
