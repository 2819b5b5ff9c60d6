"""Access to a server: token, rate and concurrency."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

from incr_core.serving._board import Board
from incr_core.serving._http import Reply, Scope, header, refusal

__all__ = ["OPEN", "Guard"]

OPEN = ("/", "/health", "/ready")
"""Paths that need no token: for probes, and the page, which asks for the token itself."""


class Guard:
    """Admits requests, or refuses them with a reason.

    Args:
        token: The token that a request sends as `Authorization: Bearer TOKEN`. None requires no token.
        rate: Maximum number of requests a second over all clients. At most a second's worth may arrive at once. None:
            no limit.
        concurrency: Maximum number of requests under way.
        clock: Returns a time in seconds.
        board: Shared memory of the workers of a server; both limits hold for all of them together. None: one worker.
        worker: The place of this worker.

    Example:
        >>> guard = Guard(token="secret", concurrency=1)
        >>> ask = {"path": "/predict", "headers": [(b"authorization", b"Bearer secret")]}
        >>> guard.enter({"path": "/predict", "headers": []}).status
        401
        >>> guard.enter(ask), guard.enter(ask).status
        (None, 503)
        >>> guard.leave()
        >>> guard.enter(ask)
    """

    def __init__(
        self,
        token: str | None = None,
        rate: float | None = None,
        concurrency: int = 1024,
        clock: Callable[[], float] = time.monotonic,
        board: Board | None = None,
        worker: int = 0,
    ) -> None:
        self._token = None if token is None else f"Bearer {token}".encode()
        self._rate, self._clock = rate, clock
        self.concurrency = concurrency
        self.board, self.worker = board or Board(), worker

    def enter(self, scope: Scope) -> Reply | None:
        """Admit or refuse a request.

        Returns:
            None for an admitted request, which must `leave` when it is answered; otherwise the refusal.
        """
        if self._token is not None and scope["path"] not in OPEN:
            told = header(scope, b"authorization").encode("latin-1")
            if not hmac.compare_digest(told, self._token):
                reply = refusal(401, "authorization: expected Bearer and this server's token, got another or none")
                reply.headers += ((b"www-authenticate", b"Bearer"), (b"connection", b"close"))
                return reply
        if self.board.inside >= self.concurrency:
            return _later(503, f"expected at most {self.concurrency:,} requests at a time, got more; ask again")
        if self._rate is not None and scope["path"] not in OPEN and not self.board.spend(self._rate, self._clock()):
            return _later(429, f"expected at most {self._rate:g} requests a second, got more; ask again")
        self.board.enter(self.worker)
        return None

    def leave(self) -> None:
        """Count an admitted request as answered."""
        self.board.leave(self.worker)


def _later(status: int, message: str) -> Reply:
    reply = refusal(status, message)
    reply.headers += ((b"retry-after", b"1"), (b"connection", b"close"))
    return reply
