"""Differential privacy at a client: noise hides its answers, until its budget is spent.

unit = "rows", "row"    each row by DP-SGD, in every step: a pass over an increment is one step of the account
unit = "client"         all rows together: the update's change of the weights is clipped, and noise is added
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from federated._privacy_budget import PrivacyBudget, Rows
from incr_core.data import ranges
from incr_core.errors import ArgumentError, EngineError
from incr_core.job import ClientPrivacy
from incr_core.privacy import SecretNoise, clipped, moved
from incr_core.rounds import Participant
from incr_core.storage import packing
from incr_core.strategies import Strategy
from incr_core.update import Update

__all__ = ["Promise", "Spent"]

DEPENDS = ("learner", "personal", "increment", "unconsolidated")
"""The parts of a participant's state on which its next update depends."""


class Spent(EngineError):
    """The remaining budget is too small for the order."""


class Promise:
    """The promise of one client to hide its rows.

    Args:
        wanted: The terms of the promise.
        budget: Its account.
        secret: The secret from which the noise is drawn.
        run: The run in which the client learns.
    """

    def __init__(self, wanted: ClientPrivacy, budget: PrivacyBudget, secret: bytes, run: str) -> None:
        self.wanted, self.budget = wanted, budget
        self._secret, self._run = secret, run
        self.spent = False  # whether the next increment cannot be paid

    def check(self, participant: Participant) -> None:
        """Have the learner hide each row if the promise is about rows.

        Raises:
            ArgumentError: The promise cannot be kept.
        """
        learner = participant.learner
        sums = [name for name, rule in learner.rules().items() if rule == "sum" and learner.weights()[name].numel()]
        if learner.typical is None and sums:
            raise ArgumentError(
                "features.ranges: expected a range of every numeric column, since a private client sends no sums over "
                f"its rows to normalise by ({sums[0]}), got none; say what the least and the greatest number of each is"
            )
        if self.wanted.unit != "client":
            if participant.stopping is not None:
                raise ArgumentError(
                    "learner.validation: expected none, since rows that are held back would decide when to stop; leave "
                    "it out"
                )
            if participant.stream.rates:
                raise ArgumentError(
                    "features.rate: expected none, since a row is in the rates of others, got some; leave them out, or "
                    'let the promise be about all rows together (privacy.unit = "client")'
                )
            learner.hide_rows(self.wanted.clip, self.wanted.noise)
            return
        shares = learner.shared_state()[0] or learner.remakes
        if shares:
            names = [
                type(one).__name__
                for one in learner.strategies
                if isinstance(one, Strategy) and not one.off and (one.traits.shared or one.traits.remakes)
            ]
            raise ArgumentError(
                f"strategy {', '.join(names)}: expected strategies that send nothing beside the update; leave it out"
            )
        if averages := [name for name, rule in learner.rules().items() if rule == "average"]:
            raise ArgumentError(
                f"privacy: expected a model without running statistics, got {averages[0]}, which no noise hides; use "
                "LayerNorm or GroupNorm instead of BatchNorm"
            )

    def affords(self, participant: Participant, generation: int | None = None) -> bool:
        """Return whether the budget pays for learning the next increment. generation: see `PrivacyBudget.affords`."""
        coming = participant.ahead()
        if coming is None:
            return True
        ids, passes = coming
        times = self._times(len(ids), passes)
        return self.budget.affords(times, self._rows(participant, ids), run=self._run, generation=generation)

    def learn(self, participant: Participant, anchor: Mapping[str, Tensor], first: bool, generation: int) -> Update:
        """Learn as `Participant.learn` does, with noise.

        In later rounds, an update without rows when the budget is spent.

        Raises:
            Spent: The budget is spent before the first round. The rows stay as they are.
        """
        assert participant.increment is not None
        ids = participant.increment.labelled.row_ids
        assert ids is not None
        times = self._times(len(ids), participant.passes())
        question = self._question(participant, anchor, first)
        rows = self._rows(participant, ids)
        if not self.budget.pay(question, times, rows, run=self._run, generation=generation):
            if first:
                raise Spent(
                    f"privacy: expected an order that the budget of epsilon = {self.budget.limit:g} still pays for, "
                    "got one to learn; order nothing more until its owner raises it"
                )
            participant.adopt(anchor)
            return Update(participant.told(participant.learner.weights()), 0)
        source = SecretNoise(self._secret, bytes.fromhex(question))
        private = participant.learner.private
        if private is not None:
            private.source = source
        update = participant.learn(anchor, first)
        weights = participant.told(update.weights)
        if private is None and update.num_rows:
            by, _ = clipped(weights, anchor, participant.learner.rules(), self.wanted.clip)
            noise, scale = source.like(by), self.wanted.clip * self.wanted.noise
            weights = moved(
                {name: anchor[name] for name in weights}, {name: by[name] + scale * noise[name] for name in by}
            )
        hidden = Update(weights, update.num_rows, update.losses if self.wanted.metrics else {})
        hidden.steps = update.steps
        return hidden

    def hidden(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the data about an increment that the server may receive: counts, and sums for metrics if allowed."""
        if self.wanted.metrics:
            return document
        return {**document, "statistics": {}, "sliced": {}, "scored": 0, "probed": [], "tasks": []}

    def told(self) -> dict[str, Any]:
        """Return the state of the account, which is sent with every answer."""
        return {"epsilon": self.budget.epsilon(), "limit": self.budget.limit, "spent": self.spent}

    def _times(self, rows: int, passes: int) -> int:
        """Return the number of steps of the account for learning these rows."""
        return 0 if not rows else passes if self.wanted.unit != "client" else 1

    @staticmethod
    def _rows(participant: Participant, ids: Tensor) -> Rows:
        names = participant.stream.fragments
        return {names[number]: pairs for number, pairs in ranges(ids).items()}

    def _question(self, participant: Participant, anchor: Mapping[str, Tensor], first: bool) -> str:
        """Return a hash of all that the answer depends on, so that each noise is used for one answer only."""
        state = participant.state_dict(whole=True)
        depends = {key: state[key] for key in DEPENDS if key in state}
        tensors, structure = packing.pack(_in_one_order({"state": depends, "anchor": anchor, "first": first}))
        # The secret is included: with another secret, an answer that was paid for would be repeated with other noise.
        # The promise is included: the same normal numbers in two sizes would reveal the update without noise.
        promised = [self._run, self.wanted.unit, self.wanted.noise, self.wanted.clip]
        text = json.dumps([*promised, structure], sort_keys=True)
        found = hmac.new(self._secret, text.encode(), hashlib.sha256)
        for name in sorted(tensors):
            found.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


def _in_one_order(node: Any) -> Any:
    """Return nested state with entries sorted by name. State that was read from a disk has another order.

    Example:
        >>> _in_one_order({"b": [{"d": 1, "c": 2}], "a": 3})
        {'a': 3, 'b': [{'c': 2, 'd': 1}]}
    """
    if isinstance(node, Mapping):
        return {key: _in_one_order(node[key]) for key in sorted(node, key=str)}
    return [_in_one_order(one) for one in node] if isinstance(node, list) else node
