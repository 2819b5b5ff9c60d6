"""Costs of a contributor's learning: seconds in total, seconds of exchanges, and bytes sent."""

from __future__ import annotations

import time

from incr_core.rounds._borrowing import Lending
from incr_core.rounds._exchange import Exchange
from incr_core.rounds._round import Round

__all__ = ["Account"]


class Account:
    """The costs of an increment, or a review, of a contributor.

    Args:
        exchange: Its exchange.
        lending: Its lending of remembered rows, if any.

    Attributes:
        exchanging: Seconds spent on exchanges since `begin`, added by the code that makes them.

    Example:
        >>> from incr_core.rounds import Alone
        >>> account = Account(Alone(), None)
        >>> account.begin(); account.exchanging += 0.5; account.settle(done := Round())
        >>> done.seconds_exchanging, done.bytes_exchanged
        (0.5, 0)
    """

    def __init__(self, exchange: Exchange, lending: Lending | None) -> None:
        self._exchange, self._lending = exchange, lending
        self.exchanging = 0.0
        self._begun = self._waited = 0.0
        self._sent = 0

    def begin(self) -> None:
        """Start counting."""
        self.exchanging = 0.0
        self._begun, self._waited, self._sent = time.perf_counter(), *self._so_far()

    def _so_far(self) -> tuple[float, int]:
        """Return the seconds waited for remembered rows, and the bytes sent."""
        lending = self._lending
        waited, sent = (0.0, 0) if lending is None else (lending.seconds_waited, lending.bytes_sent)
        return waited, self._exchange.bytes_sent + sent

    def settle(self, done: Round) -> None:
        """Enter the costs since `begin` into `done`."""
        waited, sent = self._so_far()
        done.bytes_exchanged = sent - self._sent
        done.seconds_exchanging = self.exchanging + waited - self._waited
        done.seconds_learning = time.perf_counter() - self._begun - done.seconds_exchanging
