"""The law that a row is learned once, for the commits of a run."""

from __future__ import annotations

import pyarrow as pa

from incr_core.errors import CheckpointError
from incr_core.registry._history import History
from incr_core.registry.ledger import Coverage, Intervals, check

__all__ = ["LearnedOnce"]


class LearnedOnce:
    """Which rows a run has learned, read when the first commit asks for it.

    >>> from pathlib import Path
    >>> from incr_core.data import row_ids
    >>> from incr_core.registry.ledger import entry_table
    >>> learned = LearnedOnce(History(Path("/nowhere")))
    >>> list(learned.with_rows(entry_table(1, "all", row_ids(0, 0, 9), ["a.csv"], increment=0)))
    ['a.csv']
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._covered: Coverage | None = None

    def survey(self) -> None:
        """What is there may have changed."""
        self._covered = None

    def with_rows(self, ledger: pa.Table) -> Intervals:
        """What is learned with the rows of a ledger, for `take`; CheckpointError where one of them is learned twice."""
        try:
            return self._coverage().with_rows(ledger)
        except CheckpointError:
            # The coverage does not know who learned the row; the whole ledger names both.
            before = self._history.table("ledger")
            if before.num_rows:
                check(pa.concat_tables([before, ledger]))
            raise

    def take(self, learned: Intervals) -> None:
        """The rows are committed."""
        self._coverage().take(learned)

    def _coverage(self) -> Coverage:
        if self._covered is None:
            self._covered = Coverage()
            ledger = self._history.table("ledger")
            if ledger.num_rows:
                self._covered.add(ledger)
        return self._covered
