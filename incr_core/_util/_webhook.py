"""A webhook: messages posted by a thread, signed, and tried again, while nobody waits for it."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

__all__ = ["SIGNATURE", "Webhook", "signed"]

SIGNATURE = "X-Incr-Signature"
"""The header: `t=SECONDS,sha256=HEX`."""

LONGEST_WAIT = 300.0
"""Seconds between two tries of one message at most."""

LAST_WAIT = 2.0
"""Seconds for the thread to end, once nobody waits for messages any more."""


def signed(body: bytes, secret: bytes, at: int) -> str:
    """The signature of a body at a time in seconds: HMAC-SHA256 of `SECONDS.BODY`, so that no old one fits a new time.

    >>> signed(b"{}", b"secret", 1)
    't=1,sha256=1122767b193110cfec322b6f199b599edbf608ed087f2d27afb0b97d99523908'
    """
    return f"t={at},sha256={hmac.new(secret, f'{at}.'.encode() + body, hashlib.sha256).hexdigest()}"


class Webhook:
    """Post messages, JSON objects, one after another; a thread does, and tries again what was not taken.

    url: http or https, checked before. secret: what messages are signed with; empty: not at all. failed: called with
    what went wrong where a message is given up. timeout: seconds for an answer. first_wait: seconds before the second
    try, doubled for each further one. tries: of a message; one that is refused (a 4xx but 408 and 429) has one.
    capacity: messages that wait; of more the oldest are given up.
    """

    def __init__(
        self,
        url: str,
        secret: bytes,
        failed: Callable[[str], None],
        *,
        timeout: float = 10.0,
        first_wait: float = 1.0,
        tries: int = 10,
        capacity: int = 100,
    ) -> None:
        self._url, self._secret, self._failed = urlsplit(url), secret, failed
        self._timeout, self._first_wait, self._tries, self._capacity = timeout, first_wait, tries, capacity
        self._waiting: deque[bytes] = deque()
        self._there, self._closing, self._busy = threading.Condition(), False, False
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._deliver, name="webhook", daemon=True)
        self._thread.start()

    def post(self, message: Mapping[str, Any]) -> None:
        """Hand in a message; returns at once."""
        with self._there:
            if full := len(self._waiting) >= self._capacity:
                self._waiting.popleft()
            self._waiting.append(json.dumps(message).encode())
            self._there.notify_all()
        if full:
            self._failed(f"{self._capacity} messages wait already, the oldest is given up")

    def close(self, timeout: float) -> int:
        """Give what waits so many seconds to leave; returns how many messages have not."""
        with self._there:
            self._there.wait_for(lambda: not self._waiting and not self._busy, timeout)
            self._closing = True
            self._there.notify_all()
            left, connection = len(self._waiting) + self._busy, self._connection
        # A thread that waits for an answer must not outlive the process that ends.
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(LAST_WAIT)
        return left

    def _deliver(self) -> None:
        while True:
            with self._there:
                self._there.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                body, self._busy = self._waiting.popleft(), True
            self._try(body)
            with self._there:
                self._busy = False
                self._there.notify_all()

    def _try(self, body: bytes) -> None:
        """Post a message until it is taken, or given up."""
        for number in range(self._tries):
            fault, refused = self._once(body)
            if fault is None:
                return
            if refused or number + 1 == self._tries:
                self._failed(f"{fault}, after {number + 1} tries")
                return
            with self._there:
                self._there.wait_for(lambda: self._closing, min(self._first_wait * 2**number, LONGEST_WAIT))
                if self._closing:
                    return

    def _once(self, body: bytes) -> tuple[str | None, bool]:
        """What is wrong, None where the message was taken; and whether it will be so each time."""
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "User-Agent": "incr"}
        if self._secret:
            headers[SIGNATURE] = signed(body, self._secret, int(time.time()))
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        try:
            connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout)
            with self._there:
                self._connection = connection
            try:
                connection.request("POST", path, body, headers)
                status = connection.getresponse().status
            finally:
                with self._there:
                    self._connection = None
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a host that cannot be one
            return f"{type(error).__name__}: {error}", False
        refused = not 200 <= status < 300
        return (f"answer {status}" if refused else None), refused and status < 500 and status not in (408, 429)
