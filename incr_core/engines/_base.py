"""Where learners live and how updates travel: the protocol of an engine, and the engine of one process.

The loop drives every engine the same way for each increment:

    arrivals = engine.receive()        every participant predicts what arrives and tells what it has to learn
    round = engine.learn(arrivals)     adopt, learn, exchange, outer step: once or several times
    engine.refuse(arrivals)            or, instead: let the rows to learn go
    engine.review(rows)                after it: one more round, over rows of the history
    engine.order(orders)               before or after: what else participants are to do; mostly nothing
    engine.save(version)               at a commit, participants keep their state under that version

Engines are found by name among the entry points of the group `incr.engines`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from incr_core.errors import JobError
from incr_core.numerics import settle_arithmetic
from incr_core.registry import state_folder
from incr_core.rounds import Arrival, Orders, Participant
from incr_core.update import Update, Weights, mean, merge, shares

if TYPE_CHECKING:
    from incr_core.job import Job

__all__ = ["Engine", "LocalEngine", "Round", "engine_named", "total_measured"]


@dataclass(slots=True)
class Round:
    """What learning an increment took.

    losses: name -> sum over learned rows of the loss term.
    passes_rows: rows learned, counting a row once per pass.
    """

    losses: dict[str, float] = field(default_factory=dict)
    passes_rows: int = 0
    bytes_exchanged: int = 0
    seconds_learning: float = 0.0
    seconds_exchanging: float = 0.0

    def add(self, updates: Sequence[Update]) -> None:
        """Take in the losses of one exchange."""
        for update in updates:
            self.passes_rows += update.rows
            for name, value in update.losses.items():
                self.losses[name] = self.losses.get(name, 0.0) + value


class Engine:
    """Drive participants through increments. Subclasses say where participants live.

    job: what to run; directory: the run directory, under whose `state/` participants keep theirs.
    """

    name = "engine"

    def __init__(self, job: Job, directory: Path) -> None:
        # Whoever merges updates must round as those do who made them.
        settle_arithmetic(job.learner.threads)
        self.job = job
        self.directory = directory

    @property
    def participants(self) -> list[str]:
        """Names of the participants, in the order of their shares in every sum."""
        raise NotImplementedError

    @property
    def fragments(self) -> Sequence[str]:
        """Paths of the stream's fragments by number, as far as they are known."""
        raise NotImplementedError

    def start(self, version: int | None, weights: Weights | None) -> None:
        """Begin anew, or go on from a committed version and its weights."""
        raise NotImplementedError

    def receive(self) -> list[Arrival]:
        """Let every participant take its next increment; empty when the stream has ended."""
        raise NotImplementedError

    def learn(self, arrivals: Sequence[Arrival]) -> Round:
        """Learn the increment at hand."""
        raise NotImplementedError

    def refuse(self, arrivals: Sequence[Arrival]) -> Round:
        """Let go of the rows that `learn` would have learned: those that `arrivals` tell afterwards."""
        raise NotImplementedError

    def review(self, rows: Mapping[str, Tensor]) -> Round:
        """One round over rows learned before: their ids (n,) by participant."""
        raise NotImplementedError

    def order(self, orders: Orders) -> None:
        """Let all participants do this, between two increments or before one is learned."""
        raise NotImplementedError

    def adopt(self, weights: Weights) -> None:
        """Let all participants stand at these weights."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything, as when made; `start` follows, to return to a commit."""
        raise NotImplementedError

    def save(self, version: int) -> None:
        """Let participants keep their state for this version."""
        raise NotImplementedError

    def weights(self) -> Weights:
        """The weights all participants stand at, whole, on the CPU or as live views."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What the engine itself must keep between commits."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""

    def history(self) -> Any:
        """The stream's recent outcomes, which predicting new rows needs; None where it needs none."""
        return None

    def close(self) -> None:
        """Give everything back. May be called twice."""

    def state_path(self, participant: str, version: int) -> Path:
        """Where a participant keeps its state for a version."""
        return state_folder(self.directory, participant, version)


def total_measured(arrivals: Sequence[Arrival]) -> Weights:
    """The sum of what participants measured, in their order.

    >>> total_measured([])
    {}
    """
    total: Weights = {}
    for arrival in arrivals:
        for name, value in arrival.measured.items():
            total[name] = total[name] + value if name in total else value
    return total


