"""Write a version for a service that knows neither incr nor its job, and check that it answers as the version does."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from incr_core._util import json_text, unknown
from incr_core.batch import Batch
from incr_core.data.sources import FileSource, PythonSource, as_table, open_source, read_rows_file
from incr_core.data.timeline import EncodedRows, columns_asked
from incr_core.errors import ArgumentError, ExportError, StreamError
from incr_core.export import encoder as encoder_module
from incr_core.export._answering import OUTPUTS, Answering, check_exportable, named_inputs
from incr_core.export._architecture import architecture
from incr_core.export._check import TOLERANCE, check_codes, difference, latencies, metrics_of
from incr_core.export._formats import FORMATS, Ask, check_installed
from incr_core.export._int8 import is_quantisation_aware
from incr_core.export._smaller import check_share, prune_globally, size_of, zeros_in
from incr_core.export._specification import specification
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.storage import is_address, sha256, write_folder

__all__ = ["Exportable", "export"]

EXAMPLE = 8
"""Rows that a model is traced with; its graph takes any number."""


class Exportable(Protocol):
    """What is exported: a `Version` of a run."""

    number: int
    job: Job
    learner: Learner
    manifest: dict[str, Any]

    def encoded(
        self, rows: str | Path | Any, name: str, *, labelled: bool = False, prepared: bool = False
    ) -> EncodedRows:
        """Rows as tensors, and those that cannot be used."""


def export(
    version: Exportable,
    out: str | Path,
    format: str = "onnx",
    *,
    check: str | Path | Any = None,
    quantize: str | None = None,
    prune: float | None = None,
    columns: Sequence[str],
) -> dict[str, Any]:
    """Write a version into the new folder `out`, whole or not at all; returns what `export.json` says of it.

    format: "onnx", "pt2" or "safetensors". check: rows to compare the exported model with the version on, of a file or
    a table; None: up to 1,000 rows of the newest file of the run's stream. quantize: "int8", for linear layers.
    prune: share of the weights to set to 0. columns: what the version's answers are told in.

    Raises JobError for what no exported model can do, ArgumentError for a format or folder that cannot be, ExportError
    where the model cannot be traced, or does not answer as its version does.
    """
    if format not in FORMATS:
        raise ArgumentError(f"format: {unknown('a format', format, FORMATS)}")
    if quantize not in (None, "int8"):
        raise ArgumentError(f"quantize: expected int8, got {quantize!r}")
    kind, int8, share, out = FORMATS[format], quantize == "int8", check_share(prune), _free(out)
    check_exportable(version.job, version.learner)
    check_installed(format)
    table, place = _rows(version.job, check)
    encoded = _usable(version, table, place)
    inputs = named_inputs(encoded.batch.inputs)
    spec = specification(version.job, version.number, columns, inputs)
    coded = check_codes(spec, table, encoded)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answering = Answering(version.learner.model, version.learner.objective)
        before = None
        if int8 or share is not None:
            with tempfile.TemporaryDirectory() as whole:
                kind.write(Path(whole), answering, _example(inputs), spec["answers"]["output"], int8=False)
                before = size_of(Path(whole, kind.file).read_bytes())
        if share is not None:
            prune_globally(answering.model, share)
        zeros = zeros_in(answering.model)
        kind.write(folder, answering, _example(inputs), spec["answers"]["output"], int8)
        ask = kind.read(folder, Answering(version.learner.model, version.learner.objective))
        if format == "safetensors":
            document = architecture(version.job, version.learner, encoded.batch, int8)
            (folder / "architecture.json").write_bytes(_json(document))
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        compared = _compared(version, encoded, ask, exact=not int8 and share is None)
        record = {
            "schema": 1,
            "job": version.job.name,
            "version": version.number,
            "model_sha256": version.manifest["model_sha256"],
            "format": format,
            "quantize": quantize,
            "prune": share,
            "linear_weights": zeros,
            "size": {"before": before, "after": size_of(files[kind.file])},
            "torch": torch.__version__,
            "check": {
                "rows": len(encoded.batch),
                "of": place,
                "rows_refused": len(encoded.bad),
                "coded": coded,
                **compared,
            },
            "latency_ms": latencies(ask if kind.runs else None, version.learner, encoded.batch.inputs),
            "main_metric": version.learner.objective.main_metric,
            "metrics": _metrics(version, table, place, ask),
        }
    files["encoder.json"] = _json(spec)
    files["encoder.py"] = inspect.getsource(encoder_module).encode()
    record["files"] = {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in files.items()}
    write_folder(out, {**files, "export.json": _json(record)})
    return record


def _json(document: Any) -> bytes:
    """A document as a file that a person can read: short lists stay on a line."""
    return _LIST.sub(_on_a_line, json_text(document)).encode() + b"\n"


_LIST = re.compile(r"\[\n\s+[^\[\]{}]*?\n\s+\]")
"""A list of plain values. No text in JSON holds a line break, so none is changed."""


def _on_a_line(found: re.Match[str]) -> str:
    inside = re.sub(r"(?<=\[)\n\s+|\n\s+(?=\])", "", found[0])
    return re.sub(r",\n\s+", ", ", inside)


def _free(out: str | Path) -> Path:
    """A folder that is not there yet, or is empty."""
    if is_address(out):
        raise ArgumentError(f"out: expected a folder of this machine, got {out}; export there, and upload it")
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ArgumentError(f"out: expected a new folder, got {out}, where something is already; name another")
    return out


def _rows(job: Job, check: str | Path | Any) -> tuple[pa.Table, str]:
    """The rows to check on, prepared, and where they are from."""
    prepare = job.prepare()
    if check is not None:
        if isinstance(check, str | Path):
            table, name = read_rows_file(check, None, job.stream.file_format, "a file of rows to check on")
        else:
            table, name = as_table(check, "the table"), "the table"
        return (table if prepare is None else prepare(table, name)), name
    try:
        source = None if job.federated.owned else job.files()
        if isinstance(source, FileSource) and source.paths:
            name, path = list(source.paths.items())[-1]
            return open_source(str(path), source.format_of(name), prepare=prepare).head(), name
        if isinstance(source, PythonSource) and source.finite:
            return source.head(), "the run's tables"
    except StreamError:  # it need not be there any more
        pass
    raise ArgumentError(
        "check: expected rows to compare the exported model with its version on, got none, and none can be read at "
        f"{job.stream.path}; name a file of rows: --check ROWS.parquet"
    )


def _usable(version: Exportable, table: pa.Table, place: str) -> EncodedRows:
    encoded = version.encoded(table, place, prepared=True)
    if not len(encoded.batch):
        why = f": row {encoded.bad[0].offset}: {encoded.bad[0].reason}" if encoded.bad else ""
        raise StreamError(f"{place}: expected rows to check on, found none that can be used{why}")
    return encoded


def _example(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Some rows, at least two: of one, torch.export would take it that there is always one."""
    places = torch.arange(EXAMPLE) % len(next(iter(inputs.values())))
    return {name: value[places] for name, value in inputs.items()}


