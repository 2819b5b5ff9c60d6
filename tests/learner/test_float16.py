"""float16: a backward that overflows is run again at a smaller scale, so every step is taken and every row learned."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.job import Job
from incr_core.learner import Learner, Schedule
from incr_core.numerics import LossScale
from incr_core.objectives import Binary
from incr_core.registry import RunDirectory
from incr_core.runs import run
from incr_core.storage.packing import pack, unpack
from incr_core.strategies import SI, Replay, Strategy

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
TOO_MUCH = 2.0**40


def rows_of(count: int = 96) -> Batch:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return Batch(inputs, (inputs[:, 0] > 0).float())


def make(*strategies: Strategy, scale: float = 2.0**16, device: str = "cpu", **arguments: Any) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).to(device)
    schedule = Schedule(partial(lr_scheduler.StepLR, step_size=1, gamma=0.9))
    learner = Learner(
        model,
        Binary(),
        partial(torch.optim.SGD, lr=0.1),
        strategies,
        batch_size=16,
        precision="float16",
        schedule=schedule,
        **arguments,
    )
    assert learner.descent.scale is not None
    learner.descent.scale.factor = scale
    return learner


def scale_of(learner: Learner) -> LossScale:
    assert learner.descent.scale is not None
    return learner.descent.scale


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_overflow_changes_nothing_but_the_scale(accumulate: int, device: str) -> None:
    """With a planted overflow, steps, schedule, statistics, SI's path and weights are those of a scale that fits."""
    fits, planted = SI(), SI()
    one = make(fits, device=device, accumulate=accumulate, clip=1.0)
    other = make(planted, scale=TOO_MUCH, device=device, accumulate=accumulate, clip=1.0)
    updates = [learner.learn(rows_of()) for learner in (one, other)]
    assert scale_of(other).factor < TOO_MUCH
    assert [update.num_rows for update in updates] == [96, 96]
    assert one.context.step == other.context.step == 6 // accumulate
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9 ** (6 // accumulate))
    assert other.weights()["model.1.num_batches_tracked"] == 6
    for name, value in one.weights().items():
        torch.testing.assert_close(other.weights()[name], value, rtol=2e-3, atol=2e-4)
    for found, expected in zip(planted.importance.tensors(), fits.importance.tensors(), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-3)


def test_scaling_by_a_power_of_two_rounds_nothing() -> None:
    weight, plain = (nn.Parameter(torch.tensor([0.3, -1.7])) for _ in range(2))
    scale = LossScale(factor=2.0**10)
    for target in (0.1, 0.9):
        assert scale.backward(((weight - target) ** 2).sum(), [weight])
        ((plain - target) ** 2).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert plain.grad is not None
    assert torch.equal(weight.grad, plain.grad)


def test_the_scale_doubles_after_many_steps_and_halves_to_what_fits() -> None:
    weight, scale = nn.Parameter(torch.tensor([1.0])), LossScale(factor=2.0, interval=3)
    for _ in range(3):
        assert scale.backward(weight.sum(), [weight])
        scale.stepped()
    assert scale.state_dict() == {"scale": 4.0, "since": 0}
    scale.stepped()
    scale.factor = 2.0**130
    # float32 holds numbers below 2^128, so of a gradient of 1.
    assert scale.backward(weight.sum(), [weight])
    assert scale.state_dict() == {"scale": 2.0**127, "since": 0}
    again = LossScale()
    again.load_state_dict(scale.state_dict())
    assert again.state_dict() == scale.state_dict()


def test_a_gradient_that_no_scale_holds_is_told_and_its_step_not_taken() -> None:
    class Overflows(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * math.inf

    class Model(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = Overflows.apply(super().forward(inputs))  # type: ignore[no-untyped-call]
            return output

    learner = Learner(Model(4, 1), Binary(), torch.optim.SGD, batch_size=16, precision="float16")
    before = {name: value.clone() for name, value in learner.weights().items()}
    update = learner.learn(rows_of(32))
    assert update.num_rows == 0
    assert update.losses["norm of the gradient"] == math.inf
    assert learner.context.step == 0
    assert scale_of(learner).factor == 2.0**16  # it is not the scale's fault
    assert all(torch.equal(value, before[name]) for name, value in update.weights.items())
    assert all(weight.grad is None for weight in learner.model.parameters())


def test_an_increment_whose_gradients_overflow_goes_to_quarantine(tmp_path: Path) -> None:
    """Through a job: every row is in exactly one place, the ledger or the quarantine."""
    (tmp_path / "steep.py").write_text(
        "import torch\n"
        "class Steep(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(1, 1)\n"
        "    def forward(self, inputs):\n"
        "        output = super().forward(inputs.clamp(max=10.0))\n"
        "        if output.requires_grad and bool((inputs > 1e4).any()):\n"
        "            output.register_hook(lambda gradient: gradient * float('inf'))\n"
        "        return output\n"
    )
    x = [float(value % 3) for value in range(60)]
    x[25] = 1e6  # in the third increment of ten rows
    pq.write_table(pa.table({"x": x, "y": [value % 2 for value in range(60)]}), tmp_path / "rows.parquet")
    job = Job.from_document(
        {
            "name": "half",
            "root": str(tmp_path),
            "stream": {"path": str(tmp_path / "rows.parquet"), "every": 10},
            "features": {"label": "y", "numeric": ["x"], "classes": [0, 1]},
            "model": {"factory": "steep:Steep"},
            "learner": {
                "objective": "binary",
                "precision": "float16",
                "batch_size": 5,
                "optimizer": {"name": "sgd", "lr": 0.01},
            },
        }
    )
    summary = run(job, tmp_path / "run").summary
    directory = RunDirectory.open(tmp_path / "run")
    ranges = [pair for pairs in directory.table("ledger")["ranges"].to_pylist() for pair in pairs]
    learned = {row for pair in ranges for row in range(pair["start"], pair["stop"])}
    assert learned == {*range(60)} - {*range(20, 30)}
    assert sorted(directory.table("quarantine")["row"].to_pylist()) == [*range(20, 30)]
    assert summary.rows_learned == 50
    assert {*directory.table("quarantine")["reason"].to_pylist()} == {"in rows 20-29, the norm of the gradient is inf"}


def test_a_run_goes_on_with_the_scale_that_it_had() -> None:
    def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
        tensors, rest = pack(state)
        found: dict[str, Any] = unpack(tensors, json.loads(json.dumps(rest)))
        return found

    stopped, fresh = make(Replay(50), scale=TOO_MUCH), make(Replay(50))
    stopped.begin(rows_of())
    stopped.advance(3)
    fresh.adopt(stopped.weights())
    fresh.load_state_dict(through_a_file(stopped.state_dict()))
    assert scale_of(fresh).state_dict() == scale_of(stopped).state_dict()
    fresh.learn(rows_of())
    stopped.advance()
    for name, value in stopped.weights().items():
        assert torch.equal(fresh.weights()[name], value), name


def test_the_state_of_torchs_scaler_is_taken() -> None:
    scale = LossScale()
    scale.load_state_dict({"scale": 512.0, "growth_factor": 2.0, "growth_interval": 2000, "_growth_tracker": 7})
    assert scale.state_dict() == {"scale": 512.0, "since": 7}


def test_it_learns() -> None:
    learner = make(Replay(50), epochs=8)
    learner.descent.schedule = None
    learner.learn(rows_of(400))
    inputs = rows_of(400).inputs
    assert float(((learner.predict(inputs) > 0.5) == rows_of(400).targets.bool()).float().mean()) > 0.9


def test_weights_in_half_precision_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1).half())
    with pytest.raises(
        ArgumentError, match=r"^learner.precision: expected weights in float32 .* got 1.weight in float16; "
    ):
        Learner(model, Binary(), torch.optim.SGD, precision="float16")
