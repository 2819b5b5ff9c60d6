"""The engine of a single process: one contributor without peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from incr_core.engines._base import Engine
from incr_core.engines._commit import Commit, Saving
from incr_core.registry import state_folder
from incr_core.rounds import (
    Alone,
    Arrival,
    Comparison,
    Contributor,
    Orders,
    Participant,
    Round,
    SavedState,
    total_observed,
)
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.job import Job

__all__ = ["LocalEngine"]


class LocalEngine(Engine):
    """One participant, in this process."""

    name = "local"
    interruptible = True

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        self.contributor = Contributor(job.participant, job.outer_step, Alone())

    @property
    def participant(self) -> Participant:
        """The only participant."""
        return self.contributor.participant

    @property
    def participants(self) -> list[str]:
        """Name of the only participant."""
        return [self.participant.name]

    @property
    def origins(self) -> Sequence[str]:
        """Names of the stream's fragments by number."""
        return self.participant.stream.fragments

    def start(self, commit: Commit | None) -> None:
        """Start from the beginning, or from a commit."""
        if commit is None:
            self.contributor.start(None, None)
        else:
            saved = SavedState([self._state(commit.version)])
            self.contributor.start(saved, commit.weights)

    def receive(self) -> list[Arrival]:
        """Take the next increment."""
        arrival = self.contributor.receive()
        return [] if arrival is None else [arrival]

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Learn the increment, or rows of the history, in one round."""
        if rows is None:
            return self.contributor.learn(total_observed(arrivals)) if arrivals[0].labelled else Round()
        if rows:
            return self.contributor.review(rows[self.participant.name])
        self.contributor.skip()
        return Round()

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Follow orders, then adopt the weights."""
        self.contributor.order(orders, weights)

    def judge(self) -> list[Tensor]:
        """Compare the weights with the champion."""
        return [self.contributor.judge()]

    def compare(self, champion: Weights) -> list[Comparison]:
        """Compare the weights."""
        return [self.contributor.compare(champion)]

    def save(self, version: int) -> Saving:
        """Save the contributor's state."""
        self.contributor.save(self._state(version))
        return Saving(
            lambda given_up: self.weights(),
            state={},
            swept=self.participants,
            extra_state=self.participant.learner.extra.state_dict(),
            history=self.participant.stream.history(),
        )

    def _state(self, version: int) -> Path:
        return state_folder(self.directory, self.participant.name, version)

    def weights(self) -> Weights:
        """Return the live weights."""
        return self.participant.learner.weights()

    def close(self) -> None:
        """Stop reading ahead."""
        self.participant.close()
