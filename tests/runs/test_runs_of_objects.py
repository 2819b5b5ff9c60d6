"""A run of what Python holds is the run of the same job in a file, to the bit; a run that goes on is given the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from incr_core import Job, Objective, Run, Strategy, open_run, run
from incr_core.batch import Batch
from incr_core.commands.cli import main
from incr_core.errors import CheckpointError, JobError, RunDirectoryError, StreamError
from incr_core.job import FeaturesSection, LearnerSection, ModelSection, StreamSection
from incr_core.objectives import Binary
from incr_core.registry import RunDirectory
from incr_core.registry.ledger import count
from incr_core.strategies import Context, Replay
from tests.support.made_up import made_up

pytestmark = pytest.mark.slow


class Net(nn.Module):
    def __init__(self, shape: Any, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shape.numeric, width), nn.ReLU(), nn.Linear(width, shape.outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layers(inputs)
        return found


class Drifting(Strategy):
    """Moves every weight by a constant after a step."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        for weight in ctx.parameters:
            weight.add_(self.step)


class Tilted(Binary):
    """Errors on rows of the second class count `tilt` times."""

    def __init__(self, tilt: float = 2.0) -> None:
        super().__init__()
        self.tilt = tilt

    def rows(self, output: Tensor, targets: Tensor) -> Tensor:
        return super().rows(output, targets) * torch.where(targets > 0, self.tilt, 1.0)


def people(rows: int = 400, seed: int = 0) -> pa.Table:
    table = made_up(rows, seed)
    height, weight = (table["height"].to_numpy() - 170) / 10, (table["weight"].to_numpy() - 70) / 12
    return pa.table({"height": height, "weight": weight, "tall": table["tall"]})


KEYS: dict[str, Any] = {"label": "tall", "every": 100, "batch_size": 16, "seed": 3}
OWN: dict[str, Any] = {
    "model": {"factory": Net, "arguments": {"width": 5}},
    "objective": Tilted(3.0),
    "strategies": [Replay(capacity=50), Drifting(1e-3)],
}


def in_a_file(folder: Path, text: str) -> Job:
    (folder / "job.toml").write_text(text)
    return Job.read(folder / "job.toml")


def test_a_run_of_objects_is_the_run_of_the_same_job_in_a_file(tmp_path: Path) -> None:
    pq.write_table(people(), tmp_path / "people.parquet")
    job = in_a_file(
        tmp_path,
        """
        stream = { path = "people.parquet", every = 100 }
        features = { label = "tall" }
        model = { factory = "tests.runs.test_runs_of_objects:Net", arguments = { width = 5 } }
        learner = { objective = "tests.runs.test_runs_of_objects:tilted", batch_size = 16, seed = 3 }
        strategy = [
            { name = "replay", capacity = 50 },
            { name = "tests.runs.test_runs_of_objects:Drifting", step = 0.001 },
        ]
        """,
    )
    told = run(job, tmp_path / "told").summary
    held = open_run(tmp_path / "held", stream=people(), **KEYS, **OWN).run().summary
    assert (held.model_sha256, held.prequential) == (told.model_sha256, told.prequential)
    assert held.rows_learned == 400
    # Each of the objects matters.
    for name in OWN:
        less = {key: value for key, value in OWN.items() if key != name}
        assert open_run(tmp_path / name, stream=people(), **KEYS, **less).run().summary.model_sha256 != (
            held.model_sha256
        ), name


def tilted() -> Objective:
    return Tilted(3.0)


def test_what_has_names_is_written_by_its_names_and_needs_no_python_afterwards(tmp_path: Path) -> None:
    pq.write_table(people(), tmp_path / "people.parquet")
    found = open_run(
        tmp_path / "run", stream=tmp_path / "people.parquet", objective=Binary, strategies=[Replay(capacity=50)], **KEYS
    )
    found.run()
    assert found.job.document()["strategy"] == [{"name": "replay", "capacity": 50}]
    assert "object:" not in (tmp_path / "run/job.toml").read_text()
    again = Run(tmp_path / "run")
    assert again.run().summary.model_sha256 == found.summary.model_sha256
    assert again.champion.predict(people()) == found.champion.predict(tmp_path / "people.parquet")


