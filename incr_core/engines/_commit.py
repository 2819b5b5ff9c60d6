"""Commits from an engine's point of view: what it provides for one, and what it resumes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from incr_core.update import Weights

__all__ = ["Commit", "Saving"]


@dataclass(frozen=True, slots=True)
class Commit:
    """The state that a run resumes from: a version, its weights, and the state that the engine saved with it."""

    version: int
    weights: Weights
    engine: Mapping[str, Any]


def _nothing() -> None:
    """Do nothing."""


def _no() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Saving:
    """A version whose state participants are saving, until it is committed.

    Attributes:
        weights: Returns the common weights, whole, as of the save. If participants continue `meanwhile`, it waits until
            all state of the version is on disk, and is called in another thread. Its argument is a function that
            returns True if the version is abandoned because a worker was lost; it then raises EngineError.
        state: State of the engine itself, for resuming (`Commit`).
        swept: Participants whose older states the commit removes; the others remove their own.
        extra_state: Non-tensor state of the first participant's modules (`ExtraState`).
        history: The stream's recent outcomes, if predicting new rows needs them.
        personal: Names of weights that participants do not share, which a version therefore cannot contain.
        retired: Participants that left for good: the commit removes all their saved state.
        news: Events at participants since the last commit: kind, subject, and reaction.
        meanwhile: Whether participants continue while the version is saved.
        settle: Waits for all pending writes; raises their errors, including WorkerLost.
        committed: Called after the commit.
        membership_changes: Called once the commit has begun: whether the set of participants changes now. If so,
            `Engine.start` is called.
    """

    weights: Callable[[Callable[[], bool]], Weights]
    state: dict[str, Any]
    swept: Sequence[str]
    extra_state: Mapping[str, Any]
    history: Any = None
    personal: Sequence[str] = ()
    retired: Sequence[str] = ()
    news: Sequence[tuple[str, str, str]] = ()
    meanwhile: bool = False
    settle: Callable[[], None] = _nothing
    committed: Callable[[], None] = _nothing
    membership_changes: Callable[[], bool] = _no
