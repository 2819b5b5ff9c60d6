"""Classes that only a notebook has make a run that another process goes on with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

NOTEBOOK = """
import sys
import pandas as pd, torch
from torch import nn
from incr_core import Strategy, open_run

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))
    def forward(self, inputs):
        return self.layers(inputs)

class Shrink(Strategy):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate
    def after_step(self, ctx, batch, output):
        for weight in ctx.parameters:
            weight.mul_(1 - self.rate)

out, rows = sys.argv[1:]
run = open_run(out, stream=pd.read_parquet(rows), label="tall", every=100, seed=3,
               model={"factory": Net, "arguments": {"width": 4}}, strategies=[Shrink(0.01)]).run()
print(run.summary.model_sha256, run.champion.predict(pd.read_parquet(rows)).num_rows)
"""


def cell(*arguments: str) -> list[str]:
    """Run the notebook's cell in a process of its own, as `__main__`."""
    done = subprocess.run([sys.executable, "-c", NOTEBOOK, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    height, weight = np.random.default_rng(0).normal(size=(2, 400))
    pq.write_table(pa.table({"height": height, "weight": weight, "tall": height > 0}), tmp_path / "people.parquet")
    return tmp_path / "people.parquet"


@pytest.mark.slow
def test_classes_of_a_notebook_make_a_run_that_another_process_goes_on_with(tmp_path: Path, rows: Path) -> None:
    told = cell(str(tmp_path / "run"), str(rows))
    assert told[1] == "400"
    assert cell(str(tmp_path / "run"), str(rows)) == told
    assert not [file for file in (tmp_path / "run").rglob("*") if file.suffix in (".pkl", ".pt", ".pickle")]
