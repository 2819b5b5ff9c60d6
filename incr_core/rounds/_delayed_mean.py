"""The exchange of one round while the next is learned: each mean arrives a round late.

This is one-round delayed averaging (DaSGD, Zhou et al. 2020; the overlap of Streaming DiLoCo, Douillard et al. 2025,
arXiv:2501.18512), with what a replica has learned meanwhile kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from incr_core.update import Update, Weights

__all__ = ["DelayedMean"]

Merge = Callable[[Update, Weights], tuple[Weights, int]]
"""`Exchange.mean` of an update, in its own tensors, and the anchor."""


class DelayedMean:
    """Weights of one learner, B + u: of B, where all stand, and u, what this one has learned since.

    With u_k what it learns in round k, B_0 where the first begins, and p_i the shares of rows,

        round 1 begins at B_0, and round k + 1 at B_{k-1} + u_k
        B_k = outer(B_{k-1}, B_{k-1} + sum_i p_i u_{i,k})        while round k + 1 is learned
        after round k + 1 the weights are B_k + u_{k+1}, and after the last round, when all have waited, B

    Args:
        weights: gives the live ones.
        merge: what is done meanwhile, in another thread.
        step: the outer step, from B_{k-1} and the mean to B_k.

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
        """Take all rounds of an increment, and wait for the mean of the last; returns the rows learned.

        take: a round, of so many rows. goes_on: whether there is another; replicas may exchange for that.
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
        """A round is over, in which so many rows were learned: send what was, and learn on."""
        assert self._flight is None, "one exchange at a time"
        self._begun, sent = _copies(self._weights()), _copies(self._weights())
        self._flight = self._thread.submit(self._exchange, Update(sent, rows))

    @torch.no_grad()
    def land(self) -> None:
        """Wait for the mean of what was sent, and stand upon it with what was learned since."""
        if self._flight is None:
            return
        flight, self._flight = self._flight, None
        waiting = time.perf_counter()
        mean, rows, seconds = flight.result()
        waited = time.perf_counter() - waiting
        self.seconds_waited += waited
        self.seconds_hidden += max(0.0, seconds - waited)
        if rows:  # as in a round of its own: without, momentum is not applied either
            self.base = self._step(self.base, mean)
        for name, mine in self._weights().items():
            mine.sub_(self._begun[name]).add_(self.base[name])

    def close(self) -> None:
        """Let the thread go; an exchange that is under way ends with its group."""
        self._thread.shutdown(wait=False)

    def _exchange(self, update: Update) -> tuple[Weights, int, float]:
        begun = time.perf_counter()
        mean, rows = self._merge(update, self.base)
        return mean, rows, time.perf_counter() - begun


def _copies(weights: Weights) -> Weights:
    return {name: value.detach().clone() for name, value in weights.items()}
