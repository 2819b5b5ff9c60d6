"""A run of Python objects: your own module and strategy, tables as they arrive, no job file.

    python examples/notebook/notebook.py runs/notebook

The code also runs as a notebook cell. Run again on the next day, the cell continues the run.
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from incr_core import Batch, Run, Strategy, open_run
from incr_core.strategies import Context, Replay


class Net(nn.Module):
    """A small network. `open_run` passes the shape of a row."""

    def __init__(self, shape: object, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shape.numeric, width), nn.ReLU(), nn.Linear(width, 1))  # type: ignore[attr-defined]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit a row, (B,)."""
        logit: Tensor = self.layers(inputs)
        return logit


class Decay(Strategy):
    """Pull all weights towards zero, a little after every step."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """w <- (1 - rate) w."""
        for weight in ctx.parameters:
            weight.mul_(1 - self.rate)


def day(number: int, rows: int = 400) -> pa.Table:
    """Return the rows of a day. Their label changes with the days."""
    x = np.random.default_rng(number).normal(size=(rows, 2))
    return pa.table({"a": x[:, 0], "b": x[:, 1], "label": (x[:, 0] + 0.2 * number * x[:, 1] > 0).astype(int)})


def run(out: str, days: int) -> Run:
    """Learn a number of days. Days of an earlier call are not learned again."""
    return open_run(
        out,
        stream=[day(number) for number in range(days)],
        model={"factory": Net, "arguments": {"width": 16}},
        strategies=[Replay(capacity=500), Decay(1e-4)],
        every=200,
        seed=1,
    ).run()


if __name__ == "__main__":
    out = sys.argv[1] if len(sys.argv) > 1 else "runs/notebook"
    run(out, days=3)
    learned = run(out, days=5)  # two more days have arrived
    print(learned)
    print(learned.champion.predict(day(5)).slice(0, 3).to_pylist())
    learned.promote(2)
    print(f"served now: version {learned.champion.number}, of {len(learned.versions)}")
