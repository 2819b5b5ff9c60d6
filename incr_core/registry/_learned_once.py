"""The law that a row is learned once, for the commits of a run."""

from __future__ import annotations

import pyarrow as pa

from incr_core.errors import CheckpointError
from incr_core.registry._history import History
from incr_core.registry.ledger import Coverage, Intervals, check

__all__ = ["LearnedOnce"]


class LearnedOnce:
    """The rows a run has learned, read at the first commit.

    Example:
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
        """Discard the rows read so far, because the files may have changed."""
        self._covered = None

    def with_rows(self, ledger: pa.Table) -> Intervals:
        """Return the state after the rows of a ledger, for `take`; raise CheckpointError if one of them is learned
        twice.
        """
        try:
            return self._coverage().with_rows(ledger)
        except CheckpointError:
            # The coverage does not record the learner of a row; the whole ledger names both.
            before = self._history.table("ledger")
            if before.num_rows:
                check(pa.concat_tables([before, ledger]))
            raise

    def take(self, learned: Intervals) -> None:
        """Record the rows as committed."""
        self._coverage().take(learned)

    def _coverage(self) -> Coverage:
        if self._covered is None:
            self._covered = Coverage()
            ledger = self._history.table("ledger")
            if ledger.num_rows:
                self._covered.add(ledger)
        return self._covered
