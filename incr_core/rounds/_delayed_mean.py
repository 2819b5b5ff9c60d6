"""Overlap of an exchange with the next round of learning: each mean arrives one round late.

This is one-round delayed averaging (DaSGD, Zhou et al. 2020; the overlap of Streaming DiLoCo, Douillard et al. 2025,
arXiv:2501.18512), which keeps what a replica learns in the meantime.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from incr_core.update import Update, Weights

__all__ = ["DelayedMean"]

Merge = Callable[[Update, Weights], tuple[Weights, int]]
"""`Exchange.mean` of an update, which owns its tensors, and the anchor."""


class DelayedMean:
    """Weights of one learner as B + u: the common base B, and u, the changes that this learner has made since.

    With u_k the change in round k, B_0 the base of the first round, and p_i the shares of rows,

        round 1 begins at B_0, and round k + 1 at B_{k-1} + u_k
        B_k = outer(B_{k-1}, B_{k-1} + sum_i p_i u_{i,k})        while round k + 1 is learned
        after round k + 1 the weights are B_k + u_{k+1}, and after the last round, when all have waited, B

    Args:
        weights: Returns the live weights.
        merge: The exchange, which runs in another thread.
        step: The outer step, from B_{k-1} and the mean to B_k.

    Example:
        >>> weights = {"w": torch.tensor([8.0])}
        >>> halve = lambda own, base: ({"w": own.weights["w"] / 2}, 2)
        >>> delayed = DelayedMean(lambda: weights, halve, lambda base, mean: mean)
        >>> weights["w"] += 2; delayed.launch(rows=1); weights["w"] += 1; delayed.land(); weights["w"]
        tensor([6.])
        >>> delayed.launch(rows=1); delayed.land(); weights["w"]
        tensor([3.])
    """

    def __init__(
        self, weights: Callable[[], Weights], merge: Merge, step: Callable[[Weights, Weights], Weights]
    ) -> None:
        self._weights, self._merge, self._step = weights, merge, step
        self.base = _copies(weights())
        self.seconds_waited = self.seconds_hidden = 0.0
        self._begun: Weights = {}
        self._flight: Future[tuple[Weights, int, float]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exchange")

    def learn(self, take: Callable[[], int], goes_on: Callable[[], bool]) -> int:
        """Learn all rounds of an increment, wait for the mean of the last, and return the number of rows learned.

        Args:
            take: Learns a round, and returns its number of rows.
            goes_on: Returns whether there is another round; it may involve an exchange.
        """
        rows, more = 0, True
        while more:
            learned = take()
            rows += learned
            self.land()
            more = goes_on()
            self.launch(learned)
        self.land()
        self.close()
        return rows

    def launch(self, rows: int) -> None:
        """Send the result of a round of `rows` rows, and return so that learning continues."""
        assert self._flight is None, "one exchange at a time"
        self._begun, sent = _copies(self._weights()), _copies(self._weights())
        self._flight = self._thread.submit(self._exchange, Update(sent, rows))

    @torch.no_grad()
    def land(self) -> None:
        """Wait for the mean of the last sent result, and rebase the weights with the changes made since."""
        if self._flight is None:
            return
        flight, self._flight = self._flight, None
        waiting = time.perf_counter()
        mean, rows, seconds = flight.result()
        waited = time.perf_counter() - waiting
        self.seconds_waited += waited
        self.seconds_hidden += max(0.0, seconds - waited)
        if rows:  # without rows the outer step is skipped, so that momentum alone moves nothing
            self.base = self._step(self.base, mean)
        for name, mine in self._weights().items():
            mine.sub_(self._begun[name]).add_(self.base[name])

    def close(self) -> None:
        """Release the thread; a running exchange ends with its process group."""
        self._thread.shutdown(wait=False)

    def _exchange(self, update: Update) -> tuple[Weights, int, float]:
        begun = time.perf_counter()
        mean, rows = self._merge(update, self.base)
        return mean, rows, time.perf_counter() - begun


def _copies(weights: Weights) -> Weights:
    return {name: value.detach().clone() for name, value in weights.items()}
