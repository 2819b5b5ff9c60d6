"""A version of a run: it predicts rows and is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from incr_core.data.encoding import BadRow
from incr_core.data.sources import as_table
from incr_core.data.timeline import EncodedRows, PlainAsked, encode_file, encode_table
from incr_core.engines import at_owner
from incr_core.errors import IncrError, StreamError, VersionError
from incr_core.export import export
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.numerics import settle_arithmetic
from incr_core.registry import RunDirectory, loop_state, states_of
from incr_core.runs._answer_columns import AnswerColumn, AnswerColumns
from incr_core.runs._kept_columns import with_columns
from incr_core.runs._recommend import recommended
from incr_core.shown import shown
from incr_core.storage import checkpoint

__all__ = ["Version"]

MOST_UNTAKEN = 1000
"""Rows of a table that the model may reject. With more, the model is at fault and not the rows."""


@dataclass
class Version:
    """A version of a run, ready to predict: `Run.champion`, `Run.version(3)`.

    Rows are given as a file or as a table: of Arrow, pandas, or a dict of arrays.

    Attributes:
        history: The outcomes known at its commit, if its features need them.
        manifest: Its manifest in the run directory.
    """

    number: int
    job: Job
    learner: Learner
    history: pa.Table | None
    manifest: dict[str, Any]

    @classmethod
    def load(
        cls, directory: str | Path, number: int | None = None, job: Job | None = None, client: str | None = None
    ) -> Self:
        """Load a version of a run, by default the champion. Every byte is verified.

        The files that it learned from may be gone. They are read only if neither job nor manifest gives the length of
        lists, as in old runs.

        Args:
            job: The job. Default: the job that the directory holds.
            client: Client whose own weights to load, if a federated run leaves some weights with each client: its name
                in a simulation, or an owner's file CLIENT.toml.

        Raises:
            RunDirectoryError: There is no run.
            VersionError: There is no such version.
            CheckpointError: A file is damaged.
        """
        run = RunDirectory.open(directory)
        weights, manifest = run.load(number)
        if "personal" in manifest or client is not None:
            of = run.path, int(manifest["version"])
            if client is not None and client.endswith(".toml"):
                weights |= at_owner().own_weights(client, _run_of(*of))
            else:
                weights |= _own(*of, manifest.get("personal", ()), client)
        document = run.job() if job is None else job.document()
        if "widths" in manifest:
            document["features"].setdefault("widths", manifest["widths"])
        if document["learner"].get("device", "cpu").startswith("cuda") and not torch.cuda.is_available():
            document["learner"]["device"] = "cpu"  # a model learned on a GPU predicts on any machine
        objects = {} if job is None else job.objects_given
        job = Job.from_document(document, place=str(run.path / "job.toml"), objects=objects)
        settle_arithmetic(job.learner.threads, job.learner.device)
        learner = job.learner_for(job.encoder.width + 2 * len(job.rates()))
        learner.adopt(weights)
        version = int(manifest["version"])
        learner.extra.load_state_dict(run.extra_state(version))
        history = run.extra_table(version, "history") if "history.arrow" in manifest["files"] else None
        return cls(version, job, learner, history, manifest)

    def predict(self, rows: str | Path | Any, keep: Sequence[str] = ()) -> pa.Table:
        """The predictions for rows, one each, in their order; null where a row cannot be used.

        Columns: `row`, the offset, then `probability` (binary: of the second class; with `class` where classes have
        other names than 0 and 1), `class` and `probability.CLASS` (multiclass), `probability.LABEL` (multilabel),
        `token` and `probability` (next_token), `score` of the row's item (ranking), or `value`. keep: columns of the
        rows that stand behind `row`, such as their ids.
        """
        return with_columns(self.answer(rows)[0], rows, keep, self.job)

    def answer(
        self, rows: str | Path | Any, name: str = "the table", *, prepared: bool = False
    ) -> tuple[pa.Table, list[BadRow]]:
        """The predictions, and the rows that cannot be used, each with its reason; arguments as of `encoded`."""
        encoded = self.encoded(rows, name, prepared=prepared)
        return _answered(self, encoded, Path(rows).name if isinstance(rows, str | Path) else name)

    @cached_property
    def answers(self) -> AnswerColumns:
        """Columns of its predictions."""
        return AnswerColumns(self.job, self.learner.objective)

    def plain(self) -> PlainAsked:
        """Encoder of rows given as dicts of plain values, without a table."""
        stream = self.job.stream
        times = {"predict_at": stream.predict_at, "time_zone": stream.time_zone}
        return PlainAsked(self.job.encoder, self.job.rates(), self.history, **times)

    def evaluate(self, rows: str | Path | Any) -> dict[str, Any]:
        """Return the number of rows, the rows that cannot be used, and the objective's metrics on labelled rows."""
        encoded = self.encoded(rows, "the table", labelled=True)
        place = rows if isinstance(rows, str | Path) else "the table"
        if len(encoded.batch) == 0:
            raise StreamError(f"{place}: expected labelled rows to evaluate, found none that can be used")
        found, encoded = _asked(self, encoded, str(place))
        objective = self.learner.objective
        measured = objective.metrics(objective.measure(found, encoded.batch.targets, encoded.batch.weights))
        return {"version": self.number, "rows": len(encoded.batch), "rows_refused": len(encoded.bad), **measured}

    def evaluate_tasks(self, rows: str | Path | Any) -> dict[int, float]:
        """Task -> the main metric on its labelled rows; empty if the rows have no tasks."""
        encoded = self.encoded(rows, "the table", labelled=True)
        found, encoded = _asked(self, encoded, str(rows) if isinstance(rows, str | Path) else "the table")
        batch, objective = encoded.batch, self.learner.objective
        measured: dict[int, float] = {}
        for task in [] if batch.task is None else torch.unique(batch.task).tolist():
            place = (batch.task == task).nonzero().flatten()
            weights = None if batch.weights is None else batch.weights[place]
            statistics = objective.measure(found[place], batch.targets[place], weights)
            measured[int(task)] = objective.metrics(statistics)[objective.main_metric]
        return measured

    def recommend(
        self, user: object, k: int = 10, *, with_seen: bool = False, rows: str | Path | None = None
    ) -> pa.Table:
        """Return the k items with the highest scores for a user, best first, without items that occur in rows of the
        user.

        Columns: the item's column, and `score`, `value` or `probability`. Items and the user's seen items are read from
        the run's stream, or from `rows`. See `docs/job.md`, ids.
        """
        return recommended(self, user, k, with_seen=with_seen, rows=rows)[0]

    def export(
        self,
        out: str | Path,
        format: str = "onnx",
        *,
        check: str | Path | Any = None,
        quantize: str | None = None,
        prune: float | None = None,
    ) -> dict[str, Any]:
        """Write the version to the new folder `out` for a service without incr: see `incr_core.export.export`."""
        columns = list(self.answers.columns(torch.empty(0), 0))
        return export(self, out, format, check=check, quantize=quantize, prune=prune, columns=columns)

    def encoded(
        self, rows: str | Path | Any, name: str, *, labelled: bool = False, prepared: bool = False
    ) -> EncodedRows:
        """Rows as tensors, and those that cannot be used.

        Args:
            rows: A file, or a table.
            name: The name of a table in errors.
            labelled: Whether the rows have labels.
            prepared: Whether a table has passed through `features.prepare`.
        """
        job, stream = self.job, self.job.stream
        prepare = None if prepared else job.prepare()
        wanted: dict[str, Any] = {
            "predict_at": stream.predict_at,
            "time_zone": stream.time_zone,
            "labelled": labelled,
        }
        if isinstance(rows, str | Path):
            wanted |= {"format": stream.file_format, "prepare": prepare}
            return encode_file(rows, job.encoder, job.rates(), self.history, **wanted)
        table = as_table(rows, name)
        if prepare is not None:
            table = prepare(table, name)
        return encode_table(table, name, job.encoder, job.rates(), self.history, **wanted)


