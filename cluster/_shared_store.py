"""A run in an object store as a cluster needs it: every worker reaches the store, and keeps its state there."""

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
    """The store of a run, and the token of who writes it, by which whoever else looks there knows that it is the same.

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
        """Where the run is, for people."""
        return self.address

    def require(self, who: str) -> None:
        """JobError where the store cannot be reached from here, by the name of the host."""
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
        """Where a worker is to keep its state of a version: as objects with names that nobody has had."""
        return StoredState(self.address, rank.state(f"objects/{self.token}/{uuid4().hex[:8]}", version).as_posix())

    def let_go(self, rank: Rank, version: int) -> None:
        """Whoever writes the manifest does that."""

    def unmark(self) -> None:
        """Nothing was left there."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A worker's state as objects. prefix: of those that it makes. objects: those that it has made, by file.

    >>> state = StoredState("memory://doc/states", "objects/f00d/replica-0")
    >>> with state.keeping() as folder:
    ...     _ = (folder / "state.json").write_text("{}")
    >>> state.made
    {'state.json': ('objects/f00d/replica-0/state.json', 2)}
    >>> with StoredState("memory://doc/states", objects={"state.json": state.made["state.json"][0]}).kept() as folder:
    ...     (folder / "state.json").read_text()
    '{}'
    """

    address: str
    prefix: str = ""
    objects: Mapping[str, str] = field(default_factory=dict)
    made: dict[str, tuple[str, int]] = field(default_factory=dict)

    @contextmanager
    def keeping(self) -> Iterator[Path]:
        """A folder whose files become objects when this ends; `made` tells which, and how many bytes each has."""
        with tempfile.TemporaryDirectory(prefix="incr-state-") as name:
            folder = Path(name)
            yield folder
            files = {file.name: file for file in sorted(folder.iterdir())}
            ObjectStore(self.address).upload({f"{self.prefix}/{name}": file for name, file in files.items()})
            self.made.update({name: (f"{self.prefix}/{name}", file.stat().st_size) for name, file in files.items()})

    @contextmanager
    def kept(self) -> Iterator[Path]:
        """A folder with the files that the objects are."""
        with tempfile.TemporaryDirectory(prefix="incr-state-") as name:
            ObjectStore(self.address).download({place: Path(name, file) for file, place in self.objects.items()})
            yield Path(name)
