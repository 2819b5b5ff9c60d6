"""What strategies refuse, named with what was expected, what came and what to do; and what they must bear."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.commands.cli import main
from incr_core.errors import ArgumentError, IncrError, JobError, StrategyError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models.adapt import NearestMean, lda, task_heads, with_task
from incr_core.objectives import Multiclass
from incr_core.strategies import EWC, STRATEGIES, Replay, Strategy

SAYS = re.compile(r": expected .+, got .+; \w+")
"""Every message: the place, what was expected, what came, and what to do."""

NUMBERS = [
    (name, argument)
    for name, kind in STRATEGIES.items()
    for argument, parameter in inspect.signature(kind).parameters.items()
    if argument == "ttl" or (isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool))
]
"""Every number that a strategy takes: strengths, capacities, shares, counts."""


def job(name: str, **arguments: Any) -> Job:
    document = {
        "name": "bad",
        "stream": {"path": "nowhere"},
        "features": {"label": "y", "numeric": ["x"], "classes": [0, 1], "task": "task"},
        "learner": {"objective": "multiclass", "consolidate": "task"},
        "strategy": [{"name": name, **arguments}],
    }
    return Job.from_document(document)


@pytest.mark.parametrize("value", [-1, float("nan")])
@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_a_number_below_zero_or_none_is_refused(name: str, argument: str, value: float) -> None:
    of_memory = argument in ("capacity", "ttl")
    with pytest.raises(ArgumentError if of_memory else StrategyError, match=SAYS) as caught:
        STRATEGIES[name](**{argument: value})
    assert str(caught.value).startswith(f"memory.{argument}: " if of_memory else f"{name}.{argument}: ")
    if value == -1:
        with pytest.raises(JobError if of_memory else StrategyError) as told:
            job(name, **{argument: value}).strategies()
        assert str(told.value) == (f"strategy {name}: " if of_memory else "") + str(caught.value)


@pytest.mark.parametrize("capacity", [0, "0 kB"])
@pytest.mark.parametrize("name", [name for name, argument in NUMBERS if argument == "capacity"])
def test_a_capacity_of_zero_is_refused(name: str, capacity: int | str) -> None:
    with pytest.raises(ArgumentError, match=SAYS):
        STRATEGIES[name](capacity=capacity)


def test_fewer_bytes_than_a_row_takes_are_refused_with_the_first_rows() -> None:
    with pytest.raises(
        ArgumentError, match=r"memory.capacity: expected room for at least 1 row of 32 bytes, got 9 bytes; give"
    ):
        learner(Replay(capacity="9B")).learn(rows())


def rows(label: int | None = None) -> Batch:
    draw = torch.Generator().manual_seed(1)
    targets = torch.arange(17) % 3 if label is None else torch.full((17,), label)
    return Batch(torch.randn(17, 4, generator=draw), targets, task=torch.zeros(17, dtype=torch.int64))


def network(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def learner(*strategies: Strategy, model: nn.Module | None = None) -> Learner:
    kind = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    return Learner(network() if model is None else model, Multiclass(3), kind, list(strategies), batch_size=4)


@pytest.mark.parametrize(
    ("saved", "loads", "message"),
    [
        (lambda: learner(Replay(10)), lambda: learner(EWC()), "strategies: expected .* of EWC, got .* of Replay; use"),
        (lambda: learner(Replay(10)), learner, "strategies: expected the state of none, got that of Replay; use"),
        (learner, lambda: learner(Replay(10)), "strategies: expected the state of Replay, got that of none; use"),
        (lambda: learner(Replay(10)), lambda: learner(Replay(20)), r"0.memory.capacity: .* 10 rows, this one 20; use"),
        (
            lambda: learner(Replay(10, memory="balanced")),
            lambda: learner(Replay(10)),
            r"0.memory.kind: expected a saved memory of the kind reservoir, got balanced; use the same",
        ),
        (
            lambda: learner(Replay(10, memory="herding")),
            lambda: learner(Replay(10, memory="window")),
            r"0.memory.kind: expected .* kind window, got herding; use the same",
        ),
        (
            learner,
            lambda: learner(model=network(16)),
            r"model.0.weight: expected the state of .* \(16, 4\), got that of .* \(8, 4\); use",
        ),
    ],
)
def test_the_state_of_another_strategy_capacity_or_model_is_refused(
    saved: Callable[[], Learner], loads: Callable[[], Learner], message: str
) -> None:
    before = saved()
    before.learn(rows())
    with pytest.raises(IncrError, match=message):
        loads().load_state_dict(before.state_dict())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "icarl": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), NearestMean(8, 3)),
    "isolate": lambda: task_heads(network(), tasks=2),
    "slda": lambda: lda(network()),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_rows_of_one_class_are_learned_like_any_other(name: str) -> None:
    one = learner(STRATEGIES[name](), model=MODELS.get(name, network)())
    for increment in range(4):
        part = rows(label=1 if increment < 3 else None)
        part = with_task(part) if name == "isolate" else part
        update = one.learn(part)
        one.end(part)
        assert all(np.isfinite(value) for value in update.losses.values())
    assert all(value.isfinite().all() for value in one.weights().values())


@pytest.mark.parametrize("objective", ["binary", "multiclass"])
def test_a_stream_of_one_class_is_learned_and_measured_where_it_can_be(tmp_path: Path, objective: str) -> None:
    pq.write_table(pa.table({"x": np.arange(60.0), "y": np.ones(60, dtype=np.int64)}), tmp_path / "rows.parquet")
    text = f"""
        stream = {{ path = "rows.parquet", every = 20 }}
        features = {{ label = "y", numeric = ["x"] }}
        learner = {{ objective = "{objective}" }}
        strategy = [{{ name = "replay", capacity = 10, memory = "balanced" }}, {{ name = "ewc" }}]
    """
    (tmp_path / "job.toml").write_text(text)
    assert main(["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0


def test_an_increment_of_one_row_with_batch_norm_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"x": np.arange(21.0), "y": np.arange(21) % 2}), tmp_path / "rows.parquet")
    source = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))\n"
    (tmp_path / "normed.py").write_text(source)
    (tmp_path / "job.toml").write_text("""
        stream = { path = "rows.parquet", every = 10 }
        features = { label = "y", numeric = ["x"] }
        model = { factory = "normed:net" }
        learner = { objective = "binary" }
    """)
    assert main(["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert re.match(r"incr: learner: the model has BatchNorm, .* at least 2 rows .*, and there is 1; raise", told), told
    assert (tmp_path / "run" / "versions" / "2").exists(), "what was learned before it is committed"
