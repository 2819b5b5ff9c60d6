"""Places where workers keep their states: the run directory, or the run's store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cluster._rank import Rank
from cluster._shared_folder import SharedFolder
from cluster._shared_store import SharedStore, StoredState
from cluster._worker_messages import Saved
from incr_core.storage import checkpoint, copy_of

__all__ = ["KeptStates"]


class KeptStates:
    """The states of the workers of the run in `directory`, as described to workers.

    Example:
        >>> states = KeptStates(Path("/shared/run"))
        >>> str(states.of(Rank(1, 2, 0, 1), 3))
        '/shared/run/state/replica-1/3/shard-0'
        >>> states.are_files, len(states.of_all(Rank(1, 2, 0, 1), range(2), [0], 3))
        (True, 2)
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._copy = copy_of(directory)

    def shared(self) -> SharedFolder | SharedStore:
        """The run directory, as all workers must reach it."""
        copy = self._copy
        return SharedFolder.mark(self._directory) if copy is None else SharedStore(copy.address, copy.token)

    @property
    def are_files(self) -> bool:
        """Whether the states are in the run directory, where each worker removes its own old ones."""
        return self._copy is None

    def of(self, rank: Rank, version: int) -> Path | StoredState:
        """Place of a worker's state of a version."""
        path, copy = rank.state(self._directory, version), self._copy
        return path if copy is None else StoredState(copy.address, objects=copy.objects(path))

    def of_all(
        self, rank: Rank, replicas: Iterable[int], shards: Sequence[int], version: int
    ) -> list[list[Path | StoredState]]:
        """Places of the states of these shards of each of these replicas."""
        return [
            [self.of(replace(rank, replica=replica, shard=shard), version) for shard in shards] for replica in replicas
        ]

    def kept(self, ranks: Sequence[Rank], version: int, saved: Sequence[Saved]) -> None:
        """Record that workers have kept their states of a version."""
        for rank, one in zip(ranks, saved, strict=True):
            if self._copy is not None:
                self._copy.stored(rank.state(self._directory, version), one.objects)
        checkpoint.settle([path for one in saved for path in one.unsynced])