def _compared(version: Exportable, encoded: EncodedRows, ask: Ask, *, exact: bool) -> dict[str, Any]:
    """How far apart the answers are; ExportError where that is more than rounding."""
    learner, job = version.learner, version.job
    wanted = learner.predict(encoded.batch.inputs)
    found = difference(
        wanted,
        ask(named_inputs(encoded.batch.inputs)),
        probabilities=OUTPUTS[job.learner.objective] != "value",
    )
    # An activation that is rounded to eight bits may differ by a whole step where two runtimes differ by an ulp.
    tolerance = TOLERANCE["bfloat16" if is_quantisation_aware(learner.model) else learner.precision.name]
    allowed = tolerance if exact else None
    if allowed is not None and not found.share <= allowed:
        raise ExportError(
            f"export: expected answers within {allowed:g} of version {version.number}'s, got one that differs by "
            f"{found.largest:g} in row {int(encoded.offsets[found.row])}; look whether the model's forward depends on "
            "what no trace sees (random numbers, values that it branches on), or choose another format"
        )
    return {"largest_difference": found.largest, "share_of_spread": found.share, "allowed": allowed}


def _metrics(version: Exportable, table: pa.Table, place: str, ask: Ask) -> dict[str, dict[str, float]] | None:
    """The metrics before and after, where the rows have labels."""
    job = version.job
    wanted = columns_asked(job.encoder, job.rates(), job.stream.predict_at, labelled=True)
    if any(name not in table.column_names for name in wanted):
        return None
    labelled: Batch = version.encoded(table, place, labelled=True, prepared=True).batch
    return metrics_of(version.learner, labelled, ask) if len(labelled) else None
