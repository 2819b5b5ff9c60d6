"""Options of `incr serve`, and the application that they configure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from incr_core._util import read_token
from incr_core.errors import ArgumentError, RunDirectoryError, StorageError
from incr_core.registry import RunDirectory
from incr_core.serving._app import MAX_BYTES, MAX_ROWS, App
from incr_core.serving._board import Board
from incr_core.serving._champion import Champion
from incr_core.serving._feedback import Feedback, require_raw_rows
from incr_core.serving._guard import Guard
from incr_core.serving._journals import is_postgres, open_journal
from incr_core.serving._shadow import Shadow
from incr_core.storage import Lock, storage

__all__ = ["Serving", "application"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Options of serving, each with the name of the option of `incr serve`.

    Attributes:
        journal: Folder, or address of a PostgreSQL, in which predictions are recorded. None records none.
        labelled: Folder for rows whose labels have arrived. None: `labelled` in the folder of the journal.
        shadow: A version that predicts the same rows beside the champion.
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
        """Check the options.

        Raises:
            ArgumentError: A limit is too low, or options exclude each other.
        """
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

    def check_run(self, directory: str | Path) -> None:
        """Raise ArgumentError if the options exclude this run, before a journal is created for it."""
        if self.journal is not None:
            require_raw_rows(RunDirectory.open(directory).job()["features"].get("prepare"))

    def token(self) -> str | None:
        """Return the token that requests must send; None without one."""
        return read_token(self.token_file)

    def feedback(self, champion: Champion) -> Feedback | None:
        """Return the recorder of predictions and labels; None without a journal."""
        if self.journal is None:
            return None
        journal = open_journal(self.journal, most=self.keep)
        labelled = Path(self.journal) / "labelled" if self.labelled is None else Path(self.labelled)
        return Feedback(journal, champion.current.version.job, labelled, self.join_every)

    def claim(self) -> Lock | None:
        """Take the lock of a journal's folder. One server has it at a time, and its workers share it."""
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
        directory: The run directory.
        options: Options of serving.
        token: The token that requests must send.
        board: Shared memory of the workers of a server. None: there is one worker.
        worker: The place of this worker.

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
