"""The section [cluster] of a job file: how replicas learn together."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from incr_core.job._replicas import Replicas
from incr_core.job._section import Section
from incr_core.rounds import Interval

__all__ = ["ClusterSection"]


class ClusterSection(Section):
    """Learning on Ray."""

    engines = ("cluster",)

    replicas: int | str | list[tuple[int, int]] = 2
    """Learners: a number; a range such as `"2..8"`, of which the run takes what the cluster has; or a log such as
    `[[0, 2], [5, 3]]`, two replicas from increment 0 on and three from increment 5 on, which repeats the run whose
    summary has it as `replicas` ([more](cluster.md#more-and-fewer-replicas)).
    """
    shards: int = Field(1, ge=1)
    """Actors that hold the model of one learner together. A run may go on with another number
    ([more](cluster.md#shards)).
    """
    average_every: str | Annotated[int, Field(strict=True, ge=0)] = 0
    """The interval between two exchanges, one of which is always at the end of an increment: optimiser steps of a
    replica; rows of all replicas together (`"1000 rows"`, in whole steps); or, with `pace = "time"`, a duration
    (`"5s"`). 0: an increment.
    """
    pace: Literal["rows", "time"] = "rows"
    """`"rows"`: replicas learn the same number of rows between two exchanges, so a run repeats to the bit. `"time"`:
    each learns what it can in that time, so that no replica waits for a slow node within an increment, and counts
    by its rows. The steps of each replica in each round are kept in the metrics (`steps`).
    """
    wire: Literal["float32", "float16", "int8"] = "float32"
    """The format of weights between replicas: unchanged, or the difference from the anchor of the round, in blocks of
    256 with a scale each, rounded to `"float16"` (half of the bytes) or `"int8"` (a quarter). The rounding error is
    kept, with the version too, and sent in a later round. Only what is learned is rounded: buffers, counts,
    statistics and the state of strategies travel unchanged.
    """
    overlap: bool = False
    """Exchange the result of one round while the next is learned. Each mean arrives a round late; until then a replica
    keeps what it has learned itself. This hides the network where an increment has several rounds; the exchange of
    the last one is waited for. `seconds_hidden` in the metrics says how much.
    """
    memory_scope: Literal["own", "all"] = "own"
    """Whose memories strategies draw from. `"own"`: each replica draws from its own, of rows it has learned itself.
    `"all"`: from the memories of all replicas as if they were one, so that `capacity` grows with the cluster. Each
    replica fetches as many rows as it will draw of what the others remembered when the increment began, most of
    them while it learns. Rows stay in the memory of the replica that learned them. Refused with `--on federated`,
    where rows stay with their client, and with `gdumb`, which needs its memory as a whole.
    """
    fragments: int = Field(1, ge=1)
    """The number of parts of about equal size in which weights are exchanged: one part after each round, in turn, and
    all parts after the last round of an increment (Streaming DiLoCo). A part is averaged over what was learned
    since its last turn. Needs several exchanges in an increment; not with `overlap`.
    """
    scale_lr: Literal["none", "sqrt", "linear"] = "none"
    """The factor of the learning rate where several replicas learn: 1, the square root of their number (`"sqrt"`), or
    their number (`"linear"`). Each replica takes its share of the steps, so at the same rate a model moves less;
    [what was measured](cluster.md#the-learning-rate).
    """
    partition: str = "blocks"
    """`"blocks"`: deal each increment in equal shares, in blocks of at most a batch. A column's name: each of its
    values belongs to one replica.
    """
    gpus: float = Field(1.0, gt=0, le=1)
    """With `learner.device = "cuda"`, the share of a GPU that each worker takes. Below 1 several workers share one, so
    0.5, 0.3333, 0.25, ... Shards need one each ([more](cluster.md#gpus)).
    """
    address: str | None = None
    """`"auto"`, or the address of a Ray cluster. Default: a Ray that the run starts and ends itself."""
    timeout: float = Field(30.0, gt=0)
    """Seconds after which a worker that gives no sign of life, or hangs in a call, counts as lost. A worker whose
    process has ended is lost at once. A lost worker is replaced, and the run goes on from the last commit; the
    event `worker lost` says who, when, and how many seconds it took.
    """
    spares: int = Field(0, ge=0)
    """Workers that wait, with everything imported, to replace a lost one."""
    max_failures: int = Field(10, ge=0)
    """Losses in a row without a commit after which the run ends with their cause. An error that recurs in the same
    place ends it at once, and so do errors of the job or its data.
    """

    @field_validator("replicas")
    @classmethod
    def _some(cls, value: int | str | list[tuple[int, int]]) -> int | str | list[tuple[int, int]]:
        Replicas.of(value)
        return value

    @model_validator(mode="after")
    def _can_change(self) -> ClusterSection:
        if not self.members.fixed and self.partition != "blocks":
            raise ValueError(
                'expected partition = "blocks" where the number of replicas may change, since all rows of a value '
                f"stay with one replica, got {self.partition!r}"
            )
        return self

    @property
    def members(self) -> Replicas:
        """The number of replicas, or the range of it."""
        return Replicas.of(self.replicas)

    def rate_of(self, replicas: int) -> float:
        """The factor of the learning rate for a number of replicas."""
        return {"none": 1.0, "sqrt": math.sqrt(replicas), "linear": float(replicas)}[self.scale_lr]

    @property
    def interval(self) -> Interval:
        """The interval between two exchanges."""
        return Interval.of(self.average_every)

    @field_validator("average_every")
    @classmethod
    def _is_an_interval(cls, value: int | str) -> int | str:
        Interval.of(value)
        return value

    @model_validator(mode="after")
    def _overlaps_rounds(self) -> Self:
        if self.overlap and self.average_every == 0:
            raise ValueError(
                "cluster.overlap: expected several exchanges in an increment, of which the next round hides one, "
                "got average_every = 0; set it to a number of steps or rows, or leave overlap out"
            )
        return self

    @model_validator(mode="after")
    def _shards_have_their_own(self) -> Self:
        if self.gpus < 1 and self.shards > 1:
            raise ValueError(
                f"cluster.gpus: expected 1 where replicas are sharded, since each shard needs its own GPU, got "
                f"{self.gpus:g}; leave it out, or set cluster.shards = 1"
            )
        return self

    @field_validator("gpus")
    @classmethod
    def _shares_fill_a_gpu(cls, value: float) -> float:
        sharing = round(1 / value)
        # No worker has parts of two GPUs; of each, Ray hands out ten-thousandths.
        if not 0 <= 1 - sharing * value < value / 100:
            most = int(1 / value)
            fitting = " or ".join(f"{math.floor(10_000 / count) / 10_000:g}" for count in (most, most + 1))
            raise ValueError(
                f"expected one part of 2, 3, ... that a GPU has, got {value:g}, of which a GPU has {most} and a rest "
                f"that no worker can take; set it to {fitting}"
            )
        return value

    @model_validator(mode="after")
    def _fragments_take_turns(self) -> Self:
        if self.fragments > 1 and self.average_every == 0:
            raise ValueError(
                "cluster.fragments: expected several exchanges in an increment, in which fragments take turns, "
                f"got {self.fragments} and average_every = 0; set that to a number of steps or rows, or leave this out"
            )
        if self.fragments > 1 and self.overlap:
            raise ValueError(
                f"cluster.fragments: expected 1 with overlap = true, got {self.fragments}; leave out one of the two: "
                "overlap hides an exchange, fragments make it smaller"
            )
        return self

    @model_validator(mode="after")
    def _paced_by_what_is_counted(self) -> Self:
        timed = self.interval.unit == "seconds"
        if timed != (self.pace == "time"):
            told = f"{self.average_every!r}".replace("'", '"')
            raise ValueError(
                f'cluster.pace: expected "time" with average_every = {told}, got "rows"; say so, since the clock then '
                "decides what is learned, and only the steps recorded in the metrics repeat a run"
                if timed
                else f'cluster.average_every: expected a duration such as "5s" with pace = "time", got {told}'
            )
        return self