@pytest.mark.parametrize("kind", ["arrow", "batch", "pandas", "dict", "parts", "function"])
def test_tables_of_all_kinds_are_one_stream(kind: str, tmp_path: Path) -> None:
    table = people()
    frame = table.to_pandas()
    frame.index = frame.index[::-1]  # where rows lie, and no feature
    streams = {
        "arrow": table,
        "batch": table.to_batches()[0],
        "pandas": frame,
        "dict": {name: table[name].to_numpy() for name in table.column_names},
        "parts": [table[:150], table[150:]],
        "function": lambda: iter([table[:150], table[150:]]),
    }
    found = open_run(tmp_path / kind, stream=streams[kind], **KEYS).run()
    assert found.job.features.numeric == ["height", "weight"]
    assert found.summary.model_sha256 == open_run(tmp_path / "whole", stream=table, **KEYS).run().summary.model_sha256


def test_the_batches_of_a_loader_are_increments_of_inputs_and_targets(tmp_path: Path) -> None:
    table = people()
    inputs = torch.tensor(np.stack([table["height"], table["weight"]], 1), dtype=torch.float32)
    targets = torch.tensor(table["tall"].to_numpy())
    loader = DataLoader(TensorDataset(inputs[:, None], targets), batch_size=100)  # of any shape: laid out flat
    found = open_run(tmp_path / "run", stream=loader, batch_size=16, seed=3).run()
    columns = pa.table(
        {"inputs": pa.FixedSizeListArray.from_arrays(inputs.flatten().numpy(), 2), "label": targets.numpy()}
    )
    plain = open_run(tmp_path / "plain", stream=columns, every=100, batch_size=16, seed=3).run()
    assert found.summary.model_sha256 == plain.summary.model_sha256
    assert [version.rows for version in found.versions] == [100] * 4
    assert found.champion.predict(inputs) == plain.champion.predict(columns)
    with pytest.raises(
        StreamError,
        match="expected a DataLoader that gives the same rows in the same order again, got one "
        "with a RandomSampler; make it with shuffle=False",
    ):
        open_run(tmp_path / "drawn", stream=DataLoader(TensorDataset(inputs, targets), shuffle=True))


def test_classes_are_found_in_tables_at_hand(tmp_path: Path) -> None:
    table = made_up(200).select(["height", "weight", "size"])
    found = open_run(tmp_path / "run", stream=[table], label="size", objective="multiclass", every=50).run()
    assert found.job.features.classes == ["large", "medium", "small"]
    assert set(found.champion.predict(table)["class"].to_pylist()) <= {"large", "medium", "small"}
    with pytest.raises(
        JobError, match=r"features\.classes: expected the classes by name where stream.path is a function"
    ):
        open_run(tmp_path / "endless", stream=lambda: iter([table]), label="size", objective="multiclass")


class Stop(Exception):
    pass


def test_a_run_killed_midway_goes_on_with_the_same_objects_to_the_same_bits(tmp_path: Path) -> None:
    whole = open_run(tmp_path / "whole", stream=people(), **KEYS, **OWN).run()

    def die(name: str, progress: Any) -> None:
        if progress.rows >= 300:
            raise Stop

    with pytest.raises(Stop):
        open_run(tmp_path / "parts", stream=people(), **KEYS, **OWN).run(on_progress=die)
    parts = open_run(tmp_path / "parts", stream=people(), **KEYS, **OWN)
    assert (len(parts.versions), parts.versions[-1].rows) == (2, 100)  # the third was not committed yet
    assert parts.run().summary.model_sha256 == whole.summary.model_sha256
    assert parts.summary.prequential == whole.summary.prequential


