"""Servers of S3 on loopback: a real one (moto's), and ones that only ever refuse."""

from __future__ import annotations

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.ports import free_port

BUCKET = "incr-tests"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Start moto's server in a process of its own, make a bucket, and let this process and its children find it.

    Gives the address of the bucket.
    """
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers(port):
            assert server.poll() is None, "moto's server has ended"
            time.sleep(0.05)
        with endpoint(f"http://127.0.0.1:{port}"):
            import fsspec

            fsspec.filesystem("s3").mkdir(BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def endpoint(url: str) -> Iterator[None]:
    """Inside, S3 is at this URL, for this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        forget_clients()
        yield
    forget_clients()


def forget_clients() -> None:
    """Clients remember the URL that they were made for."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def refusing(status: int, code: str) -> Iterator[str]:
    """A server that answers everything with one error."""
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()

    class Refusing(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # whatever is asked
                return self.answer
            raise AttributeError(name)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with endpoint(f"http://127.0.0.1:{server.server_port}"):
            yield f"s3://{BUCKET}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
