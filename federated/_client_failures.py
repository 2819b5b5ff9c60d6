"""Failures of clients as messages, so that the server raises the error that the client met.

Flower turns any exception of a client into one line of text. An `IncrError` is meant for the user and must arrive with
its type and its message, so clients answer with it. Any other error becomes a `WorkerLost` that names the client.
"""

from __future__ import annotations

import traceback

from flwr.app import ConfigRecord, Message, RecordDict

from incr_core import errors
from incr_core.errors import IncrError, WorkerLost

__all__ = ["REMEDY", "failure", "raise_failures"]

FAILURE = "failure"
"""The record of an answer that reports a failure."""

REMEDY = (
    "the run stands at its last commit; once the cause is gone, run the same command again and it goes on from there"
)


def failure(client: str, error: Exception) -> RecordDict:
    """Return the answer of a client that `error` has stopped.

    Example:
        >>> dict(failure("carrier=AA", ValueError("no"))["failure"])["type"]
        'WorkerLost'
    """
    if not isinstance(error, IncrError):
        where = traceback.extract_tb(error.__traceback__)[-1:]
        place = "".join(f" at {frame.filename}:{frame.lineno}" for frame in where)
        error = WorkerLost(f"client {client}: {type(error).__name__}: {error}{place}; {REMEDY}")
    return RecordDict({FAILURE: ConfigRecord({"type": type(error).__name__, "message": str(error)})})


def raise_failures(clients: list[str], answers: list[Message | None]) -> None:
    """Raise the error of the first failed client. `answers` belong to one question, in the order of `clients`.

    A reported error is preferred to a missing answer: a client that met a bad row explains more than its neighbours
    that were stopped with it.
    """
    for answer in answers:
        if answer is not None and answer.has_content() and FAILURE in answer.content:
            told = answer.content.config_records[FAILURE]
            kind: type[IncrError] = getattr(errors, str(told["type"]), IncrError)
            raise kind(str(told["message"]))
    silent = [
        (client, "no answer" if answer is None else answer.error.reason or "no reason given")
        for client, answer in zip(clients, answers, strict=True)
        if answer is None or answer.has_error()
    ]
    if silent:
        names = ", ".join(client for client, _ in silent[:5]) + (", ..." if len(silent) > 5 else "")
        raise WorkerLost(f"client {names}: lost ({silent[0][1]}); {REMEDY}")
