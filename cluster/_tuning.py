"""Trials of a job on Ray Tune: one CPU each, as many at the same time as there are, ended early by ASHA."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.session import Session, quietly
from incr_core.engines import Outcome, Report, Trial
from incr_core.errors import EngineError, IncrError

__all__ = ["tune_on_ray"]

REDUCTION = 3
"""Of the trials that reach a rung, one in REDUCTION goes on to the next, which has REDUCTION times the rows."""

RUNGS = 2
"""Rungs below the rows of a complete trial."""

NAME = "ray"
"""The folder in which Ray Tune keeps what it needs to continue."""


def tune_on_ray(
    trials: Sequence[Trial],
    learn: Callable[[Trial, Report], None],
    *,
    rows: int,
    folder: Path,
    higher_is_better: bool,
    on_outcome: Callable[[Outcome], None],
) -> list[Outcome]:
    """See `incr_core.engines.Tuner`."""
    if find_spec("pandas") is None:
        raise EngineError("tune: expected pandas, which Ray Tune imports, got none; pip install 'incr[tune]'")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ray Tune's own handler of Ctrl-C returns the results so far, as if the search were complete.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    session = Session(None, os.cpu_count() or 1)
    try:
        with quietly():
            return _tuned(trials, learn, rows, folder, higher_is_better, on_outcome)
    finally:
        session.close()


def _tuned(
    trials: Sequence[Trial],
    learn: Callable[[Trial, Report], None],
    rows: int,
    folder: Path,
    higher_is_better: bool,
    on_outcome: Callable[[Outcome], None],
) -> list[Outcome]:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    def trainable(config: Mapping[str, Any]) -> None:
        def report(learned: int, value: float) -> None:
            tune.report({"rows": learned, "value": value, "fault": ""})

        try:
            learn(trials[config["trial"]], report)
        except IncrError as error:  # the settings' fault: the others go on
            tune.report({"rows": 0, "value": float("nan"), "fault": str(error)})

    class Ended(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            on_outcome(of(trial.config, trial.last_result))

    def of(config: Mapping[str, Any], told: Mapping[str, Any] | None, error: Exception | None = None) -> Outcome:
        trial, told = trials[config["trial"]], told or {}
        if error is not None or told.get("fault"):
            text = told.get("fault") or str(error).strip().splitlines()[-1]
            return Outcome(trial, int(told.get("rows", 0)), None, text)
        return Outcome(trial, int(told.get("rows", 0)), told.get("value"))

    if tune.Tuner.can_restore(str(folder / NAME)):
        tuner = tune.Tuner.restore(str(folder / NAME), trainable=trainable, restart_errored=True)
    else:
        asha = ASHAScheduler(
            time_attr="rows",
            max_t=rows,
            grace_period=max(1, rows // REDUCTION**RUNGS),
            reduction_factor=REDUCTION,
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"trial": tune.grid_search([trial.number for trial in trials])},
            tune_config=tune.TuneConfig(
                metric="value",
                mode="max" if higher_is_better else "min",
                scheduler=asha,
                reuse_actors=True,  # to import torch takes longer than a short trial
            ),
            run_config=tune.RunConfig(
                name=NAME, storage_path=str(folder), verbose=0, callbacks=[Ended()], log_to_file=False
            ),
        )
    results = tuner.fit()
    ended = (results[place] for place in range(len(results)))
    found = {one.config["trial"]: of(one.config, one.metrics, one.error) for one in ended if one.config}
    if missing := [trial.number for trial in trials if trial.number not in found]:
        raise EngineError(
            f"tune: expected an outcome of {len(trials)} trials, got none of trial {missing[0]}; the same command "
            "continues with the missing trials"
        )
    return [found[trial.number] for trial in trials]
