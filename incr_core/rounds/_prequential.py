"""Prequential evaluation (Dawid 1984): rows are predicted as they arrive, and scored when their labels become known.

A prediction is made with the weights of the last round, and therefore depends on no label unknown at its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from incr_core import metrics
from incr_core.data.timeline import Increment
from incr_core.learner import Learner
from incr_core.metrics import Packed, Statistics
from incr_core.rounds._pending_predictions import PendingPredictions
from incr_core.rounds._probe import Probe
from incr_core.rounds._trivial import TrivialPredictors

__all__ = ["Prequential", "Scores"]

Sliced = dict[str, tuple[int, Packed]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of earlier predictions whose labels an increment reveals.

    Attributes:
        scored: Number of predictions scored.
        statistics: Their additive statistics, and those of trivial predictions of the same rows.
        probed: Sums of each `Probe`.
        sliced: Number of these predictions in each slice, and their statistics.
    """

    scored: int
    statistics: Statistics
    probed: list[Tensor]
    sliced: Sliced = field(default_factory=dict)


class Prequential:
    """Predicts an increment's rows with a learner, and scores the predictions whose labels it reveals.

    Args:
        learner: The learner.
        probes: Further statistics to report.
        slices: Names of the slices (`Batch.slices`).

    Attributes:
        pending: Predictions that are not scored yet.
        trivial: Trivial predictions for comparison.
    """

    def __init__(self, learner: Learner, probes: Sequence[Probe], slices: Sequence[str] = ()) -> None:
        self.learner, self.slices = learner, tuple(slices)
        self.probes = tuple(probes)
        self.pending = PendingPredictions()
        self.trivial = TrivialPredictors(learner.objective)

    def evaluate(self, increment: Increment) -> Scores:
        """Predict the rows that arrive, and score those whose labels have become known, regardless of where they are
        learned.

        Rows of the warm start are not predicted, and no rows are while the objective is not `ready`: in a regression
        stream without a warm start these are the rows of the first increment.
        """
        arriving, warm = increment.arriving, increment.tick.warm
        if len(arriving) and not warm and self.learner.objective.ready:
            assert arriving.row_ids is not None
            with self.learner.answering() or nullcontext():
                self.pending.add(arriving.row_ids, self.learner.predict(arriving.inputs))
        scores = self._score(increment)
        self.trivial.add(increment.revealed.targets, increment.revealed.weights)
        if self.probes and not warm:
            of_arriving = [probe.of_arriving(arriving.inputs) for probe in self.probes]
            probed = [torch.cat([one, other]) for one, other in zip(of_arriving, scores.probed, strict=True)]
            return replace(scores, probed=probed)
        return scores

    def _score(self, increment: Increment) -> Scores:
        revealed, objective = increment.revealed, self.learner.objective
        assert revealed.row_ids is not None
        place, predictions = self.pending.take(revealed.row_ids)
        targets = revealed.targets[place]
        probed = [probe.of_scored(objective, predictions, targets) for probe in self.probes]
        if len(place) == 0:
            return Scores(0, {}, probed)
        weights = None if revealed.weights is None else revealed.weights[place]
        sliced: Sliced = {}
        if self.slices and revealed.slices is not None:
            sliced = self._sliced(revealed.slices[place], predictions, targets, weights)
        statistics = objective.measure(predictions, targets, weights) | self.trivial.measure(targets, weights)
        return Scores(len(place), statistics, probed, sliced)

    def _sliced(self, slices: Tensor, predictions: Tensor, targets: Tensor, weights: Tensor | None) -> Sliced:
        """Measure the predictions of each slice. slices: of each prediction, (n, columns)."""
        found: Sliced = {}
        for number in torch.unique(slices).tolist():
            rows = (slices == number).any(1).nonzero().flatten()
            weight = None if weights is None else weights[rows]
            measured = self.learner.objective.measure(predictions[rows], targets[rows], weight)
            found[self.slices[number]] = len(rows), metrics.coarse(measured)
        return found
