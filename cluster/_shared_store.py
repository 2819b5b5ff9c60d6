"""A run in an object store on a cluster: every worker reaches the store and keeps its state there."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cluster._rank import Rank
from incr_core.errors import IncrError, JobError
from incr_core.storage import ObjectStore

__all__ = ["SharedStore", "StoredState"]


@dataclass(frozen=True, slots=True)
class SharedStore:
    """The store of a run, and the writer's token, by which other processes verify that they see the same store.

    Example:
        >>> ObjectStore("memory://doc/shared").put("writer", b'{"token": "f00d"}')
        >>> SharedStore("memory://doc/shared", "f00d").require("replica 0")
        >>> SharedStore("memory://doc/shared", "beef").require("replica 1")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: cluster: expected replica 1 on ... to reach the run at memory://doc/shared, got ...
    """

    address: str
    token: str

    @property
    def path(self) -> str:
        """Address of the run for messages."""
        return self.address

    def require(self, who: str) -> None:
        """Raise JobError, with the name of the host, if the store is not reachable from here."""
        try:
            found = ObjectStore(self.address).get("writer") or b""
            got = "" if self.token.encode() in found else "another run there"
        except IncrError as error:
            got = str(error)
        if got:
            raise JobError(
                f"cluster: expected {who} on {socket.gethostname()} to reach the run at {self.address}, got {got}; "
                "give all nodes the same credentials and endpoint (docs/cluster.md)"
            )

    def state(self, rank: Rank, version: int) -> StoredState:
        """Place for a worker's state of a version: objects with unused names."""
        return StoredState(self.address, rank.state(f"objects/{self.token}/{uuid4().hex[:8]}", version).as_posix())

    def let_go(self, rank: Rank, version: int) -> None:
        """Do nothing: the process that writes the manifest removes old states."""

    def unmark(self) -> None:
        """Do nothing: no file was written."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A worker's state as objects.

    Args:
        prefix: Prefix of objects that are created.
        objects: Objects that exist, by file.

    Example:
        >>> state = StoredState("memory://doc/states", "objects/f00d/replica-0")
        >>> with state.keeping() as folder:
        ...     _ = (folder / "state.json").write_text("{}")
        >>> state.made
        {'state.json': ('objects/f00d/replica-0/state.json', 2)}
        >>> objects = {"state.json": state.made["state.json"][0]}
        >>> with StoredState("memory://doc/states", objects=objects).kept() as folder:
        ...     (folder / "state.json").read_text()
        '{}'
    """

    address: str
    prefix: str = ""
    objects: Mapping[str, str] = field(default_factory=dict)
    made: dict[str, tuple[str, int]] = field(default_factory=dict)

    @contextmanager
    def keeping(self) -> Iterator[Path]:
        """Yield a folder whose files become objects at the end. `made` then maps each file to its object and size."""
        with tempfile.TemporaryDirectory(prefix="incr-state-") as name:
            folder = Path(name)
            yield folder
            files = {file.name: file for file in sorted(folder.iterdir())}
            ObjectStore(self.address).upload({f"{self.prefix}/{name}": file for name, file in files.items()})
            self.made.update({name: (f"{self.prefix}/{name}", file.stat().st_size) for name, file in files.items()})

    @contextmanager
    def kept(self) -> Iterator[Path]:
        """Yield a folder with the files that the objects contain."""
        with tempfile.TemporaryDirectory(prefix="incr-state-") as name:
            ObjectStore(self.address).download({place: Path(name, file) for file, place in self.objects.items()})
            yield Path(name)
