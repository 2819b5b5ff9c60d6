"""The rank of a worker among the replicas and shards of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from incr_core.registry import state_folder

__all__ = ["Rank"]


@dataclass(frozen=True, slots=True)
class Rank:
    """A worker's place in the cluster: shard `shard` of `shards` of replica `replica` of `replicas`.

    Example:
        >>> str(Rank(1, 2, 0, 1)), str(Rank(1, 2, 0, 4))
        ('replica 1', 'shard 0 of replica 1')
    """

    replica: int
    replicas: int
    shard: int
    shards: int

    @property
    def participant(self) -> str:
        """Name of the replica among the run's participants."""
        return f"replica-{self.replica}"

    @property
    def number(self) -> int:
        """Number of the worker among all, from 0.

        Example:
            >>> Rank(1, 2, 1, 3).number
            4
        """
        return self.replica * self.shards + self.shard

    @property
    def key(self) -> str:
        """Key of the worker in the store."""
        return f"alive/{self.replica}/{self.shard}"

    @property
    def described(self) -> str:
        """Name of the worker in Ray.

        Example:
            >>> Rank(1, 2, 0, 1).described, Rank(1, 2, 0, 4).described
            ('replica 1', 'replica 1 shard 0')
        """
        return f"replica {self.replica} shard {self.shard}" if self.shards > 1 else f"replica {self.replica}"

    def state(self, directory: str | Path, version: int) -> Path:
        """Path of the worker's state of a version in a run directory.

        Example:
            >>> str(Rank(1, 2, 0, 1).state("runs/flights", 3))
            'runs/flights/state/replica-1/3/shard-0'
        """
        return state_folder(directory, self.participant, version) / f"shard-{self.shard}"

    def __str__(self) -> str:
        return f"shard {self.shard} of replica {self.replica}" if self.shards > 1 else f"replica {self.replica}"