def test_new_tables_behind_those_learned_are_learned_and_none_twice(tmp_path: Path) -> None:
    first, second = people(), people(200, seed=1)
    open_run(tmp_path / "run", stream=[first], **KEYS, **OWN).run()
    grown = open_run(tmp_path / "run", stream=[first, second], **KEYS, **OWN).run()
    whole = open_run(tmp_path / "whole", stream=[first, second], **KEYS, **OWN).run()
    assert grown.summary.model_sha256 == whole.summary.model_sha256
    assert count(RunDirectory.open(tmp_path / "run").table("ledger")) == 600
    for given, what in (([first[:399], second], "400 rows then, 399 now"), ([second, first], "400 rows then, 200 now")):
        with pytest.raises(StreamError, match=rf"part 0 has changed since the run read it \({what}\); give the same"):
            open_run(tmp_path / "run", stream=given, **KEYS, **OWN).run()
    changed = people().to_pandas()
    changed.loc[7, "height"] += 1
    with pytest.raises(StreamError, match=r"\(400 rows as then, but others\)"):
        open_run(tmp_path / "run", stream=[changed, second], **KEYS, **OWN).run()
    assert Run(tmp_path / "run").summary == grown.summary


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"strategies": [Replay(capacity=50), Drifting(1e-4)]},
            r"Drifting\(0.001\)' there, .*Drifting\(0.0001\)' here",
        ),
        ({"strategies": [Replay(capacity=60), Drifting(1e-3)]}, r"strategy\[0\].capacity: 50 there, 60 here"),
        ({"model": {"factory": Net, "arguments": {"width": 6}}}, r"Net\(width=5\)' there, .*Net\(width=6\)' here"),
        ({"objective": Tilted()}, r"Tilted\(3.0\)' there, .*Tilted\(\)' here"),
        ({"seed": 4}, r"learner.seed: 3 there, 4 here"),
    ],
)
def test_other_objects_are_another_run(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    open_run(tmp_path / "run", stream=people(), **KEYS, **OWN).run()
    with pytest.raises(RunDirectoryError, match=rf"holds the run of another job: [^;]*{told}"):
        open_run(tmp_path / "run", stream=people(), **{**KEYS, **OWN, **change})


def test_a_module_is_copied_with_its_weights_which_make_the_run(tmp_path: Path) -> None:
    def module(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(2, 1)

    mine = module(0)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    frozen = open_run(tmp_path / "frozen", stream=people(), model=mine, frozen=True, **KEYS).run()
    wanted = torch.sigmoid(mine(torch.tensor(np.stack([people()["height"], people()["weight"]], 1)).float()))
    assert frozen.champion.predict(people())["probability"].to_numpy() == pytest.approx(
        wanted.detach().flatten().numpy(), abs=1e-6
    )
    learned = open_run(tmp_path / "run", stream=people(), model=mine, **KEYS).run()
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    again = open_run(tmp_path / "run", stream=people(), model=module(0), **KEYS).run()
    assert again.summary.model_sha256 == learned.summary.model_sha256
    with pytest.raises(RunDirectoryError, match=r"Linear, layers \w+, 3 weights \w+' there, .* here; choose another"):
        open_run(tmp_path / "run", stream=people(), model=module(1), **KEYS)


def test_a_class_that_was_changed_under_its_name_is_noticed(tmp_path: Path) -> None:
    def net(width: int) -> type[nn.Module]:
        class Changing(nn.Sequential):
            def __init__(self) -> None:
                super().__init__(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1))

        return Changing

    open_run(tmp_path / "run", stream=people(), model=net(3), **KEYS).run()
    with pytest.raises(CheckpointError, match=r"layers|weight|0\.weight"):
        open_run(tmp_path / "run", stream=[people(), people(100, 1)], model=net(4), **KEYS).run()


def test_promotion_and_versions_and_whoever_asks_for_what_is_not_there(tmp_path: Path) -> None:
    found = open_run(tmp_path / "run", stream=people(), **KEYS, **OWN)
    assert repr(found).endswith("nothing learned yet")
    with pytest.raises(RunDirectoryError, match=r"summary.json: expected the numbers of a run that has ended"):
        _ = found.summary
    found.run()
    versions = found.versions
    assert [(one.number, one.rows, one.increment, one.after) for one in versions][1] == (2, 100, 1, "rows 100-199")
    assert versions[-1].metrics == pytest.approx(found.summary.prequential, nan_ok=True)
    latest, second = found.champion.predict(people()), found.version(2).predict(people())
    assert latest != second
    found.promote(2)
    assert [one.number for one in found.versions if one.champion] == [2]
    assert found.champion.predict(people()) == second
    assert open_run(tmp_path / "run", stream=people(), **KEYS, **OWN).champion.number == 2
    assert "version 4, champion 2" in repr(found)
    assert found.champion.evaluate(people())["rows"] == 400
    assert found.report.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(RunDirectoryError, match="expected a run directory, found none"):
        Run(tmp_path / "nothing")


def test_rows_are_erased_from_a_run_of_objects(tmp_path: Path) -> None:
    found = open_run(tmp_path / "run", stream=people(), **KEYS, **OWN).run()
    tall = people()["height"][17].as_py()
    assert found.erase(f"height={tall}")["learned"] == 1
    told = found.erase(pa.table({"fragment": ["part 0"] * 400, "offset": np.arange(400)}))
    assert (told["rows"], told["learned"], told["remembered"]) == (400, 400, 50 if told["remembered"] == 50 else 49)


def test_the_command_line_says_that_a_run_of_objects_needs_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_run(tmp_path / "run", stream=people(), **KEYS, **OWN).run()
    pq.write_table(people(), tmp_path / "people.parquet")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "people.parquet")]) == 2
    assert "expected an object that only Python has, got none, since the run was begun with incr_core.open_run" in (
        capsys.readouterr().err
    )
    # What needs no object is done.
    assert main(["versions", str(tmp_path / "run")]) == 0
    assert main(["promote", str(tmp_path / "run"), "2"]) == 0
    assert "champion: version 2 (was 4)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batchsize": 3}, "open_run: expected a key, got 'batchsize'; did you mean 'batch_size'?"),
        ({"model": 3}, "model: expected a module, its class, or a function that makes it, got int"),
        (
            {"strategies": [nn.ReLU()]},
            r"strategies\[0\]: expected a name, or a class that inherits from incr_core.Strategy",
        ),
        (
            {"strategies": [Drifting(cast(float, object()))]},
            r"strategies\[0\]: expected arguments that can be known again when the run",
        ),
        ({"objective": Binary(None)}, 'objective: expected "binary" by its name'),
    ],
)
def test_what_cannot_be_meant_is_said(wrong: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=told):
        open_run(tmp_path / "run", stream=people(), **{**KEYS, **wrong})


