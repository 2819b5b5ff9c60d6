"""The rank of a worker among the replicas and shards of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from incr_core.registry import state_folder

__all__ = ["Rank"]


@dataclass(frozen=True, slots=True)
class Rank:
    """Which worker of the cluster: shard `shard` of `shards` of replica `replica` of `replicas`.

    >>> str(Rank(1, 2, 0, 1)), str(Rank(1, 2, 0, 4))
    ('replica 1', 'shard 0 of replica 1')
    """

    replica: int
    replicas: int
    shard: int
    shards: int

    @property
    def participant(self) -> str:
        """The name of the replica among the run's participants."""
        return f"replica-{self.replica}"

    @property
    def number(self) -> int:
        """The worker's number among all, from 0.

        >>> Rank(1, 2, 1, 3).number
        4
        """
        return self.replica * self.shards + self.shard

    @property
    def key(self) -> str:
        """The worker's key in the store."""
        return f"alive/{self.replica}/{self.shard}"

    @property
    def described(self) -> str:
        """As the worker's name in Ray says it.

        >>> Rank(1, 2, 0, 1).described, Rank(1, 2, 0, 4).described
        ('replica 1', 'replica 1 shard 0')
        """
        return f"replica {self.replica} shard {self.shard}" if self.shards > 1 else f"replica {self.replica}"

    def state(self, directory: str | Path, version: int) -> Path:
        """Where the worker's state of a version is in a run directory.

        >>> str(Rank(1, 2, 0, 1).state("runs/flights", 3))
        'runs/flights/state/replica-1/3/shard-0'
        """
        return state_folder(directory, self.participant, version) / f"shard-{self.shard}"

    def __str__(self) -> str:
        return f"shard {self.shard} of replica {self.replica}" if self.shards > 1 else f"replica {self.replica}"
