"""A loss that turns NaN: its increment goes to quarantine, the model to its last commit, and the run goes on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.engines import LocalEngine
from incr_core.errors import DivergedError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.objectives import Multiclass
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from incr_core.rounds import Arrival, Orders, Round
from incr_core.runs import run
from incr_core.strategies.mechanisms import fisher_diagonal
from incr_core.update import Weights
from tests.support.heavy_rows import EVERY, ROWS, job, table, written


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("heavy", [(0,), (3,), (4, 5), (2, 11)])
def test_the_run_goes_on_as_if_the_increment_had_never_come(tmp_path: Path, heavy: tuple[int, ...], every: int) -> None:
    whole = table(heavy)
    summary = run(job(written(tmp_path / "a", whole), f"publish.every={every}"), tmp_path / "run").summary
    kept = [row for row in range(ROWS) if row // EVERY not in heavy]
    without = run(job(written(tmp_path / "b", whole.take(kept))), tmp_path / "without").summary
    assert summary.model_sha256 == without.model_sha256
    assert summary.events == {"diverged": len(heavy)}
    assert (summary.rows_learned, summary.rows_quarantined) == (len(kept), ROWS - len(kept))
    assert summary.rows_predicted == ROWS

    directory = RunDirectory.open(tmp_path / "run")
    assert count(directory.table("ledger")) == len(kept)
    refused = directory.table("quarantine")
    assert sorted(refused["offset"].to_pylist()) == [row for row in range(ROWS) if row not in kept]
    assert all("the loss is nan" in reason for reason in refused["reason"].to_pylist())
    events = directory.table("events").to_pylist()
    assert [(event["increment"], event["kind"], event["rows"]) for event in events] == [
        (increment, "diverged", EVERY) for increment in heavy
    ]
    assert "the loss is nan" in (tmp_path / "run" / "report.html").read_text()


class Poisoned(LocalEngine):
    """An engine whose weights, but not its losses, are spoilt after increment 6."""

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        done = super().learn(arrivals, rows)
        if arrivals[0].tick.number == 6 and rows is None:  # not where it is skipped
            next(iter(self.participant.learner.model.parameters())).data.fill_(float("inf"))
        return done


@pytest.mark.parametrize("every", [1, 4, 20])
def test_the_last_step_of_an_increment_is_found_out_by_what_comes_after(tmp_path: Path, every: int) -> None:
    path = written(tmp_path / "a", table())
    found = job(path, f"publish.every={every}")
    with RunDirectory.create(tmp_path / "run", found.toml(), "local") as directory:
        loop = Loop(found, Poisoned(found, tmp_path / "run"), directory)
        assert loop.run()
        assert directory.table("events")["increment"].to_pylist() == [6]
        assert count(directory.table("ledger")) == ROWS - EVERY


class Remade(LocalEngine):
    """An engine whose weights are spoilt by what is ordered, the first time that something is."""

    spoilt = False

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        super().order(orders, weights)
        if orders.consolidate and not self.spoilt:
            self.spoilt = True
            next(iter(self.participant.learner.model.parameters())).data.fill_(float("nan"))


def test_what_an_order_makes_of_the_weights_is_looked_at_before_it_is_committed(tmp_path: Path) -> None:
    found = job(written(tmp_path / "a", table()), "learner.consolidate=100")
    with RunDirectory.create(tmp_path / "run", found.toml(), "local") as directory:
        loop = Loop(found, Remade(found, tmp_path / "run"), directory)
        assert loop.run()
        assert loop.engine.spoilt  # type: ignore[attr-defined]
        assert directory.table("events")["kind"].to_pylist() == ["diverged"]
        for version in directory.versions():
            assert all(value.isfinite().all() for value in directory.load(version["version"])[0].values())


@pytest.mark.slow
def test_killed_after_the_event_and_resumed_it_is_the_same_run(tmp_path: Path) -> None:
    wanted = job(written(tmp_path / "a", table((4,))), "publish.every=3")
    whole = run(wanted, tmp_path / "whole").summary.document()
    for stop in (4, 5, 7):
        out = tmp_path / f"killed-{stop}"
        child = multiprocessing.get_context("fork").Process(target=_die_after, args=(wanted, out, stop))
        child.start()
        child.join()
        assert child.exitcode == 9
        resumed = run(wanted, out).summary.document()
        assert {key: resumed[key] for key in ("model_sha256", "events", "rows_learned", "prequential")} == {
            key: whole[key] for key in ("model_sha256", "events", "rows_learned", "prequential")
        }


def _die_after(wanted: Job, out: Path, increments: int) -> None:
    import os

    seen: list[str] = []

    def on_progress(_: str, __: object) -> None:
        seen.append("")
        if len(seen) > increments:
            os._exit(9)

    run(wanted, out, on_progress=on_progress)


@pytest.mark.slow
def test_after_three_in_a_row_the_run_ends_at_its_last_commit(tmp_path: Path) -> None:
    wanted = job(written(tmp_path / "a", table((4, 5, 6))))
    for _ in range(2):  # and trying again does not get past it
        with pytest.raises(DivergedError, match=r"after 2 increments that diverged too; lower .* version 6 is intact"):
            run(wanted, tmp_path / "run")
    more = job(written(tmp_path / "a", table((4, 5, 6))), "learner.give_up_after=4")
    assert run(more, tmp_path / "more").summary.events == {"diverged": 3}
    with pytest.raises(DivergedError, match="the loss is nan; lower"):
        run(job(written(tmp_path / "a", table((4,))), "learner.give_up_after=1"), tmp_path / "once")


def test_a_run_that_learned_nothing_has_failed(tmp_path: Path) -> None:
    wanted = job(written(tmp_path / "a", table((0,)).slice(0, EVERY)))
    with pytest.raises(DivergedError, match="every increment has diverged"):
        run(wanted, tmp_path / "run")


def test_consolidating_a_model_that_has_diverged_is_no_error() -> None:
    # More classes than the Fisher information is exact for: it draws labels from the model's answers.
    model = torch.nn.Linear(2, 20)
    model.weight.data.fill_(float("nan"))
    rows = Batch(torch.ones(4, 2), torch.arange(4))
    assert fisher_diagonal(model, Multiclass(20), rows, torch.Generator())["weight"].isnan().all()
