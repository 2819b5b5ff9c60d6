"""What a factory froze stays as it is: parts in eval mode, and norms whose weights do not learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models._modes import answering
from incr_core.objectives import Binary
from incr_core.strategies import EWC, GDumb, LwF, PackNet, Strategy

ROWS = Batch(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 1.0]).repeat(4))


def model_of() -> nn.Sequential:
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    return nn.Sequential(body, nn.BatchNorm1d(4), nn.Linear(4, 1))


def frozen_body() -> nn.Sequential:
    model = model_of()
    model[0].eval()
    return model


def untaught_norm() -> nn.Sequential:
    model = model_of()
    model[0].requires_grad_(False)
    return model


def as_pretrained() -> nn.Sequential:
    return model_of().eval()


def moved(learner: Learner) -> list[str]:
    """The norms whose statistics have moved."""
    norms = [(name, part) for name, part in learner.model.named_modules() if isinstance(part, nn.BatchNorm1d)]
    return [name for name, part in norms if bool(part.running_mean.any())]  # type: ignore[union-attr]


NONE: Callable[[], Sequence[Strategy]] = list


@pytest.mark.parametrize(
    "strategies",
    [NONE, lambda: [EWC(1.0), LwF(1.0)], lambda: [GDumb(20, passes=1)], lambda: [PackNet(0.5, tasks=3)]],
    ids=["none", "pulled", "gdumb", "packnet"],
)
@pytest.mark.parametrize(
    ("make", "expected"), [(frozen_body, ["1"]), (untaught_norm, ["1"]), (as_pretrained, ["0.1", "1"])]
)
def test_statistics_move_where_nothing_is_frozen(
    make: Callable[[], nn.Module], expected: list[str], strategies: Callable[[], Sequence[Strategy]]
) -> None:
    """Also where strategies put the model in training mode themselves."""
    learner = Learner(make(), Binary(), torch.optim.SGD, strategies(), batch_size=4)
    for _ in range(2):
        learner.learn(ROWS)
        learner.predict(ROWS.inputs)
    assert moved(learner) == expected


def test_dropout_in_a_frozen_part_stays_off() -> None:
    """Its loss is that of the same model without."""

    def loss(model: nn.Sequential) -> float:
        return Learner(model, Binary(), torch.optim.SGD, batch_size=8, shuffle=False).learn(ROWS).losses["loss"]

    torch.manual_seed(0)
    frozen = frozen_body()
    torch.manual_seed(0)
    without = frozen_body()
    without.get_submodule("0").register_module("2", nn.Identity())
    torch.manual_seed(0)
    live = model_of()
    assert loss(frozen) == loss(without) != loss(live)


def test_weights_of_a_part_in_eval_mode_learn_on() -> None:
    model = frozen_body()
    before = model.get_parameter("0.0.weight").detach().clone()
    Learner(model, Binary(), torch.optim.SGD).learn(ROWS)
    assert not torch.equal(model.get_parameter("0.0.weight"), before)


def test_a_norm_without_weights_learns_its_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 1))
    learner = Learner(model, Binary(), torch.optim.SGD)
    learner.learn(ROWS)
    assert moved(learner) == ["0"]


def test_a_second_learner_finds_the_same_parts_frozen() -> None:
    model = frozen_body()
    for _ in range(2):
        learner = Learner(model, Binary(), torch.optim.SGD)
        learner.learn(ROWS)
        learner.predict(ROWS.inputs)
        assert moved(learner) == ["1"]
    assert [len(part._forward_pre_hooks) for part in model[0].modules()] == [1, 1, 1, 1]


def test_a_jobs_factory_keeps_its_modes(tmp_path: Path) -> None:
    """The row that it is tried out on does not put them all in training mode."""
    (tmp_path / "part_frozen.py").write_text(
        "from torch import nn\n"
        "def model():\n"
        "    return nn.Sequential(nn.BatchNorm1d(1).eval(), nn.BatchNorm1d(1), nn.Linear(1, 1))\n"
    )
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": [0, 1]}), tmp_path / "rows.parquet")
    job = Job.from_document(
        {
            "name": "frozen",
            "root": str(tmp_path),
            "stream": {"path": str(tmp_path / "rows.parquet"), "every": 2},
            "features": {"label": "y", "numeric": ["x"], "classes": [0, 1]},
            "model": {"factory": "part_frozen:model"},
            "learner": {"objective": "binary", "optimizer": {"name": "sgd", "lr": 0.1}},
        }
    )
    learner = job.learner_for(1)
    learner.learn(Batch(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 1.0])))
    assert moved(learner) == ["1"]


def test_answering_puts_every_part_back() -> None:
    model = frozen_body()
    before = [part.training for part in model.modules()]
    with answering(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == before


class Noisy(nn.Module):
    """A part of somebody's own that looks at its mode."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + 1.0 if self.training else inputs


def test_any_module_may_be_frozen() -> None:
    model = nn.Sequential(Noisy().eval(), nn.Linear(4, 1))
    learner = Learner(model, Binary(), torch.optim.SGD, batch_size=8, shuffle=False)
    expected = float(learner.objective(model[1](ROWS.inputs).detach(), ROWS.targets))
    assert learner.learn(ROWS).losses["loss"] / 8 == pytest.approx(expected)
