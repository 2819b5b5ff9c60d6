"""What the driver and the workers tell one another."""

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
    """What a replica tells about the increment it took.

    steps: optimiser steps it will take. origins: of the first replica, names of the fragments of the stream, but for
    the `known` first ones, which it has told before; the others know the same.
    """

    arrival: Arrival
    steps: int
    known: int
    origins: list[str]


@dataclass(slots=True)
class Handover:
    """What the first replica hands over for a commit: the whole weights, what modules keep besides, and the stream's
    recent outcomes.
    """

    weights: FlatTensors
    extra_state: dict[str, Any]
    history: Any


@dataclass(slots=True)
class Saved:
    """What came of a state that a worker has saved.

    objects: that it has made in a store, by file. unsynced: files and folders that the driver has to see to the disk.
    """

    objects: dict[str, tuple[str, int]] = field(default_factory=dict)
    unsynced: list[Path] = field(default_factory=list)


class Due(NamedTuple):
    """What a commit needs that follows as soon as an increment is learned, and so is told with it.

    gathers: whether the weights are to be put together here; else a later call writes their parts. version: for which
    to keep the state; None: that is asked for later.
    """

    gathers: bool
    version: int | None


class LearnedHere(NamedTuple):
    """What a worker tells of an increment that it has learned, and, where a commit follows, what that needs of it.

    not_finite: the name of a weight that is not, where it does not hand over the weights.
    """

    done: Round
    handover: Handover | None = None
    saved: Saved | None = None
    not_finite: str | None = None


@dataclass(frozen=True, slots=True)
class SavedAt:
    """Where the states are kept that a worker goes on from.

    states: of replicas, and of shards of each. inherits: there were more or fewer replicas: those of all are there.
    cuts: there were more or fewer shards: those of all shards are there.
    """

    states: Sequence[Sequence[Path | StoredState]]
    inherits: bool = False
    cuts: bool = False

    @contextmanager
    def here(self) -> Iterator[list[SavedState]]:
        """The same as folders of this host, as long as this lasts."""
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
    """What all workers of a run are built from.

    document, objects: the job, and what it names that only Python has. meeting: where they meet. directory: the run's.
    reads_files: whether the driver sees the stream's files. versions: what it runs on, and all workers must. loop: its
    process.
    """

    document: Mapping[str, Any]
    objects: Mapping[str, Callable[..., Any]]
    meeting: Rendezvous
    directory: SharedFolder | SharedStore
    reads_files: bool = False
    versions: Mapping[str, str] = field(default_factory=versions_here)
    loop: Process = field(default_factory=Process.own)