def _own(run: Path, version: int, personal: Sequence[str], client: str | None) -> dict[str, torch.Tensor]:
    """Load the weights of a version that a client keeps to itself."""
    there = dict(states_of(run, version))
    found: dict[str, torch.Tensor] = {}
    if client is not None and client in there:
        found = checkpoint.load(there[client])[0].get("personal", {})
    if not found:
        some = f"{personal[0]} and {len(personal) - 1} others stay" if personal else "none stay"
        known = f"of {', '.join(shown(name) for name in sorted(there)[:5])}" if there else "and none is kept here"
        raise VersionError(
            f"{run}: version {version}: expected a client that has its own weights, got {client!r}, "
            f"where {some} with each client; " + (f"name one ({known})" if personal else "name none")
        )
    return found


def _run_of(run: Path, version: int) -> str | None:
    """Name by which owners know a run; None if its version no longer has it."""
    try:
        found: dict[str, Any] = loop_state(run, version)["engine"].get("owners", {})
    except IncrError:
        return None
    return found.get("run")


def _asked(version: Version, encoded: EncodedRows, place: str) -> tuple[torch.Tensor, EncodedRows]:
    """Return the predictions, and the rows that cannot be used. Rows that the model rejects are bad rows, too."""
    batch, offsets = encoded.batch, encoded.offsets
    if not len(batch):
        return torch.empty(0), encoded
    found, untaken = version.learner.answers(batch.inputs, MOST_UNTAKEN)
    if not untaken:
        return found, encoded
    if len(untaken) > MOST_UNTAKEN or len(untaken) == len(batch) > 1:
        first = next(iter(untaken))
        raise StreamError(
            f"{place}: expected rows that the model can take, got {len(untaken):,} that it cannot, as row "
            f"{int(offsets[first])}: {untaken[first]}; look whether the model is at fault"
        )
    assert batch.row_ids is not None
    bad = [
        BadRow(int(batch.row_ids[at]), place, int(offsets[at]), "", "a row that the model can take", why, "")
        for at, why in untaken.items()
    ]
    left = torch.tensor([at for at in range(len(batch)) if at not in untaken], dtype=torch.int64)
    bad = sorted([*encoded.bad, *bad], key=lambda row: row.offset)
    return found, EncodedRows(batch.take(left), offsets[left], bad, encoded.total)


def _answered(version: Version, encoded: EncodedRows, place: str) -> tuple[pa.Table, list[BadRow]]:
    found, encoded = _asked(version, encoded, place)
    offsets = encoded.offsets.numpy()
    missing = np.ones(encoded.total, dtype=bool)
    missing[offsets] = False

    def column(answer: AnswerColumn) -> pa.Array:
        whole = np.zeros(encoded.total, dtype=answer.values.dtype)
        whole[offsets] = answer.values
        made = pa.array(whole, mask=missing)
        return made if answer.names is None else pa.array(answer.names, pa.string()).take(made)

    columns = {name: column(answer) for name, answer in version.answers.columns(found, len(offsets)).items()}
    return pa.table({"row": np.arange(encoded.total), **columns}), encoded.bad
