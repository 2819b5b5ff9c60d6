"""Options of `incr serve`, and the application that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from incr_core._util import read_token
from incr_core.errors import ArgumentError, RunDirectoryError, StorageError
from incr_core.serving._app import MAX_BYTES, MAX_ROWS, App
from incr_core.serving._board import Board
from incr_core.serving._champion import Champion
from incr_core.serving._feedback import Feedback
from incr_core.serving._guard import Guard
from incr_core.serving._journals import is_postgres, open_journal
from incr_core.serving._shadow import Shadow
from incr_core.storage import Lock, storage

__all__ = ["Serving", "application"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a champion is served; each as the option of `incr serve` of its name.

    Attributes:
        journal: Folder, or address of a PostgreSQL, in which predictions are kept. None keeps none.
        labelled: Folder for rows whose labels have arrived. None: `labelled` in the folder of the journal.
        shadow: A version that is asked beside the champion.
        workers: Number of processes that answer.
        on: The engine where they run: "local" for this host.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_bytes: int = MAX_BYTES
    max_rows: int = MAX_ROWS
    rate: float | None = None
    concurrency: int = 1024
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    journal: str | None = None
    labelled: str | None = None
    join_every: float = 60.0
    keep: int = 1_000_000
    shadow: str | None = None
    workers: int = 1
    on: str = "local"

    def check(self) -> None:
        """Raise ArgumentError where a limit is below what it may be, or options do not go together."""
        least = {"max_bytes": 1, "max_rows": 1, "concurrency": 1, "keep": 1, "workers": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ArgumentError(f"--{name.replace('_', '-')}: expected at least {value}, got {getattr(self, name)}")
        for name in ("rate", "join_every"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ArgumentError(f"--{name.replace('_', '-')}: expected more than 0, got {getattr(self, name):g}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ArgumentError("--tls-cert, --tls-key: expected both files or neither, got one; name the other too")
        if self.labelled is not None and self.journal is None:
            raise ArgumentError(
                "--labelled: expected a --journal too, without which no label is known; name its folder"
            )
        if self.journal is not None and is_postgres(self.journal) and self.labelled is None:
            raise ArgumentError(
                "--journal: expected --labelled FOLDER with a PostgreSQL, which has no folder; name one"
            )

    def token(self) -> str | None:
        """The token that requests must bring along; None where there is none."""
        return read_token(self.token_file)

    def feedback(self, champion: Champion) -> Feedback | None:
        """What keeps predictions and takes labels."""
        if self.journal is None:
            return None
        journal = open_journal(self.journal, most=self.keep)
        labelled = Path(self.journal) / "labelled" if self.labelled is None else Path(self.labelled)
        return Feedback(journal, champion.current.version.job, labelled, self.join_every)

    def claim(self) -> Lock | None:
        """Take the lock of the folder of a journal, which one server has at a time; its workers share it."""
        if self.journal is None or is_postgres(self.journal):
            return None
        lock = Lock(Path(self.journal) / ".lock")
        with storage(lock.path.parent):
            lock.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.take()
        except RunDirectoryError:
            raise StorageError(f"{self.journal}: is the journal of another server; end that, or name another") from None
        return lock


def application(
    directory: str | Path, options: Serving, token: str | None, board: Board | None = None, worker: int = 0
) -> App:
    """Return the application of one process, ready to answer.

    Args:
        directory: The run's.
        options: How it is served.
        token: What requests must bring along.
        board: What the workers of a server share. None: there is one.
        worker: The place of this one.

    Raises:
        IncrError: The champion, the shadow or the journal cannot be opened.
    """
    champion = Champion(directory)
    shadow = None if options.shadow is None else Shadow(directory, options.shadow)
    feedback = options.feedback(champion)
    app = App(
        champion,
        max_bytes=options.max_bytes,
        max_rows=options.max_rows,
        feedback=feedback,
        guard=Guard(token, options.rate, options.concurrency, board=board, worker=worker),
        shadow=shadow,
    )
    champion.follow()
    if feedback is not None:
        feedback.start()
    return app
