"""A commit as an engine sees it: what one takes of it while it is made, and what it later goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from incr_core.update import Weights

__all__ = ["Commit", "Saving"]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a run goes on from: a version, its weights, and the state that the engine itself saved with it."""

    version: int
    weights: Weights
    engine: Mapping[str, Any]


def _nothing() -> None:
    """There is nothing to do."""


def _no() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Saving:
    """A version whose state participants are saving, until it is committed.

    weights: the common ones, whole, as they were when the version was saved. Where participants go on `meanwhile`, it
    waits until all state of the version is on the disk, and is called in another thread; it is given a function that
    says whether nobody wants the version any more, since somebody was lost, and raises EngineError then.
    state: of the engine itself, which goes on from it (`Commit`).
    extra_state: state other than tensors of the first participant's modules (`ExtraState`).
    history: the stream's recent outcomes, if predicting new rows needs them.
    personal: weights that participants do not have in common, so that a version cannot have them.
    swept: participants whose older states the commit removes; others remove their own.
    retired: those who took part, and will not again: the commit removes all that they had saved.
    news: what befell participants since the last commit, for its events: kind, what, and what was done.
    settle: waits until nothing is being written any more; raises what went wrong with it, WorkerLost too.
    committed: to be called when the version is.
    regroups: asked once the commit has begun: whether there are to be other participants from now on. Then
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
    regroups: Callable[[], bool] = _no
