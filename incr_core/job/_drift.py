"""The drift handling of a job: the controller of the loop and the probes of participants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from incr_core._util import unknown
from incr_core.data.encoding import Encoder
from incr_core.drift import BLOCK, Alarm, Controller, Detector
from incr_core.errors import JobError
from incr_core.job._file import JobFile
from incr_core.job._run_sections import DriftSection
from incr_core.learner import Schedule
from incr_core.memories import Memory
from incr_core.objectives import Objective
from incr_core.rounds import PROBE_ROWS, PROBED, Probe
from incr_core.strategies import Strategy

__all__ = ["controller_of", "has_gate", "probes_of"]

LOWER_IS_BETTER = ("loss", "error", "log_loss", "brier", "calibration_error", "mae", "mse", "rmse")


def controller_of(
    job: JobFile, objective: Objective, strategies: Sequence[Strategy], schedule: Schedule | None
) -> Controller | None:
    """The controller that reacts to drift and triggers consolidation; None if the job needs neither.

    objective, strategies, schedule: those of the job. The strategies are only needed with a [[drift]].
    Raises JobError if the settings contradict one another.
    """
    every = job.learner.consolidate
    if every == "drift" and not any("consolidate" in section.action for section in job.drift):
        raise JobError('learner.consolidate: expected a [[drift]] with action = "consolidate", got none; add one')
    if every != "increment" and schedule is not None and schedule.each == "increment":
        raise JobError(
            f'learner.schedule: expected each = "step" with learner.consolidate = {every!r}, got "increment"; '
            "the end of an increment is where strategies consolidate"
        )
    if every == "task" and job.features.task is None:
        raise JobError('learner.consolidate: expected features.task with "task", got none; name the column')
    if not job.drift and every in ("increment", "drift"):
        return None
    remembers = any(isinstance(part, Memory) for strategy in strategies for part in strategy.modules())
    for section in job.drift:
        _check_watch(section, job, objective)
        _check_action(section, every, remembers)
    alarms = [_alarm(section) for section in job.drift]
    return Controller(alarms, objective, every if isinstance(every, int) else None, by_task=every == "task")


def _leaves_gate_out(job: JobFile) -> bool:
    """Whether a job has no gate by default, because a gate needs state, exact sums, or would change what is learned."""
    rewarms = any("rewarm" in section.action for section in job.drift)
    return rewarms or job.federated.privacy is not None or job.federated.stateless


def has_gate(job: JobFile, objective: Callable[[], Objective]) -> bool:
    """Whether new versions are judged: as the job says, and by default wherever they can be.

    Raises JobError if the job asks for a gate, but its objective has no prediction losses to compare.
    """
    wanted = job.publish.wants_gate
    if wanted is False or (wanted is None and _leaves_gate_out(job)):
        return False
    compares = type(objective()).prediction_losses is not Objective.prediction_losses
    if wanted and not compares:
        raise JobError(
            f"publish.gate: expected an objective with prediction_losses, which versions are compared by, got "
            f"{job.learner.objective}; write them, or leave the gate out"
        )
    return compares


def probes_of(sections: Sequence[DriftSection], encoder: Encoder) -> list[Probe]:
    """The values that participants report, for each detector that does not watch a metric."""
    for section in sections:
        _check_columns(section, encoder.numeric)
    return [_probe(section, encoder) for section in sections if section.watch in PROBED]


def _probe(section: DriftSection, encoder: Encoder) -> Probe:
    columns: tuple[int, ...] = ()
    if section.watch == "features":
        columns = tuple(place for name in section.columns or encoder.numeric for place in encoder.places[name])
    return Probe(section.watch, min(PROBE_ROWS, _block(section)), columns)


def _alarm(section: DriftSection) -> Alarm:
    change = "both" if section.watch == "features" else "rise" if section.watch in LOWER_IS_BETTER else "fall"
    block, options = _block(section), section.options
    detector = Detector(section.detector, change, block=block, warm_up=section.warm_up, options=options)
    return Alarm(section.watch, detector, section.action, section.rate, section.lasting, section.enlarge)


def _block(section: DriftSection) -> int:
    """Rows in a value: ddm counts errors row by row, and a metric is one value for an increment, whatever its rows."""
    if section.detector == "ddm" or section.watch not in PROBED:
        return 1
    return section.block or BLOCK


def _check_action(section: DriftSection, consolidate: str | int, remembers: bool) -> None:
    """remembers: whether a strategy has a memory."""
    if "consolidate" in section.action and consolidate == "increment":
        raise JobError(
            'drift.action: "consolidate" has nothing to do where strategies do so after every increment; set '
            'learner.consolidate = "drift", or a number of rows'
        )
    for action in ("flush_replay", "enlarge_replay"):
        if action in section.action and not remembers:
            raise JobError(f'drift.action: "{action}" needs a strategy with a memory, got none; add replay')


def _check_columns(section: DriftSection, numeric: Sequence[str]) -> None:
    if strange := [name for name in section.columns if name not in numeric]:
        raise JobError(f"drift.columns: {unknown('a numeric feature', strange[0], numeric)}")


def _check_watch(section: DriftSection, job: JobFile, objective: Objective) -> None:
    watch, numeric = section.watch, job.features.numeric
    if section.detector == "ddm" and watch != "error":
        raise JobError(f'drift.watch: ddm counts errors, got {watch!r}; set watch = "error", or detector = "adwin"')
    if watch != "features" and section.columns:
        raise JobError(f'drift.columns: expected watch = "features" with columns, got {watch!r}')
    if watch == "features":
        _check_columns(section, numeric)
        if not numeric:
            raise JobError('drift.watch: "features" are numeric ones, got none; watch "loss"')
    elif watch in ("loss", "error"):
        method = "prediction_losses" if watch == "loss" else "prediction_errors"
        if getattr(type(objective), method) is getattr(Objective, method):
            name = job.learner.objective
            raise JobError(f'drift.watch: {name} predictions have no {watch}; watch a metric or "features"')
    elif watch not in (known := objective.metrics({})):
        raise JobError(f"drift.watch: {unknown('what to watch', watch, ['loss', 'error', 'features', *known])}")
