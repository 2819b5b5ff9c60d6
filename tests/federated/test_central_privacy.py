"""A server that hides each client in its models, for as long as its budget lasts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from federated._server_privacy import CentralPrivacy
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.rounds import PrivateMean
from tests.support.federated_runs import events, failing, finish
from tests.support.federations import all_rows, federation, simulated
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

RANGES = "features.ranges={height=[140,210],weight=[40,120]}"


def promise(folder: Path, *settings: str, told: str = "epsilon=9.0,noise=1.5,clip=0.5") -> Job:
    """Three clients, with a server that makes a promise about them."""
    return simulated(folder, RANGES, "stream.every='1h'", f"federated.privacy={{{told}}}", *settings).resolved()


@pytest.mark.parametrize(
    "told",
    ["epsilon=9.0,noise=1.5,clip=0.5", "epsilon=9.0,noise=1.5,clip={quantile=0.5,start=0.5,count_noise=2.0}"],
)
def test_a_run_ends_where_the_budget_does_and_a_resumed_one_has_the_same_bits(told: str, tmp_path: Path) -> None:
    federation(tmp_path)
    job = promise(tmp_path, "federated.rounds=2", "federated.fraction=0.5", "publish.every=2", told=told)
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3)))
    finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=3)
    parts = finish(job, tmp_path / "parts", on(InProcessGrid(3)))
    assert (whole.sha256, whole.learned) == (parts.sha256, parts.learned)
    assert 0 < len(whole.learned) < sum(map(len, all_rows(tmp_path).values()))
    spent = [what for kind, what in events(tmp_path / "whole") if kind == "budget spent"]
    assert len(spent) == 1
    assert spent[0].endswith(" of 9 (delta 1e-05)")
    assert 8.0 < float(spent[0].split()[1]) <= 9.0


def test_clients_are_drawn_each_for_itself_with_the_share_that_the_account_says() -> None:
    job = Job.from_document(
        {
            "stream": {"path": "x"},
            "features": {"label": "y"},
            "learner": {"objective": "binary"},
            "federated": {"privacy": {"epsilon": 8.0}, "fraction": 0.3},
        }
    )
    central = CentralPrivacy(job)
    sizes = [len(central.drawn(range(1000))) for _ in range(30)]
    assert len(set(sizes)) > 5
    assert sum(sizes) / 30_000 == pytest.approx(0.3, abs=0.01)
    assert central.sampled(warm=True) == 1.0


@pytest.mark.parametrize(("told", "expected"), [("epsilon=50.0", [2.0, 1.0]), ("epsilon=50.0,clients=3", [6.0, 3.0])])
def test_a_sum_is_divided_by_who_may_take_part_in_its_round(
    told: str, expected: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the warm start all of them, but for who is held out: else its mean, and its noise, would be twice as large."""
    found, merge = list[float](), PrivateMean.merge

    def seen(self: PrivateMean, *args: Any) -> Any:
        found.append(self.clients)
        return merge(self, *args)

    monkeypatch.setattr(PrivateMean, "merge", seen)
    federation(tmp_path)
    job = promise(tmp_path, "federated.fraction=0.5", "federated.held_out=['colour=red']", told=told)
    finish(job, tmp_path / "run", on(InProcessGrid(3)), stop_after=2)
    assert found[:2] == expected


@pytest.mark.parametrize(
    ("settings", "told", "said"),
    [
        (["features.ranges={}"], "epsilon=9.0", r"federated\.privacy: expected features\.ranges"),
        (["strategy=[{name='scaffold'}]"], "epsilon=9.0", "expected strategies that send nothing beside the update"),
        ([], "epsilon=9.0,clip={quantile=0.5}", r"federated\.privacy\.clip\.count_noise: expected more than half"),
    ],
)
def test_what_would_tell_more_is_refused(settings: list[str], told: str, said: str, tmp_path: Path) -> None:
    federation(tmp_path, rows=60)
    error = failing(promise(tmp_path, *settings, told=told), tmp_path / "run", on(InProcessGrid(3)))
    assert type(error) is JobError
    assert re.search(said, str(error))


@pytest.mark.parametrize(
    ("federated", "said"),
    [
        ({"privacy": {"noise": 1.0}}, r"federated\.privacy\.epsilon"),
        ({"privacy": {"epsilon": 1.0}}, "noise: expected enough for one step within epsilon = 1"),
        ({"privacy": {"epsilon": 9.0, "clip": 0}}, "clip: expected a number above 0"),
        ({"privacy": {"epsilon": 9.0, "clip": {"quantil": 0.5}}}, "quantil"),
        ({"privacy": {"epsilon": 9.0}, "aggregation": "krum"}, 'expected aggregation = "mean"'),
        ({"privacy": {"epsilon": 9.0}, "clients_per_round": 3}, "got clients_per_round or select; leave them out"),
        ({"privacy": {"epsilon": 9.0}, "max_share": 0.4}, "expected no max_share"),
        ({"client_privacy": {"epsilon": 9.0}, "batch_clients": 5}, "expected 0 with client_privacy"),
        ({"client_privacy": {"epsilon": 9.0}, "superlink": "a:1"}, "expected simulated clients, got owners"),
    ],
)
def test_promises_that_cannot_be_are_refused(federated: dict[str, Any], said: str) -> None:
    document = {"stream": {"path": "x"}, "features": {"label": "y"}, "learner": {"objective": "binary"}}
    with pytest.raises(JobError, match=said):
        Job.from_document({**document, "federated": federated})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["publish.gate=true"], r"publish\.gate: expected false with federated\.privacy"),
        (["drift=[{},{action=['alert','rewarm']}]"], r"drift\.action: expected \"alert\" alone .*got 'rewarm'"),
        (["review={every=2}"], "review: expected none with federated"),
    ],
)
def test_what_is_chosen_by_sums_without_noise_is_refused(settings: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=said):
        promise(tmp_path, *settings)
