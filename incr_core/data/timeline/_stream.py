"""A stream: an ordered source of increments that can be resumed at any of them, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from incr_core._util import prefetch, waiting
from incr_core.batch import Batch
from incr_core.data import times as clock
from incr_core.data._local_time import LocalTime
from incr_core.data.encoding import Encoder, list_widths
from incr_core.data.rates import History, Rate
from incr_core.data.sources import FileSource, Fragment, open_source
from incr_core.data.timeline._keys import Learned
from incr_core.data.timeline._loader import Loader
from incr_core.data.timeline._partition import Blocks, Partition
from incr_core.data.timeline._read_back import by_address, by_replay, in_order
from incr_core.data.timeline._standing import Standing, standing
from incr_core.data.timeline._timeline import Increment, Timeline
from incr_core.errors import ArgumentError, StreamError

__all__ = ["KEY_WINDOW", "MAX_LEAP", "Increment", "Stream"]

MAX_LEAP = "366d"
"""A year: yearly rows are no leap."""

KEY_WINDOW = 100_000
"""Rows: 1.6 MB of keys in each commit."""


class Stream:
    """Increments of a source: a file, a folder, a glob, a callable or "module:factory".

    encoder: how rows become tensors; where it does not say how long lists are, the first rows do.
    format: of the files, if their names do not tell.
    every: what an increment is: "file", a number of rows, or a duration such as "1h" whose ticks begin at multiples of
        it since 1970 (UTC). A tick in which nothing happens is no increment.
    order: "time" sorts by `predict_at`; files whose times overlap are loaded, and sorted, together. "file" takes rows
        as they lie.
    predict_at, label_at: the columns that say when a row must be predicted and when its label is known. Without
        `label_at` a row is learned in the increment it arrives in, after it was predicted. A row whose label time is
        null is predicted and never learned.
    warm_start: rows before this ISO time, or this many rows, are increment 0.
    max_leap: how far a time may be ahead of all others of its file, counted from their median on ("30d"); where one
        leaps further, with nothing in between, its row is bad. It would move the clock for ever.
    time_zone: what times mean that do not say their zone ("Europe/Berlin"). None: UTC, and either all files and columns
        of times say theirs, or none does.
    on_bad_row: "fail" raises `BadRows`; "quarantine" leaves such rows out and reports them in `Increment.bad`.
    on_bad_file: "fail" raises what is wrong with a file that cannot be read, lacks a column or has one of another type;
        "quarantine" goes on without it, and reports it in `Increment.bad_files`: it keeps its number, and whoever goes
        on from there looks at it again if it is another file by then. None: as `on_bad_row`.
    settle: seconds for which a file of CSV or JSON lines, or one without its footer, must not have been written to;
        one that was is left for who goes on later. Rows appended to a file of CSV or JSON lines are read by who goes
        on.
    key, key_window: a column, or several, by which a row is known again; a row whose key was learned within so many
        rows of the stream, or a duration such as "7d" of `predict_at`, is left out, and told in `Increment.duplicates`.
    rates: more numeric features, from labels already known.
    partition: the owner whose part of the stream this is.
    prefetch: how many increments a thread prepares ahead.

    With a number of rows or "file", and `label_at`, an increment's labels are those due before its last row's time,
    and a last increment brings the labels still to come. A file found by a later run, with times the stream has
    already passed, counts as arriving when it was found.

    Memory: the files of one increment, or one file if that is more; all files that overlap in time with it; and the
    files of rows whose labels are still to come.

    >>> encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
    >>> stream = Stream(lambda: [{"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]}], encoder=encoder, every=2)
    >>> [(step.tick.name, step.labelled.targets.tolist()) for step in stream.increments()]
    [('rows 0-1', [1.0, 2.0]), ('rows 2-2', [3.0])]
    """

    def __init__(
        self,
        source: str | Path | Callable[[], Iterable[Any]],
        *,
        encoder: Encoder,
        every: str | int = "file",
        format: str | None = None,
        order: str = "time",
        predict_at: str | None = None,
        label_at: str | None = None,
        warm_start: str | int | None = None,
        max_leap: str = MAX_LEAP,
        time_zone: str | None = None,
        on_bad_row: str = "fail",
        on_bad_file: str | None = None,
        rates: Sequence[Rate] = (),
        settle: float = 0.0,
        key: str | Sequence[str] = (),
        key_window: str | int = KEY_WINDOW,
        partition: Partition | None = None,
        prefetch: int = 2,
    ) -> None:
        self.source, self.format, self._encoder = source, format, encoder
        self.every, self.order, self.on_bad_row = every, order, on_bad_row
        self.on_bad_file = on_bad_file or on_bad_row
        self.predict_at, self.label_at, self.time_zone = predict_at, label_at, time_zone
        self.rates, self.partition, self.prefetch = tuple(rates), partition, prefetch
        self.key = [key] if isinstance(key, str) else list(key)
        self._learned = self._keys_in(key_window) if self.key else None
        self._check()
        self._leap = clock.duration(max_leap, "stream.max_leap")
        self._tick = clock.duration(every) if isinstance(every, str) and every != "file" else None
        if self._tick is not None and predict_at is None:
            raise ArgumentError(
                f'stream.every: expected a predict_at column with every = "{every}", got none; '
                'name the time column, or use a number of rows or "file"'
            )
        self._warm, self._warm_rows = self._warm_start(warm_start)
        self._local = local_time(time_zone, predict_at, label_at, self.rates)
        tolerant = self.on_bad_file == "quarantine"
        self._source = open_source(source, format, tolerant=tolerant, settle=settle, local=self._local)
        self._last: Increment | None = None

    def increments(
        self, cursor: dict[str, Any] | None = None, keys: dict[str, Any] | None = None, *, found: bool = True
    ) -> Generator[Increment, None, None]:
        """The increments from the beginning, or from after the one whose cursor this is; keys: the state of its
        `learned`. found: whether files, or rows behind them, that were found since that increment come too.

        Close the generator to end the thread that reads ahead. Raises StreamError, BadRows, and Stopped where a run is
        asked to stop before the next one is there.
        """
        blocks = self.partition if isinstance(self.partition, Blocks) else None
        loader = self._loader()
        self._source.closed = not found

        def timeline() -> Generator[Increment, None, None]:
            # Made in the thread that reads ahead: looking for files takes its time too.
            yield from Timeline(
                self._source,
                loader,
                every=self._tick,
                rows=self.every if isinstance(self.every, int) else None,
                warm=self._warm,
                warm_rows=self._warm_rows,
                blocks=blocks,
                cursor=cursor,
                learned=None if self._learned is None else self._learned.resumed(keys),
            )

        ahead = prefetch(timeline(), self.prefetch)
        try:
            while True:
                with waiting():
                    increment = next(ahead, None)
                if increment is None:
                    break
                self._last = increment
                yield increment
        finally:
            ahead.close()

    def _loader(self) -> Loader:
        return Loader(
            self.encoder,
            self.predict_at,
            self.label_at,
            strict=self.on_bad_row == "fail",
            owner=None if isinstance(self.partition, Blocks) else self.partition,
            by_fragment=self.every == "file",
            cold_start=self._warm,
            floors={},
            rates=self.rates,
            leap=self._leap,
            key=self.key,
            on_bad_file=_unheard if self.on_bad_file == "quarantine" else None,
        )

    def read_back(self, rows: Tensor, cursor: dict[str, Any]) -> Batch | None:
        """Labelled rows given out before, by their ids (n,), as they were then; None where all their files are gone.

        cursor: that of the last increment given out. Raises StreamError where a file has changed since.

        >>> import torch
        >>> encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
        >>> stream = Stream(lambda: [{"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]}], encoder=encoder, every=2)
        >>> first = next(stream.increments())
        >>> stream.read_back(torch.tensor([1]), first.cursor).targets
        tensor([2.], dtype=torch.float64)
        """
        source = open_source(self.source, self.format, local=self._local)
        source.resume(cursor["fragments"], cursor["marks"], cursor.get("pieces", ()))
        if self.rates:
            return in_order(by_replay(source, self._loader(), rows, cursor, self._learned))
        return in_order(by_address(source, self.encoder, rows))

    def standing(self, cursor: dict[str, Any]) -> Standing:
        """How far a run with this cursor has come with the rows of its files; {}: one that has not begun.

        Raises StreamError where they cannot be looked at, or are none but what a function gives.
        """
        source = open_source(self.source, self.format, tolerant=True)
        if not isinstance(source, FileSource):
            raise StreamError("stream.path: expected files, got a function, which may give rows without end")
        return standing(source, self._loader(), cursor)

    @property
    def fragments(self) -> list[str]:
        """Paths of the fragments by number, relative to the source; for a Python source, those met so far."""
        return self._source.names

    @cached_property
    def encoder(self) -> Encoder:
        """How rows become tensors."""
        if self._encoder.is_measured:
            return self._encoder
        return self._encoder.measured(list_widths(self._source, self._encoder.listed))

    @property
    def numeric_width(self) -> int:
        """How many numbers a row has: numeric columns, lists at their length, and two for each rate."""
        return self.encoder.width + 2 * len(self.rates)

    def history(self) -> pa.Table | None:
        """The outcomes known after the last increment given out, for `encode_file`; None without rates."""
        if not self.rates:
            return None
        return History(self.rates).table() if self._last is None else self._last.history()

    def _check(self) -> None:
        if isinstance(self.every, int) and (self.every < 1 or isinstance(self.every, bool)):
            raise ArgumentError(f"stream.every: expected at least 1 row, got {self.every}")
        if self.order not in ("time", "file"):
            raise ArgumentError(f'stream.order: expected "time" or "file", got {self.order!r}')
        for key in ("on_bad_row", "on_bad_file"):
            if getattr(self, key) not in ("fail", "quarantine"):
                raise ArgumentError(f'features.{key}: expected "fail" or "quarantine", got {getattr(self, key)!r}')
        if self.order == "file" and self.predict_at is not None:
            raise ArgumentError(
                f'stream.order: expected "time" with predict_at = "{self.predict_at}", got "file", which takes rows as '
                "they lie; leave one of them out"
            )
        if self.label_at is not None and self.predict_at is None:
            raise ArgumentError(
                f'stream.label_at: expected a predict_at column too, got label_at = "{self.label_at}" alone; '
                "name the column that says when a row must be predicted"
            )
        if self.rates and self.predict_at is None:
            raise ArgumentError(
                "features.rate: expected a predict_at column, got none; rates are made of labels known before it"
            )
        if self.rates and self._encoder.of_tokens:
            raise ArgumentError(
                "features.rate: expected none with the objective next_token, whose inputs are tokens alone"
            )
        objective = self._encoder.objective
        if objective in ("multiclass", "multilabel") and any(rate.outcome is None for rate in self.rates):
            raise ArgumentError(
                f"features.rate.outcome: expected a column of numbers with a {objective} objective, got none; "
                "a class has no mean"
            )

    def _keys_in(self, window: str | int) -> Learned:
        """No keys yet, of a window of time or of rows."""
        if isinstance(window, int):
            if window < 1:
                raise ArgumentError(f"stream.key_window: expected at least 1 row or a duration, got {window}")
            return Learned(window, timed=False)
        if self.predict_at is None:
            raise ArgumentError(
                f'stream.key_window: expected a predict_at column with key_window = "{window}", got none; '
                "name the time column, or give a number of rows"
            )
        return Learned(clock.duration(window, "stream.key_window"), timed=True)

    def _warm_start(self, start: str | int | None) -> tuple[int | None, int | None]:
        """The warm start as a time, or as a number of rows."""
        if start is None:
            return None, None
        if isinstance(start, int):
            if start < 1:
                raise ArgumentError(f"stream.warm_start: expected at least 1 row or a time, got {start}")
            return None, start
        if self.predict_at is None:
            raise ArgumentError(
                f'stream.warm_start: expected a predict_at column with warm_start = "{start}", got none; '
                "name the time column, or give a number of rows"
            )
        return clock.instant(start, zone=self.time_zone), None


def local_time(
    zone: str | None, predict_at: str | None, label_at: str | None, rates: Sequence[Rate] = ()
) -> LocalTime | None:
    """What times mean that do not say their zone, in the columns that say when a row arrives or something is known.

    >>> local_time("Asia/Tokyo", "at", "label_at").late
    frozenset({'label_at'})
    """
    if zone is None:
        return None
    early, late = [predict_at], [label_at, *(rate.known_at for rate in rates)]
    return LocalTime(zone, *(frozenset(name for name in names if name is not None) for names in (early, late)))


def _unheard(fragment: Fragment, rows: int, fault: Exception) -> None:
    """Whoever loads has somebody of its own to tell."""
