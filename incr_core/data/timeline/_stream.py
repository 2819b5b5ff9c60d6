"""A stream: an ordered source of increments that can be resumed at any of them, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from incr_core._util import prefetch, waiting
from incr_core.batch import Batch
from incr_core.data import times as clock
from incr_core.data._prepare import Prepare
from incr_core.data.encoding import Encoder, Slices, list_widths
from incr_core.data.rates import History, Rate
from incr_core.data.sources import FileSource, SharedReads, open_source
from incr_core.data.timeline._chunk_encoder import ChunkEncoder
from incr_core.data.timeline._loader import Loader
from incr_core.data.timeline._options import check_options, first_cut, local_time, no_keys, tick
from incr_core.data.timeline._partition import Blocks, Partition
from incr_core.data.timeline._read_back import by_address, by_replay, in_order
from incr_core.data.timeline._standing import Standing, standing
from incr_core.data.timeline._timeline import Increment, Timeline
from incr_core.data.timeline._turns import Sharing, Turns
from incr_core.errors import ArgumentError, StreamError

__all__ = ["KEY_WINDOW", "MAX_LEAP", "Increment", "Stream"]

MAX_LEAP = "366d"
"""A year, so that yearly rows are not leaps."""

KEY_WINDOW = 100_000
"""In rows: 1.6 MB of keys in each commit."""


class Stream:
    """Increments of a source: a file, a folder, a glob, a callable or "module:factory".

    With a number of rows or "file", and `label_at`, an increment's labels are those due before its last row's time, and
    a
    last increment contains the labels still to come. Rows of a file found by a later run, with times the stream has
    already
    passed, arrive at the time at which the file was found.

    Memory use: the files of one increment, or one file if that is more; all files that overlap with it in time; and the
    files of rows whose labels are still to come.

    Args:
        source: where rows are.
        encoder: how rows become tensors; where it does not say how long lists are, the first rows do.
        every: what an increment is: "file", a number of rows, or a duration such as "1h" whose ticks begin at
            multiples of it since 1970 (UTC). A tick in which nothing happens is not an increment.
        format: of the files, if their names do not say.
        order: "time" sorts by `predict_at`; files whose times overlap are loaded, and sorted, together. "file" takes
            rows as they lie.
        predict_at, label_at: the columns that say when a row must be predicted and when its label is known. Without
            `label_at` a row is learned in the increment it arrives in, after it was predicted. A row whose label time
            is null is predicted and never learned.
        warm_start: rows before this ISO time, or this many rows, are increment 0.
        max_leap: how far ahead a time may be of all others of its file, counted from their median on ("30d"); where
            one leaps further, with nothing in between, its row is bad. It would move the clock for ever.
        time_zone: what times without a zone mean ("Europe/Berlin"). None: UTC, and either all files and columns of
            times have a zone, or none has.
        on_bad_row: "fail" raises `BadRows`; "quarantine" leaves such rows out and reports them in `Increment.bad`.
        on_bad_file: "fail" raises an error for a file that cannot be read, lacks a column or has a column of another
            type. "quarantine" continues without the file and reports it in `Increment.bad_files`. The file keeps its
            number, and a resumed run reads it again if it has changed. None: as `on_bad_row`.
        rates: more numeric features, from labels already known.
        settle: seconds for which a file of CSV or JSON lines, or one without its footer, must not have been written
            to; a younger one is left for a later run. Rows appended to a file of CSV or JSON lines are read by a
            resumed run.
        key, key_window: a column, or several, that identify a row, and a number of rows of the stream or a duration of
            `predict_at` such as "7d". A row whose key was learned within this window is left out and reported in
            `Increment.duplicates`.
        partition: the owner whose part of the stream this is.
        reads: shared with streams of other owners in this process, which differ in `partition` alone.
        turns: with readers of the same stream in other processes, which differ in `partition` alone: each row is
            decoded and encoded by one of them, and handed to the others.
        slices: the slices of the stream. The metrics of each are reported separately.
        called: column -> what it is called in the files, where that is not its name.
        prepare: Function that all tables pass through before any other step.
        prefetch: how many increments a thread prepares ahead; 0, and none with `reads`: no thread. With many owners in
            a process there would be as many threads, and what one reads is there for the others already.

    Example:
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
        reads: SharedReads | None = None,
        turns: Turns | None = None,
        slices: Slices | None = None,
        called: Mapping[str, str] | None = None,
        prepare: Prepare | None = None,
        prefetch: int = 2,
    ) -> None:
        self.source, self.format, self._encoder = source, format, encoder
        self.every, self.order, self.on_bad_row = every, order, on_bad_row
        self.on_bad_file = on_bad_file or on_bad_row
        self.predict_at, self.label_at, self.time_zone = predict_at, label_at, time_zone
        self.rates, self.partition, self.prefetch = tuple(rates), partition, 0 if reads is not None else prefetch
        self.key = [key] if isinstance(key, str) else list(key)
        self._no_keys = no_keys(key_window, predict_at) if self.key else None
        check_options(predict_at, label_at, order, self.rates, encoder)
        for name, value in (("on_bad_row", on_bad_row), ("on_bad_file", self.on_bad_file)):
            if value not in ("fail", "quarantine"):
                raise ArgumentError(f'features.{name}: expected "fail" or "quarantine", got {value!r}')
        self._leap = clock.duration(max_leap, "stream.max_leap")
        self._tick = tick(every, predict_at)
        self._warm, self._warm_rows = first_cut(warm_start, predict_at, time_zone)
        self._local = local_time(time_zone, predict_at, label_at, self.rates)
        tolerant = self.on_bad_file == "quarantine"
        self._reads, self._turns, self._called, self._prepare = reads, turns, called, prepare
        self.slices = slices
        self._source = open_source(
            source,
            format,
            tolerant=tolerant,
            settle=settle,
            local=self._local,
            reads=reads,
            called=called,
            prepare=prepare,
        )
        self._last: Increment | None = None
        self.aside: list[list[int]] = []

    def increments(
        self, cursor: dict[str, Any] | None = None, keys: dict[str, Any] | None = None, *, found: bool = True
    ) -> Generator[Increment, None, None]:
        """Yield the increments from the beginning, or those after an earlier one.

        Close the generator to stop the thread that reads ahead.

        Args:
            cursor: The cursor of the earlier increment.
            keys: Its keys, if rows have keys (the state of its `learned`).
            found: Whether to include files, or rows appended to files, found since that increment.

        Raises:
            StreamError: The source cannot be read.
            BadRows: Rows cannot be used, and `on_bad_row` is "fail".
            Stopped: The run is to stop before the next increment is available.
        """
        share = self.partition if isinstance(self.partition, Blocks) else None
        loader = self._loader()
        if self._turns is not None and self._turns.count > 1:
            loader.sharing = Sharing(self._turns)
        self._source.closed = not found
        if self._no_keys is not None:
            loader.learned = self._no_keys.resumed(keys)

        def timeline() -> Generator[Increment, None, None]:
            # Created in the thread that reads ahead, because listing files also takes time.
            yield from Timeline(
                self._source,
                loader,
                every=self._tick,
                rows=self.every if isinstance(self.every, int) else None,
                warm=self._warm,
                warm_rows=self._warm_rows,
                share=share,
                cursor=cursor,
            )

        ahead = prefetch(timeline(), self.prefetch) if self.prefetch else timeline()
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

    def _loader(self, strict: bool | None = None, tolerant: bool | None = None) -> Loader:
        """Return a loader that has read nothing yet; None for `strict` or `tolerant` means the stream's own option."""
        chunks = ChunkEncoder(
            self.encoder,
            self.predict_at,
            self.label_at,
            owner=None if isinstance(self.partition, Blocks) else self.partition,
            strict=self.on_bad_row == "fail" if strict is None else strict,
            tolerant=self.on_bad_file == "quarantine" if tolerant is None else tolerant,
            rates=self.rates,
            leap=self._leap,
            key=self.key,
            reads=self._reads,
            slices=self.slices,
        )
        return Loader(chunks, self.every == "file", self._warm, History(self.rates), self._no_keys, self.aside)

    def set_aside(self, start: int, stop: int) -> bool:
        """Exclude outcomes that become known within [start, stop), in microseconds, from rates; return whether this is
        a change.

        Only rows read afterwards have such rates, so after a change begin to read again (`increments`). `aside`
        contains all
        excluded spans.

        Example:
            >>> encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
            >>> stream = Stream(list, encoder=encoder, predict_at="t", rates=[Rate([], "1h")])
            >>> stream.set_aside(5, 7), stream.set_aside(5, 7), stream.set_aside(7, 8), stream.aside
            (True, False, True, [[5, 8]])
        """
        if not self.rates or any(first <= start and stop <= last for first, last in self.aside):
            return False
        if self.aside and self.aside[-1][1] == start:
            self.aside = [*self.aside[:-1], [self.aside[-1][0], stop]]
        else:
            self.aside = [*self.aside, [start, stop]]
        return True

    def read_back(self, row_ids: Tensor, cursor: dict[str, Any]) -> Batch | None:
        """Return labelled rows of earlier increments by their ids (n,), unchanged; None if none of their files exist.

        Args:
            row_ids: The ids.
            cursor: The cursor of the last increment.

        Raises:
            StreamError: A file has changed since.

        Example:
            >>> import torch
            >>> encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
            >>> stream = Stream(lambda: [{"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]}], encoder=encoder, every=2)
            >>> first = next(stream.increments())
            >>> stream.read_back(torch.tensor([1]), first.cursor).targets
            tensor([2.], dtype=torch.float64)
        """
        source = open_source(self.source, self.format, local=self._local, called=self._called, prepare=self._prepare)
        source.resume(cursor["fragments"], cursor["fingerprints"], cursor.get("appended", ()))
        if self.rates:
            return in_order(by_replay(source, self._loader(), row_ids, cursor))
        return in_order(by_address(source, self.encoder, row_ids))

    def standing(self, cursor: dict[str, Any]) -> Standing:
        """Return the progress of a run with this cursor, or {} before it began, with the rows of its files.

        Raises:
            StreamError: The files cannot be read, or the source is a Python function.
        """
        source = open_source(self.source, self.format, tolerant=True, called=self._called, prepare=self._prepare)
        if not isinstance(source, FileSource):
            raise StreamError("stream.path: expected files, got a function, which may give rows without end")
        return standing(source, self._loader(strict=False, tolerant=True), cursor)

    @property
    def fragments(self) -> list[str]:
        """Return the paths of the fragments by number, relative to the source; for a Python source, names of those read
        so far.
        """
        return self._source.names

    @cached_property
    def encoder(self) -> Encoder:
        """The conversion of rows to tensors."""
        if self._encoder.is_measured:
            return self._encoder
        return self._encoder.measured(list_widths(self._source, self._encoder.listed))

    @property
    def numeric_width(self) -> int:
        """The count of numbers in a row: numeric columns, lists at their length, and two for each rate."""
        return self.encoder.width + 2 * len(self.rates)

    def history(self) -> pa.Table | None:
        """Return the outcomes known after the last increment, for `encode_file`; None without rates."""
        if not self.rates:
            return None
        return History(self.rates).table() if self._last is None else self._last.history()
