"""Report section on the job of a run: data, columns, model, strategies and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from safetensors import safe_open

from incr_core.job import told_columns
from incr_core.registry import RunDirectory
from incr_core.report._sections import html_table, section
from incr_core.report._words import count, escaped, size

__all__ = ["what_was_run"]


def what_was_run(run: RunDirectory, summary: Mapping[str, Any]) -> str:
    """The table of terms; empty if the directory's job is not valid."""
    job = run.job()
    try:
        judged = any("gate" in manifest for manifest in run.versions())
        terms = dict(_terms(job, summary, judged=judged)) | told_columns(job)
    except KeyError:
        return ""
    weights = _weights(run)
    if weights:
        terms["weights"] = weights
    rows = [[escaped(what), escaped(found)] for what, found in terms.items()]
    note = "The job as it was run; job.toml has all of it."
    return section("Job", note, html_table(["", ""], rows, numeric=(), kind="terms"))


def _terms(job: Mapping[str, Any], summary: Mapping[str, Any], *, judged: bool) -> Iterator[tuple[str, str]]:
    stream, learner, model = job["stream"], job["learner"], job.get("model", {})
    yield "job", str(job.get("name", ""))
    if path := stream.get("path"):
        yield "data", str(path)
    yield "increments", _increments(stream)
    if summary:
        read = [f"{count(summary[key])} {word}" for key, word in _SIZES if summary.get(key)]
        yield "sizes", ", ".join(read)
    yield "model", _model(model)
    passes = learner.get("epochs", 1)
    yield (
        "learning",
        f"{_part(learner.get('optimizer', 'adam'))}, batches of {learner.get('batch_size', 32)}, "
        f"{passes} pass{'es' * (passes != 1)} over each increment",
    )
    if balance := learner.get("balance"):
        yield "balance", _part(balance)
    yield "strategies", "; ".join(map(_part, job.get("strategy", []))) or "none"
    if drift := job.get("drift"):
        yield "drift detectors", "; ".join(map(_part, drift))
    publish = job.get("publish", {})
    if judged:
        yield "gate", f"margin {publish.get('margin')}, patience {publish.get('patience')} versions"
    if holdout := publish.get("holdout"):
        yield "holdout", f"{holdout:g}" + (" of an increment" if holdout < 1 else " rows")
    if limits := {key: value for key, value in job.get("limits", {}).items() if value is not None}:
        yield "limits", ", ".join(f"{value:g} {_LIMITS.get(key, key)}" for key, value in limits.items())
    if slices := job.get("features", {}).get("slices"):
        yield "slices", ", ".join(slices)
    if summary.get("engine"):
        yield "engine", _engine(job, str(summary["engine"]))


_SIZES = (
    ("increments", "increments"),
    ("rows_predicted", "rows predicted"),
    ("rows_learned", "learned"),
    ("rows_quarantined", "in quarantine"),
    ("rows_duplicate", "duplicates"),
    ("rows_dropped", "dropped"),
)

_LIMITS = {
    "rows_per_hour": "rows per hour of the stream",
    "seconds": "seconds per increment",
    "cpu_seconds": "CPU seconds per increment",
    "memory": "GB of memory",
    "disk": "GB of disk",
}


def _increments(stream: Mapping[str, Any]) -> str:
    every = stream.get("every", "file")
    of = f"{count(every)} rows" if isinstance(every, int) else ("a file" if every == "file" else str(every))
    by = f", by {stream['predict_at']}" if stream.get("predict_at") else ""
    warm = f"; before {stream['warm_start']} learned only" if stream.get("warm_start") else ""
    return f"{of} each{by}{warm}"


def _model(model: Mapping[str, Any]) -> str:
    if model.get("factory"):
        what = str(model["factory"])
    elif model.get("kind", "mlp") == "auto":
        what = "auto: MLP, linear model and two ridge regressions side by side"
    elif model.get("kind") == "factorisation":
        what = f"factorisation, {model.get('embedding', 8)} factors of each id"
    elif model.get("kind") == "two_towers":
        what = f"two towers, hidden layers {model.get('hidden', [])}"
    else:
        what = f"MLP, hidden layers {model.get('hidden', [])}"
    changes = ", ".join(_part(one) for one in model.get("adapt") or [])
    return what + (f"; adapted by {changes}" if changes else "")


def _engine(job: Mapping[str, Any], engine: str) -> str:
    if engine == "cluster":
        cluster = job.get("cluster", {})
        return f"cluster, {cluster.get('replicas', 1)} replicas of {cluster.get('shards', 1)} shards"
    if engine == "federated":
        return f"federated, clients: {job.get('federated', {}).get('clients', 'owners of rows')}"
    return engine


def _part(part: Any) -> str:
    """A named part of a job with its settings: "replay (capacity 500)"."""
    if not isinstance(part, Mapping):
        return str(part)
    settings = ", ".join(f"{key} {value}" for key, value in part.items() if key != "name")
    name = str(part.get("name", ""))
    return (f"{name} ({settings})" if name else settings) if settings else name


def _weights(run: RunDirectory) -> str:
    """The number and size of the newest version's tensors, from the header of its file."""
    latest = run.latest()
    file = run.path / "versions" / str(latest) / "model.safetensors"
    if latest is None or not file.exists():
        return ""
    with safe_open(file, "np") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    numbers = sum(prod(shape) for shape in shapes)
    return f"{count(numbers)} numbers in {len(shapes)} tensors, {size(file.stat().st_size)}"
