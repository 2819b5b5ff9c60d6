"""A job that can be run: the job file and the parts built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr
from torch import nn

from incr_core.data import Prepare
from incr_core.data.encoding import Columns, Encoder, Slices
from incr_core.data.rates import Rate
from incr_core.data.sources import SharedReads, Source
from incr_core.data.timeline import ByOwners, Partition, Stream, Turns
from incr_core.drift import Controller
from incr_core.job._columns import told_columns
from incr_core.job._data import (
    discovered,
    encoder_of,
    opened,
    rates_of,
    rows_in_files,
    slices_of,
    source_of,
    stream_of,
)
from incr_core.job._drift import check_judged, controller_of, probes_of
from incr_core.job._fault import as_job_error
from incr_core.job._file import JobFile
from incr_core.job._learning import (
    adapts_passes,
    aggregation_of,
    optimizer_of,
    outer_of,
    review_of,
    rows_kept,
    schedule_of,
    stopping_of,
    strategies_of,
)
from incr_core.job._model import ids_of, model_of
from incr_core.job._objective import objective_of
from incr_core.job._prepared import prepare_of
from incr_core.job._ranges import typical_rows
from incr_core.learner import Learner, fusable
from incr_core.numerics import seeded
from incr_core.objectives import Objective
from incr_core.registry import begun
from incr_core.rounds import Aggregation, ClientBlock, Outer, Participant, Probe, Reference, Review
from incr_core.strategies import Strategy

__all__ = ["Job"]


class Job(JobFile):
    """A job that can be run: `Job.read("job.toml")`, then `incr_core.run`."""

    _found: dict[str, Any] = PrivateAttr(default_factory=dict)  # what [features] said where the data has decided since
    _columns: Columns = PrivateAttr(default_factory=Columns)  # what the data's columns were taken for, and why
    _called: dict[str, str] = PrivateAttr(default_factory=dict)  # column -> what it is called in the files

    def __eq__(self, other: object) -> bool:
        """Return whether two jobs have the same settings, whether written or resolved."""
        return isinstance(other, Job) and self.document() == other.document()

    @classmethod
    def written(cls, path: str | Path, settings: Sequence[str] = ()) -> Self:
        """A job file with `section.key=value` settings, as it stands: `resolved` looks at the data.

        Raises JobError naming the key.
        """
        return super().read(path, settings)

    @classmethod
    def read(cls, path: str | Path, settings: Sequence[str] = ()) -> Self:
        """Read a job file, apply `section.key=value` settings, and resolve what the data decides.

        Raises JobError naming the key; StreamError where the data cannot be looked at.
        """
        return cls.written(path, settings).resolved()

    @as_job_error()
    def resolved(self, out: str | Path | None = None) -> Self:
        """The job with what its data decides filled in: an absolute path, the columns and their widths, the
        classes.

        out: the run directory. What the data decided when a run of this job began there stays so: its model has these
        inputs and outputs. Rows with a label that is none of its classes are bad rows.
        """
        there = {} if out is None else begun(out)
        document, columns = discovered(self, there.get("features", {}))
        job = type(self).from_document(document, objects=self.objects_given)
        before = self.document()["features"]
        found = (key for key, value in document["features"].items() if before.get(key) != value)
        job._found = {key: before.get(key) for key in found}
        job._columns = columns
        return job

    def going_on(self, out: str | Path) -> Self:
        """A resolved job as the run of it in `out` has it, if one has begun there."""
        if not self._found or not begun(out):
            return self
        document = self.document()
        document["features"] |= self._found
        return type(self).from_document(document, objects=self.objects_given).resolved(out)

    def told_columns(self) -> dict[str, str]:
        """Summarise the label and the features of a resolved job by kind of column."""
        return told_columns(self.document(), self._columns)

    def source(self) -> str | Callable[..., Any]:
        """The source of the rows: a path, or a function that yields them."""
        return source_of(self)

    @as_job_error()
    def files(self) -> Source | None:
        """The stream's files, as they are now; None where they cannot be looked for."""
        return opened(self)

    def rows_in_stream(self) -> int | None:
        """The number of rows in the stream's files, if their format gives it without reading them."""
        return rows_in_files(self)

    @cached_property
    @as_job_error()
    def encoder(self) -> Encoder:
        """The encoder of rows into tensors. Raises StreamError if it needs data that is missing."""
        encoder = encoder_of(self)
        if not self.model.inputs:
            return encoder
        numeric = encoder.width + 2 * len(self.rates())
        with seeded(self.learner.seed):
            outputs = self.objective().outputs
        return encoder.taking(ids_of(self, encoder, outputs, numeric))

    @as_job_error()
    def rates(self) -> list[Rate]:
        """Features from labels already known."""
        return rates_of(self)

    @as_job_error()
    def prepare(self) -> Prepare | None:
        """The function that all tables pass through before any other step; None if the job names none."""
        return prepare_of(self)

    def slices(self) -> Slices | None:
        """The slices of the stream, or None if the job names none."""
        return slices_of(self)

    @as_job_error()
    def data(
        self, part: Partition | None = None, reads: SharedReads | None = None, turns: Turns | None = None
    ) -> Stream:
        """The stream, or one owner's part of it; reads, turns: shared with other owners' in this process, in others."""
        return stream_of(self, self.encoder, part, reads, turns, self._called)

    def where_called(self, names: Mapping[str, str]) -> Self:
        """The same job where columns have other names in the files: column -> what it is called there."""
        job = type(self).from_document(self.document(), objects=self.objects_given)
        job._called = dict(names)
        return job

    @property
    def numeric_width(self) -> int:
        """The number of numbers in a row: numeric columns, lists at their length, and two for each rate."""
        return self.encoder.width + 2 * len(self.rates())

    @as_job_error()
    def objective(self) -> Objective:
        """The objective."""
        return objective_of(self)

    @as_job_error()
    def strategies(self) -> list[Strategy]:
        """The strategies, in order."""
        return strategies_of(self)

    @as_job_error()
    def outer_step(self) -> Outer:
        """The outer step."""
        return outer_of(self)

    @as_job_error()
    def aggregation(self) -> Aggregation:
        """The aggregation of the clients' updates by the server."""
        return aggregation_of(self)

    @as_job_error()
    def reviews(self) -> Review | None:
        """When to look back at the history; None where it is not asked for."""
        return review_of(self)

    @as_job_error()
    def controller(self) -> Controller | None:
        """The controller that reacts to drift and triggers consolidation; None if the job needs neither."""
        return controller_of(self, self.objective(), self.strategies() if self.drift else [], schedule_of(self))

    @as_job_error()
    def probes(self) -> list[Probe]:
        """The values that participants report of an increment before they learn it, for drift detection."""
        # The gate's probe is the last: all other readers count the reports from the first on.
        return probes_of(self.drift, self.encoder) + ([Probe("loss")] if self.publish.gate else [])

    @as_job_error()
    def learner_for(
        self,
        numeric: int,
        index: int = 0,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Learner:
        """The learner of participant number `index`, for rows of `numeric` numbers."""
        settings = self.learner
        with seeded(settings.seed):  # user code may draw when it is built
            objective, strategies = self.objective(), self.strategies()
        model = model_of(self, self.encoder, objective.outputs, numeric)
        return Learner(
            model if wrap is None else wrap(model),
            objective,
            optimizer_of(self, fused=shard[1] == 1 and fusable(model)),  # not every fused form takes sharded weights
            strategies,
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            epochs=settings.most_epochs,
            shuffle=settings.shuffle,
            clip=settings.clip,
            seed=settings.seed + index,
            shard=shard,
            precision=settings.precision,
            schedule=schedule_of(self),
            groups=[(group.match, group.arguments) for group in settings.groups],
            rows=self.model.rows,
            graphs=settings.graphs,
            typical=typical_rows(self, self.encoder),
        )

    @as_job_error()
    def participant(
        self,
        name: str = "all",
        index: int = 0,
        partition: Partition | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        shard: tuple[int, int] = (0, 1),
        reads: SharedReads | None = None,
        turns: Turns | None = None,
        personal: Sequence[str] = (),
    ) -> Participant:
        """Participant number `index`: its part of the stream and its learner; a block of clients for `ByOwners`.

        wrap: applied to the model before the optimiser is made, to shard it; shard: (rank, size) of the shard.
        reads, turns: shared with participants in this process, or in others, that own other parts of the stream.
        personal: weights that stay with it, by name pattern.
        """
        check_judged(self, self.objective())
        stream = self.data(partition, reads, turns)
        kind: Callable[..., Participant] = Participant
        if isinstance(partition, ByOwners):
            kind, index = partial(ClientBlock, seed=self.learner.seed, at_once=self.federated.batch_clients), 0
        return kind(
            name,
            stream,
            self.learner_for(stream.numeric_width, index, wrap, shard),
            warm_passes=self.learner.warm_epochs,
            adapts=adapts_passes(self),
            frozen=self.learner.frozen,
            probes=self.probes(),
            keeps=rows_kept(self),
            reports_tasks=self.learner.consolidate == "task",
            stopping=stopping_of(self),
            personal=personal,
            reference=Reference(self.publish.reference) if self.publish.gate else None,
            holdout=self.publish.holdout,
            rows_per_hour=self.limits.rows_per_hour,
        )