def merge_shared(
    states: Sequence[Mapping[str, Tensor]],
    rows: Sequence[int],
    rules: Mapping[str, str],
    anchor: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Merge the strategy state that participants share, weighted by the rows each learned.

    Where nobody learned a row, all count alike. anchor: what merges by "sum", as all had it before.

    >>> import torch
    >>> merge_shared([{"0.f": torch.ones(1)}, {"0.f": torch.zeros(1)}], [1, 3], {"0.f": "mean"}, {})
    {'0.f': tensor([0.2500])}
    """
    p = shares(rows if any(rows) else [1] * len(rows))
    return {name: merge([state[name] for state in states], p, rules[name], anchor.get(name)) for name in states[0]}


class LocalEngine(Engine):
    """One participant, in this process."""

    name = "local"

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        self._make()

    def _make(self) -> None:
        self.participant: Participant = self.job.participant()
        self.outer = self.job.outer_step()
        self.rules = self.participant.learner.rules()

    @property
    def participants(self) -> list[str]:
        """The one."""
        return [self.participant.name]

    @property
    def fragments(self) -> Sequence[str]:
        """Paths of the stream's fragments by number."""
        return self.participant.stream.fragments

    def start(self, version: int | None, weights: Weights | None) -> None:
        """Begin anew, or go on from a commit."""
        if version is not None and weights is not None:
            self.participant.learner.adopt(weights)
            self.participant.load(self.state_path(self.participant.name, version))

    def receive(self) -> list[Arrival]:
        """Take the next increment."""
        arrival = self.participant.receive()
        return [] if arrival is None else [arrival]

    def learn(self, arrivals: Sequence[Arrival]) -> Round:
        """Adopt, learn, outer step, consolidate."""
        learner, done, begun = self.participant.learner, Round(), time.perf_counter()
        if arrivals[0].labelled == 0:
            return done
        learner.absorb(total_measured(arrivals))
        self._round(self._begin_and_advance, done)
        if self.participant.consolidates:
            self.participant.consolidate()
        done.seconds_learning = time.perf_counter() - begun
        return done

    def review(self, rows: Mapping[str, Tensor]) -> Round:
        """Learn the rows, outer step."""
        done, begun = Round(), time.perf_counter()
        self._round(lambda: self.participant.review(rows[self.participant.name]), done)
        done.seconds_learning = time.perf_counter() - begun
        return done

    def _begin_and_advance(self) -> Update:
        """In one, since a round's anchor is what was agreed on before strategies began: with clients, none other is."""
        self.participant.begin()
        return self.participant.advance()

    def _round(self, learn: Callable[[], Update], done: Round) -> None:
        learner = self.participant.learner
        anchor = learner.weights()
        if self.outer.needs_anchor:
            anchor = {name: value.clone() for name, value in anchor.items()}
        update = learn()
        done.add([update])
        if update.rows:
            learner.adopt(self.outer.step(anchor, mean([update], anchor, self.rules), self.rules))

    def refuse(self, arrivals: Sequence[Arrival]) -> Round:
        """Let the rows go."""
        self.participant.refuse()
        return Round()

    def order(self, orders: Orders) -> None:
        """Do it."""
        if orders.consolidate:
            self.participant.consolidate()
        self.participant.follow(orders)

    def adopt(self, weights: Weights) -> None:
        """Stand at these weights."""
        self.participant.learner.adopt(weights)

    def reset(self) -> None:
        """Another participant, as fresh as the first was."""
        self.participant.close()
        self._make()

    def save(self, version: int) -> None:
        """Keep the participant's state."""
        self.participant.save(self.state_path(self.participant.name, version))

    def weights(self) -> Weights:
        """The live weights."""
        return self.participant.learner.weights()

    def state_dict(self) -> dict[str, Any]:
        """The outer step's state."""
        return {"outer": self.outer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.outer.load_state_dict(state["outer"])

    def history(self) -> Any:
        """The stream's recent outcomes."""
        return self.participant.stream.history()

    def close(self) -> None:
        """Stop reading ahead."""
        self.participant.close()


def engine_named(name: str) -> type[Engine]:
    """The engine of that name, among those installed.

    >>> engine_named("local").__name__
    'LocalEngine'
    """
    found = {entry.name: entry for entry in entry_points(group="incr.engines")}
    if name not in found:
        raise JobError(f"--on {name}: expected one of the installed engines, {', '.join(sorted(found))}")
    try:
        engine: type[Engine] = found[name].load()
    except ModuleNotFoundError as missing:
        raise JobError(
            f"--on {name}: this engine needs {missing.name}, which is not installed; pip install 'incr[{name}]'"
        ) from missing
    return engine
