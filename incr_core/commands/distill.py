"""`incr distill`: train a smaller model on the answers of a run's champion. The student then continues the stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch
from pydantic import PrivateAttr
from torch import Tensor

from incr_core._util import json_text, not_negative, positive
from incr_core.batch import Batch, Inputs, map_inputs
from incr_core.engines import Commit, LocalEngine, Saving
from incr_core.errors import ArgumentError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.loop import Loop, Progress
from incr_core.objectives import Binary, Blend, Regression, distillation_loss
from incr_core.registry import RunDirectory, add_erased, erased, ids_of
from incr_core.report import write_report
from incr_core.rounds import Arrival
from incr_core.runs import Summary, Version
from incr_core.storage import located, write_atomically
from incr_core.strategies import Context, Strategy, Traits

__all__ = ["distill"]

SURE = 1e-6
"""Distance from 0 and 1 to which the probabilities of a blend of experts are clamped."""

RECORD = "teacher.json"
"""File in a student's run directory that names its teacher."""


def distill(
    directory: str | Path,
    out: str | Path,
    settings: Sequence[str] = (),
    *,
    strength: float = 1.0,
    temperature: float = 2.0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Create a run in `out` whose model is trained on the answers of the champion of the run in `directory`.

        loss = the objective's own + strength * distillation_loss(student, teacher)        see `distillation_loss`

    The student reads the teacher's stream once and in order, up to the increment of the champion. Rows arrive, are
    predicted, and are learned from their labels and from the teacher's answers. Afterwards the student is an ordinary
    run. Its ledger contains the rows of the champion's ledger, except for those erased from the teacher's run, which
    are in the folder erased of both. `incr run OUT/job.toml --out OUT` continues it without the teacher. An interrupted
    distillation continues with the same teacher.

    Args:
        directory: The teacher's run directory.
        out: The student's run directory.
        settings: Changes to the teacher's job, such as "model.hidden=[16]".
        strength: Weight of the distillation loss.
        temperature: Temperature of the distillation loss.
        on_progress: Called with the progress.

    Returns:
        The summary of the student's run, whose `taught_by` names the teacher.

    Raises:
        ArgumentError: `out` is the teacher's folder, or the student's job cannot be taught.

    Reference:
        Hinton et al. 2015, "Distilling the knowledge in a neural network".
    """
    run, out = RunDirectory.open(directory), located(out)
    if out.resolve() == run.path.resolve():
        raise ArgumentError(f"--out {out}: expected another folder than the teacher's own run; choose one")
    job = Student.from_document(run.job()).with_settings([*settings, "baselines={}"])
    _check(job)
    with RunDirectory.create(
        out, job.toml(), f"local:{job.fingerprint()}", keep=job.publish.keep, as_now=Student.as_now
    ) as student:
        teacher = Version.load(directory, _begun_with(out))
        [manifest] = [version for version in run.versions() if version["version"] == teacher.number]
        record = {"run": str(directory), "version": teacher.number, "model_sha256": manifest["model_sha256"]}
        write_atomically(out / RECORD, json_text(record).encode() + b"\n")
        add_erased(out, erased(run.path))  # first, because reviews read the erased rows there
        job.lesson = Taught(teacher.learner, strength, temperature)
        engine = Lesson(job, out, manifest["increment"], erased(run.path))
        try:
            summary = Loop(job, engine, student, on_progress).run_to_summary(taught_by=record)
        finally:
            engine.close()
        write_report(student)
    return Summary.of(summary)


def _check(student: Job) -> None:
    """Check that a student can be taught.

    Raises:
        ArgumentError: It cannot.
    """
    if student.model.kind == "auto":
        raise ArgumentError(
            'student: expected a model of one network, got model.kind = "auto", whose experts answer each for itself; '
            'add --student \'model.kind="mlp"\', and --student learner.epochs=1 where these are "auto"'
        )
    if student.learner.head is not None:
        raise ArgumentError(
            f"student: expected a model that learns by steps, got learner.head = {student.learner.head.name!r}, which "
            "is worked out from sums of the rows themselves; a run of another job can learn the same stream: incr run"
        )


def _begun_with(out: Path) -> int | None:
    """Return the teacher's version in an interrupted distillation; None, for its champion, in a new one."""
    try:
        version: int = json.loads((out / RECORD).read_text())["version"]
    except FileNotFoundError:
        return None
    return version


class Student(Job):
    """A job whose learner is also trained on a teacher's answers."""

    _lesson: Strategy | None = PrivateAttr(None)

    @property
    def lesson(self) -> Strategy | None:
        """The strategy that teaches it, which is not part of the job file."""
        return self._lesson

    @lesson.setter
    def lesson(self, lesson: Strategy) -> None:
        self._lesson = lesson

    def strategies(self) -> list[Strategy]:
        """Return the job's strategies, followed by the lesson, so that remembered rows are taught too."""
        own = super().strategies()
        return own if self._lesson is None else [*own, self._lesson]


class Taught(Strategy):
    """Train on another model's answers; see `distill`. It has no state, so the student continues without it."""

    traits = Traits(rowwise=False)

    def __init__(self, teacher: Learner, strength: float, temperature: float) -> None:
        super().__init__()
        self.strength = not_negative("distill.strength", strength)
        self.temperature = positive("distill.temperature", temperature)
        self._teacher = teacher
        self._answer: Tensor | None = None

    @torch.no_grad()
    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Store the teacher's output for all rows of the batch."""
        if self.strength > 0:
            self._answer = self._asked(batch.inputs).to(ctx.device)
        return batch

    def _asked(self, inputs: Inputs) -> Tensor:
        teacher = self._teacher
        teacher.model.eval()
        output: Tensor = teacher.model(map_inputs(lambda value: value.to(teacher.device), inputs))
        objective = teacher.objective
        each = objective.each if isinstance(objective, Blend) else objective
        if isinstance(each, Regression):  # each model standardises by its own targets, so only values are comparable
            return objective.predict(output)
        if isinstance(objective, Blend):  # the output of one network that equals the mix
            told = objective.predict(output).clamp(SURE, 1.0 - SURE)
            return told.logit().unsqueeze(1) if isinstance(each, Binary) else told.log()
        return output

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Return the distance between the student's and the teacher's output."""
        if self._answer is None:
            return {}
        if isinstance(ctx.objective, Regression):
            apart = ctx.objective.rows(output, self._answer).mean()
        else:
            apart = distillation_loss(ctx.objective, output, self._answer, self.temperature)
        return {"taught": self.strength * apart}


class Lesson(LocalEngine):
    """The local engine up to increment `last`, without the rows that were erased from the teacher's run."""

    def __init__(self, job: Job, directory: Path, last: int, gone: pa.Table) -> None:
        super().__init__(job, directory)
        self._last = last
        self._gone = gone
        self._at = -1

    def receive(self) -> list[Arrival]:
        """Return the next increment, up to the last."""
        if self._at >= self._last:
            return []
        arrivals = super().receive()
        self._at = arrivals[0].tick.number if arrivals else self._last
        for arrival in arrivals if self._gone.num_rows else ():
            self._leave_out(arrival)
        return arrivals

    def start(self, commit: Commit | None) -> None:
        """Start from scratch, or from a commit. A student that has continued by itself does not repeat its lesson."""
        super().start(commit)
        self._at = -1 if commit is None else commit.engine.get("at", self._last)

    def _leave_out(self, arrival: Arrival) -> None:
        """Remove erased rows from those to learn, as if the stream had no labels for them."""
        assert self.participant.increment is not None
        labelled = self.participant.increment.labelled.without(ids_of(self._gone, self.origins))
        if len(labelled) < arrival.labelled:
            assert labelled.row_ids is not None
            self.participant.increment.labelled = labelled
            arrival.rows = labelled.row_ids
            arrival.observed = self.participant.learner.observe(labelled) if len(labelled) else {}

    def save(self, version: int) -> Saving:
        """Save the worker's state, and the increment that the lesson has reached."""
        return replace(super().save(version), state={"at": self._at})
