"""Batches of concurrent requests: requests that wait at the same time are answered by one forward."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from incr_core.serving._asked import Question, ask

__all__ = ["Batches"]

MOST = 1024
"""Rows of a forward to which other requests may still be added."""

FEW = 256
"""Rows up to which the event loop itself runs the forward of a fast model."""

FAST = 0.005
"""Seconds of a forward for which the event loop may be blocked."""

Answers = list[dict[str, Any]]


class Batches:
    """Collects the requests that are read in one turn of the event loop, and predicts them together.

    A request never waits for others to arrive: a single request is predicted at once. A slow model runs in a thread,
    and the requests that arrive meanwhile are the next batch.

    Args:
        pool: An executor with one thread.
        keep: Called with questions and answers before the answers are returned, in the event loop or in that thread.
        remote: Whether `keep` waits for another process. Then the thread calls it.
    """

    def __init__(
        self,
        pool: Executor,
        keep: Callable[[Sequence[Question], Answers], None] | None = None,
        *,
        remote: bool = False,
    ) -> None:
        self._pool = pool
        self._keep, self._remote = keep, remote
        self._waiting: list[tuple[Question, asyncio.Future[dict[str, Any]]]] = []
        self._due = False
        self._away = False
        self._slow = remote
        self.forwards = 0

    async def ask(self, question: Question) -> dict[str, Any]:
        """Return the answer to a question."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting.append((question, future))
        self._call_soon(loop)
        return await future

    def _call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and not self._due and not self._away:
            self._due = True
            loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = False
        batch = self._take()
        questions = [question for question, _ in batch]
        self.forwards += 1
        if self._slow or sum(question.count for question in questions) > FEW:
            self._away = True
            asked = loop.run_in_executor(self._pool, self.answers, questions)

            def came(asked: asyncio.Future[list[dict[str, Any] | Exception]]) -> None:
                self._away = False
                _tell(batch, asked.result())
                self._call_soon(loop)

            asked.add_done_callback(came)
        else:
            _tell(batch, self.answers(questions))
        self._call_soon(loop)

    def _take(self) -> list[tuple[Question, asyncio.Future[dict[str, Any]]]]:
        """Remove and return the next questions, all of one version."""
        asked, rows, count = self._waiting[0][0].asked, 0, 0
        for question, _ in self._waiting:
            rows += question.count
            if question.asked is not asked or (count and rows > MOST):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def answers(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Return the answers to questions of one version, or errors. A failing question does not affect the others."""
        began = time.perf_counter()
        try:
            answers = ask(questions)
            if self._keep is not None:
                self._keep(questions, answers)
        except Exception as error:
            if len(questions) == 1:
                return [error]
            return [answer for question in questions for answer in self.answers([question])]
        self._slow = self._remote or time.perf_counter() - began > FAST
        return list(answers)


def _tell(
    batch: Sequence[tuple[Question, asyncio.Future[dict[str, Any]]]], answers: Sequence[dict[str, Any] | Exception]
) -> None:
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.done():  # the client has disconnected
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
