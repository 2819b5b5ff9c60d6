"""Runs of Python objects: tables, classes, modules and strategies in places where a job file has names."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from incr_core._util import made_with, unknown
from incr_core.data.sources import Tables
from incr_core.errors import JobError
from incr_core.job import OBJECT, FeaturesSection, Job, LearnerSection, ModelSection, StreamSection
from incr_core.objectives import OBJECTIVES, Objective
from incr_core.registry import refuse_another
from incr_core.runs._described import called, described, name_of
from incr_core.runs._run import Run
from incr_core.strategies import STRATEGIES, Strategy

__all__ = ["open_run"]

SECTIONS: dict[str, type[BaseModel]] = {
    "stream": StreamSection,
    "features": FeaturesSection,
    "model": ModelSection,
    "learner": LearnerSection,
}

KEYS = {
    name: section.model_fields.keys() - {"path", "label", "objective", "factory", "arguments"}
    for name, section in SECTIONS.items()
}
"""Keys that are given without their section."""

WHOLE = sorted(Job.model_fields.keys() - {*SECTIONS, "strategy", "objects", "root"})
"""Keys of a job that are given whole."""


def open_run(
    out: str | Path,
    *,
    stream: Any,
    label: str | Sequence[str] = "label",
    model: type[nn.Module] | Callable[..., nn.Module] | nn.Module | Mapping[str, Any] | None = None,
    objective: str | Objective | type[Objective] = "binary",
    strategies: Sequence[str | Mapping[str, Any] | Strategy | type[Strategy]] = (),
    **keys: Any,
) -> Run:
    """Open the run of these objects in the directory `out`, new or existing. `.run()` learns or continues.

    Objects stay in memory. On disk, `job.toml` describes them in words. To continue such a run or to predict with it,
    call `open_run` with the same objects again; a RunDirectoryError reports differences. An object that has a name in
    job files is written by its name, and a run of such objects alone needs no Python code later.

    Args:
        out: The run directory.
        stream: A table of Arrow or pandas, a dict of arrays, a list of tables, each a part of the stream in its order,
            a torch DataLoader of (inputs, targets) with a fixed order, a function that returns an iterable of these, or
            the path of files. To continue a run, pass the same tables, followed by the new ones.
        label: The column to predict. For a DataLoader, a name for its targets.
        model: A module's class or a function that creates one, with weights drawn from `seed`; a module, which is
            copied with its weights; the keys of [model], of which `factory` may be such an object too, with its
            `arguments`; or None for the built-in network. A parameter `shape` receives the `TableShape` of the rows.
        objective: A name, a class, or an instance, which is recorded as its class and arguments.
        strategies: As for `objective`.
        keys: Keys of the sections [stream], [features] and [learner], and `hidden`, `embedding`, `dropout` of the
            built-in network, by their own names (`every`, `numeric`, `batch_size`, `seed`). Other sections are given
            whole, as in a job file (`publish={"every": 10}`).

    Example:
        >>> import tempfile, torch
        >>> class Net(nn.Sequential):
        ...     def __init__(self, shape, width):
        ...         super().__init__(nn.Linear(shape.numeric, width), nn.ReLU(), nn.Linear(width, shape.outputs))
        >>> rows = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 0, 1, 1]}
        >>> with tempfile.TemporaryDirectory() as out:
        ...     run = open_run(out, stream=rows, label="y", model={"factory": Net, "arguments": {"width": 4}}, every=2)
        ...     run.run().summary.rows_learned, run.champion.predict(rows).num_rows
        (4, 4)
    """
    given = _Given()
    document: dict[str, Any] = {"name": Path(out).name or "run", "stream": {}, "features": {}, "model": {}}
    document["learner"] = {}
    for name, value in keys.items():
        section = _section_of(name)
        if section is None:
            document[name] = value
        else:
            document[section][name] = value
    document["features"]["label"] = label if isinstance(label, str) else list(label)
    is_path = isinstance(stream, str | Path)
    document["stream"]["path"] = str(stream) if is_path else given.stream(Tables(stream, document["features"]["label"]))
    document["learner"]["objective"] = given.objective(objective)
    document["strategy"] = [given.strategy(one, f"strategies[{place}]") for place, one in enumerate(strategies)]
    if model is not None:
        document["model"] |= given.model(model)
    if given.words:
        document["objects"] = given.words
    job = Job.from_document(document, place="open_run", objects=given.makers).resolved()
    # The engine and its settings are chosen when the job runs, and tracking may change.
    refuse_another(out, job.toml(), apart_from=("alerts", "cluster", "federated"), as_now=Job.as_now)
    return Run(out, job)


def _section_of(key: str) -> str | None:
    """Return the section of a key; None for a section.

    Example:
        >>> _section_of("batch_size"), _section_of("publish")
        ('learner', None)
    """
    if key in WHOLE:
        return None
    for name, keys in KEYS.items():
        if key in keys:
            return name
    raise JobError(f"open_run: {unknown('a key', key, [*WHOLE, *(key for keys in KEYS.values() for key in keys)])}")


class _Given:
    """The objects of a run by name: their factories and their descriptions."""

    def __init__(self) -> None:
        self.makers: dict[str, Callable[..., Any]] = {}
        self.words: dict[str, str] = {}

    def stream(self, tables: Tables) -> str:
        # The content is compared as it is read, so that new tables may follow.
        self.makers["stream"] = tables
        return OBJECT + "stream"

    def model(self, model: Any) -> dict[str, Any]:
        if isinstance(model, Mapping):
            keys = dict(model)
            if "factory" in keys and not isinstance(keys["factory"], str):
                keys |= self._made(keys["factory"], keys.pop("arguments", {}))
            return keys
        if isinstance(model, str):
            return {"factory": model}
        return self._made(model, {})

    def _made(self, model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(model, nn.Module):
            # Copied now: later changes of the module have no effect.
            make: Callable[..., Any] = partial(copy.deepcopy, copy.deepcopy(model))
            return {"factory": self._add(name_of(type(model)), make, described(model, "model"))}
        if not callable(model):
            raise JobError(
                f"model: expected a module, its class, or a function that makes it, got {type(model).__name__}"
            )
        words = called(model, (), arguments, "model")
        return {"factory": self._add(name_of(model), partial(model, **arguments), words)}

    def objective(self, objective: Any) -> str:
        if isinstance(objective, str):
            return objective
        kind, args, kwargs = _taken_apart(objective, Objective, "objective")
        if ours := next((name for name, known in OBJECTIVES.items() if known is kind), None):
            if args or kwargs:
                raise JobError(
                    f'objective: expected "{ours}" by its name, since what it takes is found in the data '
                    f"or said by keys such as classes, capacity and loss, got {kind.__name__} with arguments"
                )
            return ours
        return self._add(name_of(kind), partial(kind, *args, **kwargs), called(kind, args, kwargs, "objective"))

    def strategy(self, strategy: Any, place: str) -> dict[str, Any]:
        if isinstance(strategy, str):
            return {"name": strategy}
        if isinstance(strategy, Mapping):
            return dict(strategy)
        kind, args, kwargs = _taken_apart(strategy, Strategy, place)
        for name, known in STRATEGIES.items():
            if known is kind:
                arguments = inspect.signature(kind).bind(*args, **kwargs).arguments
                return {"name": name, **{key: value for key, value in arguments.items() if value is not None}}
        return {"name": self._add(name_of(kind), partial(kind, *args, **kwargs), called(kind, args, kwargs, place))}

    def _add(self, name: str, make: Callable[..., Any], words: str) -> str:
        """Register an object under its name, or under its name and a number if another object has the name."""
        free = name
        count = 1
        while self.words.get(free, words) != words:
            count += 1
            free = f"{name} {count}"
        self.makers[free], self.words[free] = make, words
        return OBJECT + free


def _taken_apart(made: Any, base: type[Any], place: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the class of an object, and the arguments of its constructor."""
    if isinstance(made, type) and issubclass(made, base):
        return made, (), {}
    if isinstance(made, base):
        args, kwargs = made_with(made)
        return type(made), args, kwargs
    raise JobError(
        f"{place}: expected a name, or a class that inherits from incr_core.{base.__name__}, or an instance of one, "
        f"got {type(made).__name__}"
    )
