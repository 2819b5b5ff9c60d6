"""Columns in which predictions are returned, by objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from incr_core.job import Job
from incr_core.objectives import Objective

__all__ = ["AnswerColumn", "AnswerColumns"]


class AnswerColumn(NamedTuple):
    """Values (B,) of one column of answers. With `names`, the values are indices into them."""

    values: np.ndarray[Any, Any]
    names: Sequence[str] | None = None

    def listed(self) -> list[Any]:
        """Return the values as Python objects.

        Example:
            >>> AnswerColumn(np.array([1, 0]), ["no", "yes"]).listed()
            ['yes', 'no']
        """
        values: list[Any] = self.values.tolist()
        return values if self.names is None else [self.names[place] for place in values]


class AnswerColumns:
    """Converts a learner's predictions into named columns, as `Version.predict` returns them."""

    def __init__(self, job: Job, objective: Objective) -> None:
        self._kind = job.learner.objective
        self._objective = objective
        self._names = [str(name) for name in job.features.classes or ()]
        self._named = job.features.classes not in (None, [0, 1])

    def columns(self, found: Tensor, rows: int) -> dict[str, AnswerColumn]:
        """Yield the columns of the predictions of `count` rows."""
        kind = self._kind
        if kind == "binary":
            values = found.numpy()
            told = {"probability": AnswerColumn(values)}
            if not self._named:
                return told
            return {"class": AnswerColumn((values >= 0.5).astype(np.int64), self._names), **told}
        if kind in ("multiclass", "multilabel"):
            names = self._names or [str(number) for number in range(self._objective.answers_a_row)]
            found = found.reshape(-1, self._objective.answers_a_row)
            shares = {f"probability.{name}": AnswerColumn(found[:, at].numpy()) for at, name in enumerate(names)}
            if kind == "multilabel":
                return shares
            return {"class": AnswerColumn(found.argmax(1).numpy(), names), **shares}
        if kind == "next_token":
            best = found.reshape(-1, self._objective.answers_a_row).max(1)
            return {"token": AnswerColumn(best.indices.numpy()), "probability": AnswerColumn(best.values.numpy())}
        if kind == "ranking":
            return {"score": AnswerColumn(found.reshape(rows, -1)[:, 0].numpy() if rows else found.numpy())}
        return {"value": AnswerColumn(found.numpy())}