def test_a_stream_of_what_is_no_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"part 1: expected a table .* got int; convert it first"):
        open_run(tmp_path / "run", stream=[people(), 3], **KEYS).run()


@pytest.mark.parametrize(
    "column",
    [[1, "x"] * 10, pd.arrays.SparseArray([0, 1] * 10), [1j] * 20, [object()] * 20],
    ids=["mixed", "sparse", "complex", "objects"],
)
def test_a_frame_that_arrow_cannot_take_is_said(column: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(20.0), "y": [0, 1] * 10}).assign(z=column)
    with pytest.raises(StreamError, match=r"part 0: expected rows that Arrow can hold, .* got a DataFrame of which"):
        open_run(tmp_path / "run", stream=frame, label="y").run()


def test_no_key_is_of_two_sections() -> None:
    """They are given without their sections."""
    sections: list[type[BaseModel]] = [StreamSection, FeaturesSection, ModelSection, LearnerSection, Job]
    names = [name for section in sections for name in section.model_fields]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_frames_of_pandas_with_categories(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0] * 20, "kind": pd.Categorical(["a", "b"] * 20), "y": [0, 1] * 20})
    found = open_run(tmp_path / "run", stream=frame, label="y", every=10).run()
    assert (found.job.features.numeric, found.job.features.categorical) == (["x"], ["kind"])
    assert (
        F.binary_cross_entropy(
            torch.tensor(found.champion.predict(frame)["probability"].to_numpy()),
            torch.tensor(frame["y"].to_numpy()).float(),
        )
        < 1.0
    )
