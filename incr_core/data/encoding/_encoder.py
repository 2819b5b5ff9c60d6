"""The encoder: Arrow tables to batches, column by column."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from incr_core.batch import Batch, Inputs
from incr_core.data._row_ids import offset_of
from incr_core.data.encoding._columns import Fault
from incr_core.data.encoding._dates import PARTS
from incr_core.data.encoding._hashing import ColumnHash, id_keys, text
from incr_core.data.encoding._id_numbers import no_ids
from incr_core.data.encoding._labels import Labels
from incr_core.data.encoding._matrix import hash_pairs, numeric_matrix
from incr_core.data.encoding._pretrained import Pretrained
from incr_core.data.encoding._quarantine import BadRow
from incr_core.data.encoding._targets import check_labels, tokens
from incr_core.data.encoding._text import slots_of, text_buckets
from incr_core.data.encoding._weights import tasks, weights
from incr_core.data.encoding._widths import check_widths
from incr_core.errors import ArgumentError

__all__ = ["Encoded", "Encoder"]


@dataclass(slots=True)
class Encoded:
    """The usable rows of a table as a batch, and the others.

    Attributes:
        batch: The usable rows.
        bad: The unusable rows.
        good: Whether each row of the table is usable, (B,); None if all are.
    """

    batch: Batch
    bad: list[BadRow]
    good: np.ndarray[Any, np.dtype[np.bool_]] | None = None


class Encoder:
    """Converts tables to batches. It is made for rows of one shape, and encoding does not change it.

    Inputs are a float32 tensor (B, N) where there are only numbers, otherwise {"numeric": (B, N) float32,
    "categorical": (B, C, 2) int64, "text": (B, T, slots) int32, "ids": (B, K) int64}, without what no column is. A null
    number is missing, which is legitimate: it becomes NaN, for the model to impute. NaN or infinity *in the data* is a
    bad row. A category becomes two independent hashes of its text into [0, buckets): add two embeddings, and two
    categories that collide in one hash still differ in the other. So unseen categories need no vocabulary, and null is
    a separate category. A time becomes seven numbers (`date_parts`), a text the buckets of its words and pairs of
    words (`text_buckets`), an id a key of 64 bits (`id_key`).

    Targets: binary 0.0 or 1.0 (of two `classes` the second is positive); multiclass the index in `classes` (int64), or
    a class number, below `capacity` if given; multilabel (B, L) of 0 and 1, from a column of lists or several label
    columns; next_token (B, T) int64, whose inputs are the same tokens shifted by one; regression the label as float64;
    other objectives the label as float32.

    Args:
        label: the label column, or several; None where there never is one.
        numeric, categorical, date, text, id_columns: the feature columns.
        objective, classes, capacity: what labels mean, see above.
        weight, task: the columns of a row's weight and of its task, a number.
        buckets: how many values a hash has; text_buckets: that of a word.
        text_words: how many words of a text count.
        vocabulary: how many tokens there are.
        tasks: the model gets the task of each row, a number below this, as inputs["task"] (B,) int64.
        guesses: the model guesses the task of rows to predict that do not say theirs.
        widths: how long the lists (pixels, an embedding) of numeric columns are; columns that it does not name hold one
            number a row. None: a `Stream` finds out from its data.
        pretrained: A transformer whose vectors of the text columns are further numbers, in place of hashed words.
        tokenised: The model contains the transformer: texts become ids of its tokens, (B, T, tokens) int32.

    Attributes:
        hashes: what hashes the categories of each column; word_hashes: the words; id_hashes: the ids.
        ids: the numeric columns whose numbers the model looks entries up by, and which there are.

    Example:
        >>> encoder = Encoder("late", ["distance"], ["carrier"], objective="binary", classes=None)
        >>> table = pa.table({"late": [0, 1], "distance": [1.0, None], "carrier": ["AA", "UA"]})
        >>> batch = encoder.encode(table, torch.arange(2), "day.csv").batch
        >>> batch.inputs["numeric"].flatten(), batch.inputs["categorical"].shape, batch.targets
        (tensor([1., nan]), torch.Size([2, 1, 2]), tensor([0., 1.]))
    """

    def __init__(
        self,
        label: str | Sequence[str] | None,
        numeric: Sequence[str],
        categorical: Sequence[str],
        *,
        objective: str,
        classes: Sequence[Any] | None,
        weight: str | None = None,
        buckets: int = 1024,
        task: str | None = None,
        capacity: int | None = None,
        vocabulary: int | None = None,
        tasks: int | None = None,
        guesses: bool = False,
        widths: Mapping[str, int] | None = None,
        date: Sequence[str] = (),
        text: Sequence[str] = (),
        text_buckets: int = 2**16,
        text_words: int = 256,
        id_columns: Sequence[str] = (),
        pretrained: Pretrained | None = None,
        tokenised: bool = False,
    ) -> None:
        self.tasks = tasks
        self.guesses = guesses
        self.labels = [label] if isinstance(label, str) else list(label or ())
        self.weight, self.task, self.vocabulary = weight, task, vocabulary
        self.numeric, self.categorical = list(numeric), list(categorical)
        self.date, self.text = list(date), list(text)
        self.text_buckets, self.text_words = text_buckets, text_words
        self.id_columns = list(id_columns)
        self.pretrained, self.tokenised = pretrained, tokenised
        self.objective, self.buckets = objective, buckets
        check_labels(objective, self.labels, vocabulary, len(self.inputs))
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        repeated = repeated or [name for name in self.labels if name in self.inputs]
        if repeated:
            raise ArgumentError(
                f"features: expected every column once, got {', '.join(repeated)} twice "
                "(the label is not a feature); take one out"
            )
        if buckets < 2:
            raise ArgumentError(f"features.buckets: expected at least 2, got {buckets}")
        self._labels = Labels(self.labels, objective, classes, capacity)
        self.widths = {} if widths is None else {name: widths[name] for name in self.listed if name in widths}
        self.is_measured = widths is not None
        self.hashes = {name: ColumnHash(name) for name in self.categorical}
        self.word_hashes = {name: ColumnHash(name) for name in self.worded}
        self.id_hashes = {name: ColumnHash(name) for name in self.id_columns}
        self.ids: dict[str, range] = {}

    @property
    def classes(self) -> list[Any] | None:
        """Names of the classes, by index; None if labels are numbers."""
        return self._labels.classes

    @property
    def inputs(self) -> list[str]:
        """The columns that features are made of."""
        return [*self.numeric, *self.date, *self.categorical, *self.text, *self.id_columns]

    @property
    def of_numbers(self) -> bool:
        """Whether the inputs of a row are numbers, or tokens, alone: one tensor."""
        return not (self.categorical or self.worded or self.id_columns)

    @property
    def worded(self) -> list[str]:
        """The text columns that the model is given as whole numbers: all, except with vectors of a transformer."""
        return self.text if self.pretrained is None or self.tokenised else []

    @property
    def slots(self) -> int:
        """The whole numbers of a text: of its words and pairs of words, or of its tokens."""
        return self.pretrained.tokens if self.pretrained is not None else slots_of(self.text_words)

    @property
    def columns(self) -> list[str]:
        """Columns that a labelled table must have."""
        extra = [name for name in (*self.labels, self.weight, self.task) if name is not None]
        return [*self.inputs, *dict.fromkeys(extra)]

    @property
    def asked(self) -> list[str]:
        """Columns that a table to predict must have."""
        return self.labels if self.of_tokens else self.inputs

    @property
    def asks_task(self) -> bool:
        """Whether rows to predict must have a task: the model receives it, and cannot infer it."""
        return self.task is not None and self.tasks is not None and not self.guesses

    def without_task(self) -> Encoder:
        """Return a copy for rows without a task."""
        other = copy.copy(self)
        other.task = other.tasks = None
        return other

    @property
    def of_tokens(self) -> bool:
        """Whether rows are sequences of tokens."""
        return self.objective == "next_token"

    @property
    def listed(self) -> list[str]:
        """Columns whose lists must all have the same length."""
        return self.labels if self.of_tokens else self.numeric

    @property
    def width(self) -> int:
        """N: the number of numbers, or tokens, in a row's inputs."""
        if self.of_tokens:
            return self.widths.get(self.labels[0], 1) - 1
        return sum(map(len, self.places.values()))

    @property
    def places(self) -> dict[str, range]:
        """Places among a row's N numbers of each numeric column, then of each time and of each text with a vector.

        Example:
            >>> columns = ["at", "pixels", "far"]
            >>> encoder = Encoder("late", columns, [], objective="binary", classes=None, widths={"pixels": 3})
            >>> encoder.places["far"]
            range(4, 5)
        """
        found, start = {}, 0
        for name in self.numeric:
            found[name] = range(start, start + self.widths.get(name, 1))
            start = found[name].stop
        for name in self.date:
            found[name] = range(start, start + PARTS)
            start = found[name].stop
        if self.pretrained is not None and not self.tokenised:
            for name in self.text:
                found[name] = range(start, start + self.pretrained.width)
                start = found[name].stop
        return found

    def measured(self, widths: Mapping[str, int]) -> Encoder:
        """Return a copy for lists of these lengths.

        Example:
            >>> Encoder("y", ["pixels"], [], objective="binary", classes=None).measured({"pixels": 3}).width
            3
        """
        other = copy.copy(self)
        other.widths = {name: widths[name] for name in self.listed if name in widths}
        other.is_measured = True
        return other

    def taking(self, ids: Mapping[str, range]) -> Encoder:
        """Return a copy for a model that supports these ids in these columns; a row with another id is a bad row.

        Example:
            >>> words = Encoder("y", ["word"], [], objective="binary", classes=None).taking({"word": range(10)})
            >>> words.encode(pa.table({"word": [99], "y": [1]}), torch.arange(1), "day.csv").bad[0].reason
            'expected whole numbers from 0 to 9, got other numbers'
        """
        other = copy.copy(self)
        other.ids = dict(ids)
        return other

    def check(self, table: pa.Table, place: str, labelled: bool = True) -> None:
        """Check the shape of a table as a whole; `place` names its file.

        Args:
            table: The table.
            place: Its file.
            labelled: Whether labels are present; if not, sequences of tokens may lack the last one.

        Raises:
            StreamError: The table has another shape.
        """
        check_widths(table, self.widths, self.listed, place, spare=int(self.of_tokens and not labelled))

    def empty(self) -> Batch:
        """Return a batch without rows, with the right widths and dtypes."""
        rows = torch.zeros(0, dtype=torch.int64)
        inputs: Any = torch.zeros(0, self.width, dtype=torch.int64 if self.of_tokens else torch.float32)
        if not self.of_numbers:
            inputs = {"numeric": torch.zeros(0, self.width)}
        if self.categorical:
            inputs["categorical"] = torch.zeros(0, len(self.categorical), 2, dtype=torch.int64)
        if self.worded:
            inputs["text"] = torch.zeros(0, len(self.text), self.slots, dtype=torch.int32)
        if self.id_columns:
            inputs["ids"] = torch.zeros(0, len(self.id_columns), dtype=torch.int64)
        width = (self.width,) if self.of_tokens else self._labels.width
        targets = torch.from_numpy(np.zeros((0, *width), self._labels.dtype))
        task = None if self.task is None else torch.zeros(0, dtype=torch.int64)
        weights = None if self.weight is None else torch.zeros(0)
        return Batch(self._with_task(inputs, task), targets, weights, task, rows)

    def _with_task(self, inputs: Inputs, task: Tensor | None) -> Inputs:
        """Add the task to the inputs, if the model receives it."""
        if self.tasks is None or task is None:
            return inputs
        return {**(inputs if isinstance(inputs, dict) else {"numeric": inputs}), "task": task}

    def encode(
        self,
        table: pa.Table,
        rows: Tensor,
        place: str,
        labelled: bool | np.ndarray[Any, np.dtype[np.bool_]] = True,
    ) -> Encoded:
        """Encode a table.

        Args:
            table: The table.
            rows: Ids of its rows, (B,).
            place: Its file, for error messages.
            labelled: Whether labels are present, for all rows or for each (B,); a missing label has target 0.
        """
        known = np.full(len(table), labelled) if isinstance(labelled, bool) else labelled
        found, targets, faults = self._inputs_and_targets(table, place, known)
        numeric = torch.from_numpy(found)
        inputs: Any = numeric
        if not self.of_numbers:
            inputs = {"numeric": numeric}
        if self.categorical:
            inputs["categorical"] = torch.from_numpy(hash_pairs(table, self.hashes, self.buckets, place))
        if self.worded:
            inputs["text"] = self.texts({name: table[name] for name in self.worded}, place)
        if self.id_columns:
            inputs["ids"] = self.keys({name: table[name] for name in self.id_columns}, place)
        weight: Tensor | None = None
        task: Tensor | None = None
        if self.weight is not None:
            told = table[self.weight] if known.any() else pa.chunked_array([pa.nulls(len(table))])
            values, wrong = weights(told, self.weight, place, known)
            weight, faults = torch.from_numpy(values), [*faults, *wrong]
        if self.task is not None:
            numbers, wrong = tasks(table[self.task], self.task, place, self.tasks)
            task, faults = torch.from_numpy(numbers), [*faults, *wrong]
        batch = Batch(self._with_task(inputs, task), torch.from_numpy(targets), weight, task, rows)
        if not faults:
            return Encoded(batch, [])
        bad = _bad_rows(faults, table, rows, place)
        good = np.ones(len(table), dtype=bool)
        for fault in faults:
            good[fault.index] = False
        return Encoded(batch.take(torch.from_numpy(np.flatnonzero(good))), bad, good)

    def texts(self, columns: Mapping[str, pa.ChunkedArray], place: str) -> Tensor:
        """Return the buckets of the words in text columns, or the ids of their tokens plus 1, (B, T, slots) int32."""
        if self.pretrained is not None:
            named = ((column, f"stream.features.{name} in {place}") for name, column in columns.items())
            return torch.from_numpy(np.stack([self.pretrained.ids(column, what) for column, what in named], axis=1))
        found = [
            text_buckets(
                column, self.word_hashes[name], self.text_buckets, self.text_words, f"stream.features.{name} in {place}"
            )
            for name, column in columns.items()
        ]
        return torch.from_numpy(found[0][:, None] if len(found) == 1 else np.stack(found, axis=1))

    def keys(self, columns: Mapping[str, pa.ChunkedArray], place: str) -> Tensor:
        """The keys of columns of ids, (B, K) int64."""
        found = [id_keys(column, self.id_hashes[name], place) for name, column in columns.items()]
        return torch.from_numpy(np.stack(found, axis=1))

    def _inputs_and_targets(
        self, table: pa.Table, place: str, known: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[Fault]]:
        if self.of_tokens:
            assert self.vocabulary is not None
            name = self.labels[0]
            return tokens(table[name], self.widths.get(name, 1), self.vocabulary, name, place, known)
        places = {name: found for name, found in self.places.items() if name not in self.text}
        matrix, faults = numeric_matrix(table, places, self.widths, place, self.date)
        if self.pretrained is not None and not self.tokenised:
            named = ((table[name], f"stream.features.{name} in {place}") for name in self.text)
            matrix = np.hstack([matrix, *(self.pretrained.vectors(column, what) for column, what in named)])
        if self.ids:
            faults += no_ids(matrix, places, self.ids)
        targets, wrong = self._labels.targets(table, place, known)
        return matrix, targets, faults + wrong


def _bad_rows(faults: Sequence[Fault], table: pa.Table, rows: Tensor, place: str) -> list[BadRow]:
    """Return an entry for each bad row, with its first fault, in row order."""
    bad: dict[int, BadRow] = {}
    offsets = offset_of(rows).tolist()
    for fault in faults:
        values = table[fault.column].take(pa.array(fault.index)).to_pylist()
        for index, value in zip(fault.index.tolist(), values, strict=True):
            row = int(rows[index])
            shown = text(value) if value is not None else "null"
            shown = str(shown) if len(str(shown)) <= 60 else f"{str(shown)[:57]}..."
            what = fault.column, fault.expected, fault.got, shown, fault.remedy
            bad.setdefault(index, BadRow(row, place, offsets[index], *what))
    return [bad[index] for index in sorted(bad)]
