"""Prequential evaluation (Dawid 1984): rows are predicted as they arrive, and scored once their labels are known.

A prediction is made with the weights of the last round, and so depends on no label that was not known at its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from incr_core.data.timeline import Increment
from incr_core.learner import Learner
from incr_core.metrics import Statistics
from incr_core.rounds._pending_predictions import PendingPredictions
from incr_core.rounds._probe import Probe
from incr_core.rounds._trivial import TrivialPredictors

__all__ = ["Prequential", "Scores"]


@dataclass(frozen=True, slots=True)
class Scores:
    """What an increment's labels say of earlier predictions.

    scored: how many predictions. statistics: additive, of these, and of trivial predictions of the same rows.
    probed: for each `Probe`, its sums.
    """

    scored: int
    statistics: Statistics
    probed: list[Tensor]


class Prequential:
    """Predict an increment's rows with a learner, and score the predictions whose labels it brings.

    probes: statistics to report besides. pending: the predictions not scored yet. trivial: what the model is compared
    with.
    """

    def __init__(self, learner: Learner, probes: Sequence[Probe]) -> None:
        self.learner = learner
        self.probes = tuple(probes)
        self.pending = PendingPredictions()
        self.trivial = TrivialPredictors(learner.objective)

    def evaluate(self, increment: Increment) -> Scores:
        """Predict the rows that arrive; score those whose labels have become known, whoever learns them.

        Of the warm start nothing is predicted, and nothing while the objective is not `ready`: of a stream of numbers
        without a warm start, the first increment's rows.
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
            return Scores(scores.scored, scores.statistics, probed)
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
        statistics = objective.measure(predictions, targets, weights) | self.trivial.measure(targets, weights)
        return Scores(len(place), statistics, probed)
