"""Messages between the driver and the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cluster._node_versions import versions_here
from cluster._processes import Process
from cluster._rendezvous import Rendezvous
from cluster._shared_folder import SharedFolder
from cluster._shared_store import SharedStore, StoredState
from incr_core.numerics import FlatTensors
from incr_core.rounds import Arrival, Round, SavedState

__all__ = ["Due", "Handover", "LearnedHere", "Received", "Saved", "SavedAt", "Setup"]


class Received(NamedTuple):
    """A replica's report of the increment that it took.

    Args:
        steps: Optimiser steps that it will take.
        origins: From the first replica, names of the stream's fragments after the `known` first ones, which it has
            reported before. The other replicas have the same.
    """

    arrival: Arrival
    steps: int
    known: int
    origins: list[str]


@dataclass(slots=True)
class Handover:
    """The first replica's part of a commit: the whole weights, further state of modules, and the stream's recent
    outcomes."""

    weights: FlatTensors
    extra_state: dict[str, Any]
    history: Any


@dataclass(slots=True)
class Saved:
    """Result of saving a worker's state.

    Args:
        objects: Objects that it has created in a store, by file.
        unsynced: Files and folders that the driver has to sync to disk.
    """

    objects: dict[str, tuple[str, int]] = field(default_factory=dict)
    unsynced: list[Path] = field(default_factory=list)


class Due(NamedTuple):
    """Request for a commit that directly follows an increment, sent together with it.

    Args:
        gathers: Whether to join the weights. Otherwise a later call writes their parts.
        version: Version for which to keep the state; None if that is requested later.
    """

    gathers: bool
    version: int | None


class LearnedHere(NamedTuple):
    """A worker's report of an increment that it has learned, with the content of a commit if one follows.

    Args:
        not_finite: Name of a weight that is not finite, if the weights are not included.
    """

    done: Round
    handover: Handover | None = None
    saved: Saved | None = None
    not_finite: str | None = None


@dataclass(frozen=True, slots=True)
class SavedAt:
    """Places of the states from which a worker continues.

    Args:
        states: By replica and shard.
        inherits: Whether the number of replicas has changed. The states of all are then included.
        cuts: Whether the number of shards has changed. The states of all shards are then included.
    """

    states: Sequence[Sequence[Path | StoredState]]
    inherits: bool = False
    cuts: bool = False

    @contextmanager
    def here(self) -> Iterator[list[SavedState]]:
        """Yield the same states as folders of this host."""
        with ExitStack() as stack:
            yield [
                SavedState(
                    [place if isinstance(place, Path) else stack.enter_context(place.kept()) for place in shards],
                    self.cuts,
                )
                for shards in self.states
            ]


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything from which the workers of a run are built.

    Args:
        document: The job.
        objects: Python objects that the job refers to.
        meeting: The workers' meeting place.
        directory: The run directory.
        reads_files: Whether the driver sees the stream's files.
        versions: Versions of software on the driver, which all workers must have.
        loop: Process of the loop.
    """

    document: Mapping[str, Any]
    objects: Mapping[str, Callable[..., Any]]
    meeting: Rendezvous
    directory: SharedFolder | SharedStore
    reads_files: bool = False
    versions: Mapping[str, str] = field(default_factory=versions_here)
    loop: Process = field(default_factory=Process.own)
