"""The sections of a job file about rows: [stream], [features] and [[features.rate]]."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from incr_core.data.rates import Rate
from incr_core.data.sources import SETTLE, CsvFormat
from incr_core.data.timeline import MAX_LEAP
from incr_core.errors import ArgumentError
from incr_core.job._field_types import Duration, Settle, TickLength, TimeZone
from incr_core.job._section import Section

__all__ = ["CsvSection", "FeaturesSection", "RateSection", "StreamSection"]


class CsvSection(Section):
    """The format of CSV files."""

    delimiter: str = ","
    """The character between the values of a line."""
    decimal: str = "."
    """The decimal sign of numbers, `"."` or `","`."""
    thousands: str | None = None
    """The sign between groups of three digits: a comma, point, apostrophe or space. Default: none."""


class StreamSection(Section):
    """The source of the rows and the size of an increment."""

    path: str = Field("", min_length=1)
    """A file, a folder or a glob, on disk or at an address (`s3://bucket/days`, [object
    storage](cluster.md#object-storage)); or `"module:factory"`, a function that returns an iterable of Arrow
    tables, record batches or dicts of arrays. Required where a host has rows.
    """
    format: Literal["parquet", "arrow", "csv", "jsonl"] | None = None
    """The format of the files. Default: by their endings."""
    csv: CsvSection | None = None
    """The format of CSV files, if not with commas between values and points in numbers: `{ delimiter = ";", decimal =
    ",", thousands = "." }`. `incr init` finds it. A text that is a number written in this way is read as that number.
    `predict` and `evaluate` read CSV files in the same way.
    """
    order: Literal["time", "file"] = "time"
    """`"time"`: rows are sorted by `predict_at` where there is one. `"file"`: rows keep the order of their files."""
    predict_at: str | None = None
    """The column with the time at which a row must be predicted."""
    label_at: str | None = None
    """The column with the time at which the label of a row is known; a null means never. Default: `predict_at`."""
    every: TickLength | Annotated[int, Field(strict=True)] = "file"
    """The size of an increment: `"file"`, a number of rows, or a duration such as `"1h"` or `"1d"` (needs
    `predict_at`).
    """
    warm_start: str | Annotated[int, Field(strict=True)] | None = None
    """Rows before this time (`2013-02-01`, quoted or not), or this many rows, are increment 0: learned, but not
    predicted.
    """
    time_zone: TimeZone | None = None
    """The zone of times that state none, such as `"Europe/Berlin"`, in columns of times and in `warm_start`. An hour
    that occurs twice is the first one in `predict_at` and the second one where something becomes known. Without
    this key such times are UTC, and a file or a column that mixes times with and without zones is refused.
    """
    max_leap: Duration = MAX_LEAP
    """How far a time (`predict_at`, `label_at`, `known_at`) may be ahead of the other times of its file. Counted from
    their median, the first gap wider than this ends the range that is accepted; rows behind it are bad rows.
    Otherwise one row dated 2096 would move the clock for good. Each file is judged by its own times alone. Of a
    function, a part of fewer than 32 rows is judged together with the rows before it, 32 in all: a single row dated
    2096 is a bad row, unless it is the first of all. After a true gap of more than `max_leap`, the first 16 rows that
    come in small parts are bad rows; a part of 32 rows or more is accepted at once.
    """
    settle: Settle = SETTLE
    """How long a file must have been left unchanged before it is learned; `"0s"`: not at all. It applies to CSV and
    JSONL files, and to Parquet and Arrow files without a footer: a footer marks a file as complete.
    """
    key: str | Annotated[list[str], Field(min_length=1)] | None = None
    """A column, or a list of columns, that identifies a row. A row whose key has been learned is a duplicate: it is
    left out, counted and listed in the table `duplicates`. Meant for deliveries that happen at least once. A key
    column is not a feature, unless it is named as one.
    """
    key_window: Duration | Annotated[int, Field(strict=True)] | None = None
    """How far back keys are remembered: a number of rows, or a duration of `predict_at` such as `"7d"`. Default:
    100000 rows.
    """

    @property
    def file_format(self) -> str | None:
        """The format of the stream's files, and how CSV is written; None if their endings decide."""
        return self.format if self.csv is None else CsvFormat(**self.csv.model_dump())

    @model_validator(mode="after")
    def _csv_is_csv(self) -> Self:
        if self.csv is not None:
            if self.format not in (None, "csv"):
                raise ValueError(
                    f'stream.csv: expected stream.format = "csv" or none, got "{self.format}"; leave one out'
                )
            try:
                CsvFormat(**self.csv.model_dump())
            except ArgumentError as error:
                raise ValueError(f"stream.{error}") from None
        return self

    @property
    def timed(self) -> bool:
        """Whether an increment is a tick of a clock."""
        return isinstance(self.every, str) and self.every != "file"

    @property
    def keys(self) -> list[str]:
        """The columns by which a row is known again."""
        return [self.key] if isinstance(self.key, str) else self.key or []


class RateSection(Section):
    """Features from labels already known: how often, lately, among rows with the same keys."""

    by: list[str] | list[list[str]] = []
    """Key columns, or several lists of them. Empty: all rows."""
    window: Duration | list[Duration]
    """A duration, or several. Each pair of keys and window is one rate, with two features."""
    outcome: str | None = None
    """A numeric column. Default: the label."""
    known_at: str | None = None
    """The column with the time at which the outcome is known; a null means never. Default: `label_at`."""
    prior: float | None = None
    """The rate to expect of a key without rows. Default: the rate of all rows."""
    weight: float = Field(10.0, gt=0)
    """The number of rows that the prior counts as."""

    def rates(self) -> list[Rate]:
        """The rates that the section stands for."""
        keys = [key for key in self.by if isinstance(key, list)] or [[str(key) for key in self.by]]
        windows = [self.window] if isinstance(self.window, str) else self.window
        named = self.outcome, self.known_at
        return [Rate(by, window, self.prior, self.weight, *named) for by in keys for window in windows]


class FeaturesSection(Section):
    """The roles of the columns."""

    prepare: str | None = None
    """`"module:function"`: a function of a pyarrow table that returns a table, applied to all rows before any other
    step: it adds, renames or derives columns ([prepare](#prepare)). All other keys name columns of its result. It
    returns as many rows as it is given, and the result for a row depends on this row only. `predict`, `evaluate`,
    `serve` and `recommend` apply it too.
    """
    prepare_types: dict[str, str] | None = None
    """The Arrow types of the columns given to `prepare`: `{ height = "double", at = "timestamp[us]" }`. Values are
    converted to them, so rows of a request or of a CSV file are given to the function in the types of the stream.
    A column that is not named has the type of the first rows, which the run keeps.
    """
    label: str | Annotated[list[str], Field(min_length=1)]
    """The column to predict. Null and empty text are no labels. `multilabel`: a column of lists of labels, or several
    columns of 0 and 1. `ranking`: the relevance of the row's item, 0 for none. `next_token`: a column of lists of
    token numbers, all of one length, which are also the features. Required.
    """
    numeric: list[str] = []
    """Columns of numbers, or of lists of numbers. Where neither this nor `categorical` is given, all other columns are
    features, by their type, and `incr run` prints what it takes each for. Null is a missing value; NaN and infinity
    are bad values. A text column of a CSV file is numeric if nine in ten of its values are numbers; the others are
    bad values. Numbers that count rows and are named so are left out. Times, periods and the index of pandas (also
    the unnamed first column of a CSV file) are features only where they are named. A column holds one kind of value
    in all files: times with a zone, times without, durations, or numbers; true and false beside numbers are a fault
    in a category. Numbers are float32, the target of a regression is float64: subtract the offset first where a
    feature has an offset of a million times its spread.
    """
    categorical: list[str] = []
    """Columns of anything else. Where it is left open, columns that were written as a dictionary (the Categorical of
    pandas, of numbers too) are categorical, and so are whole numbers that are named as ids are (`user_id`, `zip`).
    """
    text: list[str] = []
    """Columns of text. Lower-case words and pairs of neighbouring words are hashed, looked up and summed. There is no
    vocabulary, so a new word is handled like any other, and all workers agree. An apostrophe is removed; anything
    but letters, digits and emoji separates words; a letter of a script without spaces is a word. Null, or text
    without a word, adds nothing. Whole numbers are read as text, bytes that are not UTF-8 with their codes. Not
    with `ranking` and `next_token`. A model of your own is given `text`, (rows, columns, slots). Default, where
    `numeric` and `categorical` are left open: text of several words that is nearly always distinct.
    """
    text_buckets: int = Field(2**16, ge=2, le=2**30)
    """Hash buckets of all words and pairs together."""
    text_words: int | None = Field(None, ge=1, le=4096)
    """The number of words of a text that count, from its beginning. Default: found in the data, such that 99 of 100
    texts of the first rows are complete, at most 256. Memories keep 8 bytes for each word.
    """
    date: list[str] = []
    """Columns of times (`predict_at` may be one of them) that become seven numbers each: days since 1970, and sine and
    cosine of the time of day, of the day of the week and of the day of the year. Times with a zone are taken in
    UTC.
    """
    ids: list[str] = []
    """Columns of ids (users, items, devices), text or whole numbers. Each distinct id has its own embedding,
    without collisions ([ids](#ids)). A job that names ids and nothing else learns from these alone.
    """
    id_rows: int = Field(2**16, ge=1, le=2**26)
    """The largest number of ids of a column with an embedding. Beyond it, the id unused for longest loses its row."""
    id_after: int = Field(1, ge=1)
    """Occurrences of an id, over all participants, from which it has an embedding."""
    id_unused: int | None = Field(None, ge=1)
    """Rows learned after which an unused id loses its embedding. Default: only if another id needs it."""
    exclude: list[str] = []
    """Columns that are not features where `numeric` and `categorical` are left open. A name that is no column of the
    rows is refused. The resolved job also lists the columns that were left out automatically.
    """
    item: list[str] = []
    """The feature columns that describe items. `ranking`: the other features describe the query. With `ids`:
    which columns `incr recommend` takes as the item's.
    """
    weight: str | None = None
    """A column with the weight of each row."""
    task: str | None = None
    """A column with the number of each row's task, from 0. `[[model.adapt]]` with `task_heads` or `experts` makes a
    model that uses it, for rows to predict too. Experts with a gate (`features`: the number of inputs) guess the
    task where rows to predict lack the column.
    """
    classes: list[str | int | float | bool] | None = None
    """The labels, in the order of the model's outputs. Of two, the second is the positive one. Default: found when a
    run begins, and kept by it. A class that first occurs later is a bad row; where classes are yet to come, name
    them all, or see `capacity`.
    """
    capacity: int | None = Field(None, ge=2)
    """`multiclass` only: the largest number of classes there may ever be. Labels are class numbers from 0, or the
    `classes` named. The head, the optimiser's state, memories and the Fisher information have room for all of them
    from the start. A class not seen yet is never predicted and learns nothing; a class that any worker meets is
    known to all in the same increment.
    """
    vocabulary: int | None = Field(None, ge=2, le=2**24)
    """`next_token` only, where it is required: the number of tokens. They are numbered from 0."""
    buckets: int = Field(1024, ge=2)
    """Hash buckets of each categorical column."""
    widths: dict[str, Annotated[int, Field(ge=1)]] | None = None
    """How long the lists of a column are: `{ pixels = 784 }`. A column that it does not name holds one number a row.
    Default: found in the first rows. A file whose lists all have another length, or that has numbers in place of
    lists or lists in place of numbers, is a bad file; a single list of another length is a bad row.
    """
    ranges: dict[str, tuple[float, float]] | None = None
    """The smallest and the largest value of each numeric column (and of the label, for regression): `{ age = [0, 110],
    pixels = [0, 255] }`. Inputs are then normalised by these instead of the mean and spread of rows, so that no
    statistic of rows has to be shared, as [private clients](federated.md#differential-privacy) require. Give it for
    all numeric columns or for none; not beside `rate` and `capacity`.
    """
    slices: list[str] = []
    """Columns for whose values metrics are reported separately, features or not: `["origin", "carrier"]`. Every scored
    row belongs to one slice of each column: that of its value, `COLUMN: null`, or `COLUMN: others`. `incr status` and
    the report list the slices, the worst first. `summary.json` has every metric of each (`slices`), the table `metrics`
    the main one: `slice.auc.origin=JFK` and `slice_rows.origin=JFK` of an increment, `slice_total.auc.origin=JFK` and
    `slice_total_rows.origin=JFK` so far. An AUC of a slice is within 0.002 of the exact one. Learning does not depend
    on slices: they may change during a run, and count from then on.
    """
    slice_values: dict[str, Annotated[list[str | int | float | bool], Field(min_length=1, max_length=100)]] | None = (
        None
    )
    """The values of each sliced column, at most 100: `{ origin = ["JFK", "EWR"] }`, compared as text. All other values
    are one slice. Default: the 20 most frequent of the first rows.
    """
    rate: list[RateSection] = []
    """`[[features.rate]]`: features from labels already known."""
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    """`"fail"`: a row that cannot be used ends the run. `"quarantine"`: the row is left out and kept in the table
    `quarantine` with its reason. A run that a bad row has ended goes on with `"quarantine"`.
    """
    on_bad_file: Literal["fail", "quarantine"] | None = None
    """What happens where a file cannot be read, lacks a column, has text in all of a numeric column, or has another
    kind of value in a column than earlier files. `"fail"` ends the run. `"quarantine"` sets the file aside as a
    whole: a row without an id in the table `quarantine`, with its reason and fingerprint, and an event. The file is
    read again once it has changed, by the same run before it ends or by the next one. Columns and classes are found
    in the other files; where these have two classes, values of a later file beyond them are bad rows. A run that a
    bad file has ended goes on with `"quarantine"`. Default: as `on_bad_row`.
    """

    @model_validator(mode="after")
    def _types_are_of_prepare(self) -> Self:
        if self.prepare_types is not None and self.prepare is None:
            raise ValueError(
                "features.prepare_types: expected with features.prepare only, got it alone; name a function, or leave "
                "the types out"
            )
        return self

    @field_validator("ranges")
    @classmethod
    def _low_before_high(cls, value: dict[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]] | None:
        for name, (low, high) in (value or {}).items():
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"expected the least and the greatest number of {name}, got [{low:g}, {high:g}]")
        return value

    @property
    def tolerates_bad_files(self) -> bool:
        """Whether the run goes on without files that cannot be used."""
        return (self.on_bad_file or self.on_bad_row) == "quarantine"

    @property
    def labels(self) -> list[str]:
        """The label columns."""
        return [self.label] if isinstance(self.label, str) else self.label
