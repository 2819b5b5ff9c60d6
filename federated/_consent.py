"""Consent of an owner: a server's job, read as data and converted to a job on the owner's rows.

A job may name the parts of incr. An owner's file defines everything else (code, columns, paths). A job that names more
is refused, and the message lists the names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from federated._client_file import ClientFile
from incr_core.errors import IncrError, JobError
from incr_core.job import Job, names_code

__all__ = ["SECTIONS", "Declined", "agreed", "offered"]

SECTIONS = ("name", "stream", "features", "model", "learner", "strategy", "drift", "review")
"""Sections of its job that a server sends to clients."""

STREAM = ("every", "order", "predict_at", "label_at", "warm_start", "max_leap", "key", "key_window", "time_zone")
"""Keys of the stream that a job decides. The owner decides the others."""

PUBLISH = ("gate", "reference", "holdout")
"""Keys of publishing that apply at a client: it keeps rows on which versions are judged."""

GROUPS = ("adaptations", "memories", "models", "objectives", "optimizers", "prepares", "schedules", "strategies")
"""Groups of plugins that a client's job may name."""

OURS = ("incr_core", "cluster", "federated")
"""Packages whose plugins belong to incr."""


class Declined(JobError):
    """An owner does not agree to a job. The message contains nothing beyond the server's own request."""


def offered(job: Job) -> str:
    """Return the part of a job that a server sends: neither paths nor engines."""
    document = job.document()
    told = {name: document[name] for name in SECTIONS if name in document}
    told["stream"] = {key: value for key, value in document["stream"].items() if key in STREAM}
    told["federated"] = {"personal": job.federated.personal}
    told["publish"] = {key: document["publish"][key] for key in PUBLISH if key != "gate"} | {"gate": job.gated}
    return json.dumps(told)


def agreed(file: ClientFile, told: str) -> Job:
    """Return the job of a client with this file.

    Raises:
        Declined: The owner does not agree. The message names every reason.

    Example:
        >>> file = ClientFile.from_document({"name": "north", "data": {"path": "a.csv"}, "columns": ["age"]}, ".")
        >>> job = {"stream": {}, "features": {"label": "ill", "numeric": ["age"]}, "learner": {"objective": "own:Loss"}}
        >>> agreed(file, json.dumps(job))
        Traceback (most recent call last):
        ...
        federated._consent.Declined: client north: expected a job that its file allows, got one that asks for the
        column ill; the code own:Loss (allow.modules); change the job, or ask the owner
    """
    try:
        document = json.loads(told)
        personal = document.get("federated", {}).get("personal", [])
        publish = {key: value for key, value in document.get("publish", {}).items() if key in PUBLISH}
        document = {name: document[name] for name in SECTIONS if name in document}
        document |= {"federated": {"personal": personal}, "publish": publish}
        stream = {key: value for key, value in document["stream"].items() if key in STREAM}
        asked = [f"the column {name}" for name in sorted(set(_columns(document)) - file.columns.keys())]
        ids = document["features"].get("ids", [])
        asked += [f"the ids in the column {name} (allow.ids)" for name in ids if name not in file.allow.ids]
        asked += [f"the code {name} (allow.modules)" for name in sorted(set(_code(document))) if not _may(file, name)]
        model = document.get("model", {})
        if (encoder := model.get("encoder")) is not None and encoder not in file.allow.encoders:
            asked.append(f"the encoder {encoder} (allow.encoders)")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Declined(f"client {file.name}: expected a job, got something else ({type(error).__name__})") from error
    if asked:
        raise Declined(
            f"client {file.name}: expected a job that its file allows, got one that asks for {'; '.join(asked)}; "
            "change the job, or ask the owner"
        )
    own = {key: value for key in ("format", "time_zone", "settle") if (value := getattr(file.data, key)) is not None}
    document["stream"] = {**stream, "path": file.path, **own}
    document["root"] = str(file.root)
    if encoder is not None:
        document["model"] = {**model, "encoder": file.allow.encoders[encoder]}
    try:
        return Job.from_document(document).where_called(file.columns)
    except IncrError as error:
        raise Declined(f"client {file.name}: {error}") from error


def _columns(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield all columns that a job names."""
    stream, features = document["stream"], document["features"]
    named: list[Any] = [stream.get("predict_at"), stream.get("label_at"), stream.get("key")]
    keys = ("label", "numeric", "categorical", "text", "date", "ids", "item", "weight", "task", "slices")
    named += [features.get(key) for key in keys]
    for rate in features.get("rate", ()):
        named += [rate.get("outcome"), rate.get("known_at"), *rate.get("by", ())]
    named += [one for drift in document.get("drift", ()) for one in drift.get("columns", ())]
    named += document.get("model", {}).get("inputs", {}).values()
    for one in named if features.get("prepare") is None else ():  # else they are columns of the function's result
        yield from one if isinstance(one, list) else [] if one is None else [str(one)]


def _code(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the code that a job names outside of incr: "module:name" under any key, and plugins."""
    plugins: dict[str, list[str]] = {}
    for group in GROUPS:
        for entry in entry_points(group=f"incr.{group}"):
            if entry.value.partition(".")[0] not in OURS:
                plugins.setdefault(entry.name, []).append(entry.value)
    for section in ("model", "learner", "strategy", "drift", "review"):
        for text in _texts(document.get(section)):
            if names_code(text):
                yield text
            for name in {
                text,
                text.lower(),
                text.lower().removesuffix("lr"),
            }:  # as names of optimisers and schedules
                yield from plugins.get(name, ())
    if (prepare := document["features"].get("prepare")) is not None:
        yield from [str(prepare)] if names_code(str(prepare)) else plugins.get(str(prepare), ())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _may(file: ClientFile, name: str) -> bool:
    """Return whether the module of "module:name", or a package that contains it, is allowed."""
    module = name.partition(":")[0]
    return any(f"{module}.".startswith(f"{allowed}.") for allowed in file.allow.modules)
