"""Partitions of one table into clients: the values of `federated.clients` besides columns, hashes and blocks.

iid:N              every row is assigned to one of N clients with equal probability
dirichlet:N:ALPHA  the clients' shares of each label are drawn from Dir(ALPHA)
labels:N:K         each client has rows of K labels
shards:N:S         labels are divided into N * S shards, and each client has S of them
quantity:N:ALPHA   the clients' shares of all rows are drawn from Dir(ALPHA)
time:N:DURATION    each client has every N-th time span
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from federated._simulated_client import Client
from incr_core.data.encoding import text
from incr_core.data.timeline import ByDraw, ByTime
from incr_core.data.times import duration
from incr_core.errors import JobError
from incr_core.job import Job

__all__ = ["PARTITIONERS", "Partitioner"]

Partitioner = Callable[[Job, int, str], list[Client]]
"""A job, the number of clients, and the remaining argument as text -> the clients. ValueError for an invalid argument.
"""

COMMON = 1_000_000
"""Assumed number of rows, where only shares are known."""


def _drawn(job: Job, kind: str, count: int, number: float) -> list[Client]:
    """Return clients whose rows are drawn.

    Raises:
        JobError: Some clients could never have a row. The message names them.
    """
    by_label = kind in ("dirichlet", "labels", "shards")
    column = _label(job, kind) if by_label else None
    classes = _classes(job, kind) if by_label else ()
    seed = job.learner.seed
    parts = [ByDraw(index, count, kind, number, column, classes, seed) for index in range(count)]
    shares = np.sum([parts[0].shares(label) for label in classes or (None,)], axis=0) / max(1, len(classes))
    without = [f"{kind}-{index}" for index, share in enumerate(shares.tolist()) if share == 0.0]
    if without and (classes or not by_label):
        raise JobError(
            f"federated.clients: expected that every client may get rows, got none ever for {', '.join(without[:5])}"
            f"{', ...' * (len(without) > 5)}; take fewer clients, or a larger number than {number:g}"
        )
    nobody = [label for label in classes if not parts[0].shares(label).any()]
    if nobody:
        raise JobError(
            f"federated.clients: expected a client for every label, got none for {', '.join(nobody[:5])}"
            f"{', ...' * (len(nobody) > 5)}; take more clients, or more than {number:g} a client"
        )
    return [
        Client(f"{kind}-{part.index}", part.index, part, 1 + round(COMMON * share))
        for part, share in zip(parts, shares.tolist(), strict=True)
    ]


def _label(job: Job, kind: str) -> str:
    if job.learner.objective not in ("binary", "multiclass") or len(job.features.labels) != 1:
        raise JobError(
            f'federated.clients: expected rows with one label of several classes for "{kind}:...", got objective '
            f'{job.learner.objective}; use "iid:N" or "quantity:N:ALPHA"'
        )
    return job.features.labels[0]


def _classes(job: Job, kind: str) -> tuple[str, ...]:
    """Return the labels as text; none if they are unknown and not needed."""
    features = job.features
    found: Sequence[object] = features.classes or range(features.capacity or 0)
    if not found and kind != "dirichlet":
        raise JobError(
            f'federated.clients: expected features.classes or features.capacity with "{kind}:...", which deals out '
            "labels before there are rows, got neither"
        )
    return tuple(str(text(label)) for label in found)


def _iid(job: Job, count: int, argument: str) -> list[Client]:
    if argument:
        raise ValueError
    return _drawn(job, "iid", count, 0.0)


def _by_alpha(kind: str) -> Partitioner:
    def make(job: Job, count: int, argument: str) -> list[Client]:
        alpha = float(argument)
        if not 0.0 < alpha < float("inf"):
            raise ValueError
        return _drawn(job, kind, count, alpha)

    return make


def _labels(job: Job, count: int, argument: str) -> list[Client]:
    each, classes = int(argument), _classes(job, "labels")
    if not 0 < each <= len(classes):
        raise JobError(
            f"federated.clients: expected from 1 to {len(classes)} labels a client, of the labels that exist, "
            f"got {each}"
        )
    return _drawn(job, "labels", count, each)


def _shards(job: Job, count: int, argument: str) -> list[Client]:
    if (each := int(argument)) < 1:
        raise ValueError
    return _drawn(job, "shards", count, each)


def _time(job: Job, count: int, argument: str) -> list[Client]:
    column, span = job.stream.predict_at, duration(argument, "federated.clients")
    if column is None:
        raise JobError(
            'federated.clients: expected stream.predict_at with "time:N:DURATION", whose clients have rows by their '
            "times, got none; name the column, or use another partition"
        )
    return [Client(f"time-{index}", index, ByTime(index, count, column, span)) for index in range(count)]


PARTITIONERS: dict[str, Partitioner] = {
    "iid": _iid,
    "dirichlet": _by_alpha("dirichlet"),
    "labels": _labels,
    "shards": _shards,
    "quantity": _by_alpha("quantity"),
    "time": _time,
}
