"""A job: the job file, and everything it names, built. Python code may build the same parts by hand."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from incr_core import objective as objectives
from incr_core.adapt import ADAPTATIONS
from incr_core.alarm import Alarms
from incr_core.batch import Inputs
from incr_core.discover import column_kinds, find_classes
from incr_core.encode import Encoder
from incr_core.errors import JobError
from incr_core.growing import GrowingMulticlass
from incr_core.jobdrift import alarms_of, watches_of
from incr_core.jobfile import RECENT, JobFile, unknown
from incr_core.learner import Learner, OptimizerFactory
from incr_core.losses import LOSSES, Loss
from incr_core.model import TableMLP, TableShape
from incr_core.objectives import Multilabel, NextToken, Ranking
from incr_core.outer import OUTERS, Outer
from incr_core.participant import Participant
from incr_core.partition import Partition
from incr_core.rates import Rate
from incr_core.review import Review
from incr_core.schedule import SCHEDULES, Schedule
from incr_core.source import open_source
from incr_core.stopping import EarlyStopping
from incr_core.strategies import STRATEGIES
from incr_core.strategy import Strategy
from incr_core.stream import Stream
from incr_core.tokens import TokenCNN
from incr_core.towers import TwoTower

__all__ = ["Job", "load_object"]

TASKED = ("task_heads", "experts")
"""Adaptations that make a model which is told the task of each row."""


class Job(JobFile):
    """A job that can be run: `Job.read("job.toml")`, then `incr_core.run`."""

    @classmethod
    def read(cls, path: str | Path, settings: Sequence[str] = ()) -> Self:
        """Read a job file, apply `section.key=value` settings, and resolve what the data decides.

        Raises JobError naming the key; StreamError where the data cannot be looked at.
        """
        return super().read(path, settings).resolved()

    def resolved(self) -> Self:
        """The job with what its data decides filled in: an absolute path, the columns, the classes."""
        document = self.document()
        if self._factory() is None:
            document["stream"]["path"] = str(Path(self.root, self.stream.path).absolute())
        job = type(self).model_validate(document)
        features = document["features"]
        source = job.source()
        of_tokens = self.learner.objective == "next_token"
        if not self.features.numeric and not self.features.categorical and not of_tokens:
            taken = {*self.features.labels, self.features.weight, self.features.task}
            taken |= {self.stream.predict_at, self.stream.label_at}
            features["numeric"], features["categorical"] = column_kinds(source, taken, format=self.stream.format)
        if self.features.classes is None and self.learner.objective == "multilabel" and len(self.features.labels) > 1:
            features["classes"] = self.features.labels
        elif self._finds_classes():
            features["classes"] = find_classes(
                source, self.features.labels[0], objective=self.learner.objective, format=self.stream.format
            )
        return type(self).from_document(document)

    def _finds_classes(self) -> bool:
        """Whether the data says what the classes are; with a capacity they are numbers, and some are yet to come."""
        if self.features.classes is not None:
            return False
        objective = self.learner.objective
        return objective in ("binary", "multilabel") or (objective == "multiclass" and self.features.capacity is None)

    def _factory(self) -> Callable[..., Any] | None:
        """The stream's factory, where the path names one instead of files."""
        path = self.stream.path
        module, _, name = path.partition(":")
        if name.isidentifier() and module.replace(".", "_").isidentifier() and not Path(self.root, path).exists():
            found: Callable[..., Any] = load_object(path, self.root, "stream.path")
            return found
        return None

    def source(self) -> str | Callable[..., Any]:
        """Where the rows come from: a path, or a function that yields them."""
        return self._factory() or self.stream.path

    @cached_property
    def encoder(self) -> Encoder:
        """How rows become tensors."""
        features = self.features
        return Encoder(
            features.label,
            features.numeric,
            features.categorical,
            objective=self.learner.objective,
            classes=features.classes,
            weight=features.weight,
            buckets=features.buckets,
            task=features.task,
            capacity=features.capacity,
            vocabulary=features.vocabulary,
            tasks=self._tasks_told,
        )

    @property
    def _tasks_told(self) -> int | None:
        """How many tasks the model has room for, where it is told each row's."""
        wanted = [step for step in self.model.adapt if step.name in TASKED]
        if wanted and self.features.task is None:
            raise JobError(
                f"model.adapt {wanted[0].name}: expected a column with the task of each row, got none; "
                "name it in features.task"
            )
        return min((int(step.arguments.get("tasks", 2)) for step in wanted), default=None)

    def rates(self) -> list[Rate]:
        """Features from labels already known."""
        return [rate for section in self.features.rate for rate in section.rates()]

    def data(self, part: Partition | None = None) -> Stream:
        """The stream, or one owner's part of it."""
        return Stream(
            self.source(),
            encoder=self.encoder,
            every=self.stream.every,
            format=self.stream.format,
            order=self.stream.order,
            predict_at=self.stream.predict_at,
            label_at=self.stream.label_at,
            warm_start=self.stream.warm_start,
            on_bad_row=self.features.on_bad_row,
            rates=self.rates(),
            partition=part,
        )

    def rows_in_stream(self) -> int | None:
        """How many rows the stream's files hold, where their format tells without reading them."""
        if self._factory() is not None:
            return None
        source = open_source(self.stream.path, self.stream.format)
        paths = [str(path) for path in getattr(source, "paths", {}).values()]
        if not paths or not all(path.endswith((".parquet", ".pq")) for path in paths):
            return None
        try:
            return sum(int(pq.read_metadata(path).num_rows) for path in paths)
        except (OSError, pa.ArrowInvalid):  # the stream will say what is wrong with them
            return None

    def objective(self) -> objectives.Objective:
        """What the model is asked to do."""
        name = self.learner.objective
        classes, capacity = self.features.classes or [], self.features.capacity
        if name == "multiclass" and capacity is not None:
            if capacity < len(classes):
                raise JobError(f"features.capacity: expected at least the {len(classes)} classes named, got {capacity}")
            return GrowingMulticlass(capacity, self._loss(GrowingMulticlass))
        if name == "multiclass":
            return objectives.Multiclass(len(classes), self._loss(objectives.Multiclass))
        if name == "multilabel":
            return Multilabel(len(classes), self._loss(Multilabel))
        if name == "binary":
            return objectives.Binary(self._loss(objectives.Binary))
        if name == "regression":
            return objectives.Regression(self._loss(objectives.Regression))
        if name == "ranking":
            return self._ranking()
        if self.learner.loss is not None:
            raise JobError(f"learner.loss: {name} has a loss of its own; leave learner.loss out")
        if name == "next_token":
            assert self.features.vocabulary is not None  # the encoder asks for it
            return NextToken(self.features.vocabulary)
        factory = load_object(name, self.root, "learner.objective")
        try:
            made = factory()
        except TypeError as error:
            raise JobError(f"learner.objective: {name} cannot be called without arguments: {error}") from error
        if not isinstance(made, objectives.Objective):
            raise JobError(f"learner.objective: expected {name} to make an Objective, got {type(made).__name__}")
        return made

    def _ranking(self) -> Ranking:
        wanted = self.learner.loss
        arguments = {} if wanted is None else {"loss": wanted.name, **wanted.arguments}
        try:
            return Ranking(self.model.dimension, **arguments)
        except TypeError as error:
            raise JobError(f"learner.loss: {_refusal(error, Ranking)}") from error

    def _loss(self, kind: type[objectives.Objective]) -> Loss | None:
        """The loss that the job wants instead of the objective's own."""
        wanted = self.learner.loss
        if wanted is None:
            return None
        if wanted.name not in kind.losses:
            raise JobError(
                f"learner.loss.name: expected one of {', '.join(kind.losses)} for the objective "
                f"{self.learner.objective}, got {wanted.name!r}"
            )
        try:
            return LOSSES[wanted.name](**wanted.arguments)
        except TypeError as error:
            raise JobError(f"learner.loss {wanted.name}: {_refusal(error, LOSSES[wanted.name])}") from error

    def _try_out(self, model: nn.Module, outputs: int, numeric: int) -> None:
        """Answer one empty row: a model of another width says so here, and not in the middle of a step."""
        inputs: Inputs = torch.zeros(1, numeric, dtype=torch.int64 if self.encoder.of_tokens else torch.float32)
        outputs *= numeric if self.encoder.of_tokens else 1
        if self.features.categorical:
            codes = torch.zeros(1, len(self.features.categorical), 2, dtype=torch.int64)
            inputs = {"numeric": torch.zeros(1, numeric), "categorical": codes}
        training = model.training
        try:
            with torch.no_grad():
                output = model.eval()(inputs)
        except (RuntimeError, TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
            given = f"{numeric} numbers and {len(self.features.categorical)} categories"
            raise JobError(f"model.factory: {self.model.factory} cannot take rows of {given}: {error}") from error
        finally:
            model.train(training)
        if output.numel() != outputs:
            raise JobError(
                f"model.factory: expected {outputs} outputs a row, got {output.numel()} from {self.model.factory}; "
                "change its last layer"
            )

    def build_model(self, outputs: int, numeric: int) -> nn.Module:
        """The model, with weights drawn from the seed; equal on every participant."""
        shape = TableShape(numeric, len(self.features.categorical), self.features.buckets, outputs)
        theirs = torch.get_rng_state()
        torch.manual_seed(self.learner.seed)
        try:
            return self._adapted(self._plain_model(shape))
        finally:
            torch.set_rng_state(theirs)

    def _plain_model(self, shape: TableShape) -> nn.Module:
        if self.model.factory is None:
            sizes = self.model.hidden, self.model.embedding, self.model.dropout
            if self.encoder.of_tokens:
                return TokenCNN(shape.outputs, *sizes)
            if self.learner.objective == "ranking":
                numeric, categorical = self._places_of_item()
                return TwoTower(shape, numeric, categorical, *sizes)
            return TableMLP(shape, *sizes)
        factory = load_object(self.model.factory, self.root, "model.factory")
        arguments = dict(self.model.arguments)
        if "shape" in inspect.signature(factory).parameters:
            arguments["shape"] = shape
        try:
            model: nn.Module = factory(**arguments)
        except TypeError as error:
            raise JobError(f"model.arguments: {self.model.factory} refuses them: {error}") from error
        return model

    def _places_of_item(self) -> tuple[list[int], list[int]]:
        """Where among a row's numbers, and among its categories, those of the item are."""
        features = self.features
        strangers = [name for name in features.item if name not in self.encoder.inputs]
        if not features.item or strangers or len(features.item) == len(self.encoder.inputs):
            got = f"{strangers[0]!r}, which is no feature" if strangers else f"{len(features.item)} of them"
            raise JobError(
                f"features.item: expected some of the {len(self.encoder.inputs)} feature columns, got {got}; "
                "name those that tell items apart, and leave some to the query"
            )
        places = self.encoder.places
        numeric = [place for name in features.numeric if name in features.item for place in places[name]]
        return numeric, [place for place, name in enumerate(features.categorical) if name in features.item]

    def _adapted(self, model: nn.Module) -> nn.Module:
        for step in self.model.adapt:
            adapt = ADAPTATIONS.get(step.name) or load_object(step.name, self.root, "model.adapt.name")
            try:
                model = adapt(model, **step.arguments)
            except TypeError as error:
                raise JobError(f"model.adapt {step.name}: {_refusal(error, adapt)}") from error
        return model

    def strategies(self) -> list[Strategy]:
        """The strategies, in order."""
        made: list[Strategy] = []
        for strategy in self.strategy:
            kind = STRATEGIES.get(strategy.name) or load_object(strategy.name, self.root, "strategy.name")
            try:
                made.append(kind(**strategy.arguments))
            except TypeError as error:
                raise JobError(f"strategy {strategy.name}: {_refusal(error, kind)}") from error
            self._check_tasks(strategy.name, made[-1], "every" in strategy.arguments)
        return made

    def _check_tasks(self, name: str, strategy: Strategy, counts: bool) -> None:
        """Refuse a strategy that needs what the stream does not tell; counts: it was told to count increments."""
        if strategy.needs_tasks and self.features.task is None:
            raise JobError(
                f"strategy {name}: expected a stream whose rows tell their task, got one without; "
                "name the column in features.task"
            )
        if (
            strategy.needs_boundaries
            and not counts
            and self.learner.consolidate == "increment"
            and self.stream.every != "file"
        ):
            raise JobError(
                f"strategy {name}: expected a stream with boundaries between tasks, got one cut by "
                f'stream.every = {self.stream.every!r}; set learner.consolidate = "task" (with features.task), "drift" '
                f"or a number of rows, or stream.every = 'file', or {name}'s own `every`, in increments"
            )

    def optimizer(self, fused: bool = True) -> OptimizerFactory:
        """Makes the optimiser: any of torch.optim by name; where it has a fused form, that one."""
        wanted = self.learner.optimizer
        kinds: dict[str, Any] = {
            name.lower(): kind
            for name, kind in vars(torch.optim).items()
            if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        }
        kind = kinds.get(wanted.name.lower())
        if kind is None:
            raise JobError(f"learner.optimizer.name: {unknown(wanted.name, kinds)}")
        arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in wanted.arguments.items()}
        if fused and "fused" in inspect.signature(kind).parameters and "foreach" not in arguments:
            arguments.setdefault("fused", True)
        probe = nn.Parameter(torch.zeros(2, 2))
        probe.grad = torch.zeros_like(probe)
        try:
            kind([probe], **arguments).step()
        except (TypeError, ValueError, RuntimeError) as error:
            raise JobError(f"learner.optimizer: {_refusal(error, kind)}") from error
        known = kind([probe], **arguments).defaults
        for group in self.learner.groups:
            for key in group.arguments.keys() - known.keys():
                raise JobError(f"learner.groups {group.match!r}: {unknown(key, known)}")
        return partial(kind, **arguments)

    def schedule(self) -> Schedule | None:
        """What changes the learning rate."""
        wanted = self.learner.schedule
        if wanted is None:
            return None
        kind = SCHEDULES.get(wanted.name.lower().removesuffix("lr"))
        if kind is None:
            raise JobError(f"learner.schedule.name: {unknown(wanted.name, SCHEDULES)}")
        arguments = wanted.arguments
        each = arguments.pop("each", "step")
        try:
            kind(self.optimizer()([nn.Parameter(torch.zeros(1))]), **arguments)
        except (TypeError, ValueError) as error:
            raise JobError(f"learner.schedule: {_refusal(error, kind)}") from error
        return Schedule(partial(kind, **arguments), each)

    def outer_step(self) -> Outer:
        """The outer step."""
        kind = OUTERS[self.outer.name]
        try:
            return kind(**self.outer.arguments)
        except TypeError as error:
            raise JobError(f"outer: {_refusal(error, kind)}") from error

    def learner_for(
        self,
        numeric: int,
        index: int = 0,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Learner:
        """The learner of participant number `index`, for rows of `numeric` numbers."""
        settings = self.learner
        objective = self.objective()
        model = self.build_model(objective.outputs, numeric)
        if self.model.factory is not None:
            self._try_out(model, objective.outputs, numeric)
        try:
            model = model.to(settings.device)
            torch.Generator(settings.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise JobError(f"learner.device: {settings.device!r} cannot be used here: {error}") from error
        return Learner(
            model if wrap is None else wrap(model),
            objective,
            self.optimizer(fused=shard[1] == 1),  # not every fused form takes sharded weights
            self.strategies(),
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            epochs=settings.epochs,
            shuffle=settings.shuffle,
            clip=settings.clip,
            seed=settings.seed + index,
            shard=shard,
            precision=settings.precision,
            schedule=self.schedule(),
            groups=[(group.match, group.arguments) for group in settings.groups],
        )

    def participant(
        self,
        name: str = "all",
        index: int = 0,
        partition: Partition | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Participant:
        """Participant number `index`: its part of the stream and its learner.

        wrap: applied to the model before the optimiser is made, to shard it; shard: (rank, size) of the shard.
        """
        stream = self.data(partition)
        learner = self.learner_for(stream.numeric_width, index, wrap, shard)
        return Participant(
            name,
            stream,
            learner,
            warm_passes=self.learner.warm_epochs,
            frozen=self.learner.frozen,
            watches=watches_of(self.drift, self.encoder),
            keeps=self._keeps,
            tells_tasks=self.learner.consolidate == "task",
            stopping=self._stopping(),
        )

    def _stopping(self) -> EarlyStopping | None:
        settings = self.learner
        if settings.validation is None:
            return None
        if settings.epochs == 1 and (settings.warm_epochs or 1) == 1:
            raise JobError(
                "learner.validation: expected several passes, of which some may be left out, got one; "
                "raise learner.epochs or learner.warm_epochs"
            )
        if self.cluster.average_every:
            raise JobError(
                "learner.validation: expected cluster.average_every = 0, since replicas that stop at different passes "
                f"cannot meet between them, got {self.cluster.average_every}"
            )
        return EarlyStopping(settings.validation, settings.patience)

    @property
    def _keeps(self) -> int | None:
        """Rows to keep for consolidating, where that is not done after every increment."""
        consolidate = self.learner.consolidate
        return consolidate if isinstance(consolidate, int) else None if consolidate == "increment" else RECENT

    def reviews(self) -> Review | None:
        """When to look back at the history; None where it is not asked for."""
        section = self.review
        if section is None:
            return None
        if isinstance(section.every, str) and self.stream.predict_at is None:
            raise JobError(
                f'review.every: expected a predict_at column with every = "{section.every}", got none; '
                "name the time column, or give a number of increments"
            )
        return Review(section.every, section.rows, self.learner.seed)

    def alarms(self) -> Alarms | None:
        """What watches for drift and tells when to consolidate; None where nothing is asked for."""
        return alarms_of(self, self.objective(), self.strategies() if self.drift else [], self.schedule())


def load_object(name: str, root: str = ".", place: str = "job") -> Any:
    """What "module:name" names; modules beside the job file are found too.

    >>> load_object("math:sqrt")(4.0)
    2.0
    """
    module_name, _, attribute = name.partition(":")
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise JobError(f"{place}: {name!r}: cannot import {module_name!r} (looked in {root} too): {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise JobError(f"{place}: {name!r}: {module_name} has no {unknown(attribute, vars(module))}") from None


def _refusal(error: Exception, kind: Callable[..., Any]) -> str:
    accepted = [
        name for name in inspect.signature(kind).parameters if name not in ("self", "params", "model", "optimizer")
    ]
    return f"{error}; it takes {', '.join(accepted) or 'nothing'}"
