"""Objects of this process travel to the actors of a cluster; the engine comes with its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from torch import Tensor, nn

from cluster import Cluster
from incr_core import Run, Strategy, open_run
from incr_core.batch import Batch
from incr_core.errors import RunDirectoryError
from incr_core.strategies import Context
from tests.support.made_up import made_up

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def opened(out: Path, *tables: pa.Table) -> Run:
    """A run of classes that no module has, as those of a notebook."""

    class Net(nn.Module):
        def __init__(self, shape: Any, width: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.BatchNorm1d(shape.numeric), nn.Linear(shape.numeric, width), nn.ReLU(), nn.Linear(width, 1)
            )

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.layers(inputs)
            return found

    class Shrink(Strategy):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate = rate

        def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
            for weight in ctx.parameters:
                weight.mul_(1 - self.rate)

    model = {"factory": Net, "arguments": {"width": 4}}
    return open_run(out, stream=list(tables), label="tall", every=50, model=model, strategies=[Shrink(0.01)], seed=2)


def test_one_replica_learns_what_one_process_does_and_goes_on_with_new_tables(tmp_path: Path) -> None:
    first, second = (made_up(150, seed).select(["height", "weight", "tall"]) for seed in (0, 1))
    local = opened(tmp_path / "local", first, second).run().summary
    one = opened(tmp_path / "one", first).run(on=Cluster(replicas=1))
    assert one.summary.engine == "cluster"
    assert one.job.cluster.replicas == 1
    grown = opened(tmp_path / "one", first, second)
    with pytest.raises(RunDirectoryError, match="engine: cluster there, local here"):
        grown.run()  # it began elsewhere
    assert grown.run(on=Cluster(replicas=1)).summary.model_sha256 == local.model_sha256
