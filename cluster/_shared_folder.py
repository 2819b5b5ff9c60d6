"""A run directory for a cluster: a folder that outlives the job and that every node reaches."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from cluster._rank import Rank
from incr_core.errors import JobError
from incr_core.storage import remove, storage

__all__ = ["SharedFolder", "require_lasting"]

CACHE = re.compile(r"/runtime_resources/working_dir_files/_ray_pkg_\w+(/|$)")
"""Name pattern of the folder, named by a hash, into which Ray unpacks an upload of `ray job submit --working-dir`."""

MARK = ".shared"


def require_lasting(directory: Path) -> None:
    """Raise JobError for a run directory in Ray's copy of a working directory: each change makes another copy.

    Example:
        >>> require_lasting(Path("/shared/runs/flights"))
    """
    if CACHE.search(str(directory)):
        raise JobError(
            f"--out {directory}: expected a folder that outlives the job, got one in Ray's copy of the working "
            "directory, which is a new one after each change of a file; pass --out with an absolute path that "
            "all nodes share"
        )


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A folder with a file by which other processes verify that they see the same folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shared = SharedFolder.mark(Path(folder))
        ...     shared.require("replica 0")
        ...     shared.unmark()
        ...     shared.require("replica 1")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: cluster: expected replica 1 on ... to reach the run directory ..., got ...; ...
    """

    path: Path
    token: str

    @classmethod
    def mark(cls, path: Path) -> SharedFolder:
        """Write the file."""
        shared = cls(path, uuid4().hex)
        with storage(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / MARK).write_text(shared.token)
        return shared

    def state(self, rank: Rank, version: int) -> Path:
        """Folder of a worker's state of a version."""
        return rank.state(self.path, version)

    def let_go(self, rank: Rank, version: int) -> None:
        """Remove a replica's states of a version, if this worker holds the replica's first shard."""
        if rank.shard == 0:
            remove(self.state(rank, version).parent)

    def unmark(self) -> None:
        """Remove the file."""
        (self.path / MARK).unlink(missing_ok=True)

    def require(self, who: str) -> None:
        """Raise JobError, with the name of the host, if it is not the same folder here."""
        try:
            found = (self.path / MARK).read_text()
        except OSError:
            found = ""
        if found != self.token:
            got = "another folder" if self.path.is_dir() else "none there"
            raise JobError(
                f"cluster: expected {who} on {socket.gethostname()} to reach the run directory {self.path}, got {got}; "
                "put it on storage that all nodes share, at the same path"
            )
