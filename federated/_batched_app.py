"""A ClientApp that can answer several messages to the clients of one process together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

__all__ = ["Answers", "BatchedApp"]

Answers = Callable[[Sequence[Message], Sequence[Context]], list[Message]]
"""Messages of one batch and their contexts -> a reply for each, in order."""


class BatchedApp(ClientApp):
    """A ClientApp with additional handlers for batches of messages that arrive together (`Worker`).

    A batch consists of consecutive messages of one kind and, if the handler uses a `mark`, of one mark. A message whose
    mark is None is in no batch.

    Example:
        >>> app = BatchedApp()
        >>> @app.batched("query.save", lambda message: "all")
        ... def save_all(messages, contexts):
        ...     return list(messages)
        >>> app.answers("query.save") is save_all, app.answers("query.open")
        (True, None)
    """

    def __init__(self) -> None:
        super().__init__()
        self._batched: dict[str, tuple[Callable[[Message], object], Answers]] = {}

    def batched(self, action: str, mark: Callable[[Message], object]) -> Callable[[Answers], Answers]:
        """Register a handler for batches of messages of a kind, such as "train.learn"."""

        def register(answers: Answers) -> Answers:
            self._batched[action] = mark, answers
            return answers

        return register

    def answers(self, action: str) -> Answers | None:
        """Return the handler for batches of messages of this kind; None without one."""
        found = self._batched.get(action)
        return None if found is None else found[1]

    def batches(self, messages: Sequence[Message]) -> list[tuple[Answers | None, list[Message]]]:
        """Return messages in batches, in order, each with its handler; None: the app answers them one by one."""

        def kind(message: Message) -> tuple[str, object]:
            action = message.metadata.message_type
            mark, _ = self._batched.get(action, (None, None))
            return action, None if mark is None else mark(message)

        return [
            (None if mark is None else self.answers(action), list(batch))
            for (action, mark), batch in groupby(messages, kind)
        ]
