"""`[[model.adapt]]` in a job file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.errors import JobError, StrategyError, StreamError
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import Version, run

pytestmark = pytest.mark.slow

JOB = """
[stream]
path = "people.parquet"
every = 500

[features]
label = "tall"
numeric = ["height", "weight"]

[model]
hidden = [8]

[[model.adapt]]
name = "lora"
rank = 2
target = "layers.*"

[[model.adapt]]
name = "freeze"
names = "layers.2.*"

[learner]
objective = "binary"
"""


def read(table: Path, text: str = JOB) -> Job:
    path = table.parent / "job.toml"
    path.write_text(text)
    return Job.read(path)


def test_adaptations_are_made_in_order_and_read_back(table: Path) -> None:
    job = read(table)
    assert read(table, job.toml()) == job
    learner = job.participant().learner
    assert learner.context.names == ["layers.0.down", "layers.0.up"]
    again = job.participant().learner
    assert all(torch.equal(a, b) for a, b in zip(learner.weights().values(), again.weights().values(), strict=True))


def test_icarl_learns_from_a_job_with_the_head_it_needs(table: Path, tmp_path: Path) -> None:
    start, stop = JOB.index("[[model.adapt]]"), JOB.index("[learner]")
    text = JOB.replace('"tall"', '"size"').replace('"binary"', '"multiclass"') + '\n[[strategy]]\nname = "icarl"\n'
    with pytest.raises(StrategyError, match=r'icarl: .* got Linear; .* \[\[model.adapt\]\] name = "nearest_mean"'):
        read(table, text[:start] + text[stop:]).participant()
    job = read(table, text[:start] + '[[model.adapt]]\nname = "nearest_mean"\n' + text[stop:])
    summary = run(job, tmp_path / "run").summary
    weights, _ = RunDirectory.open(tmp_path / "run").load()
    known = next(value for name, value in weights.items() if name.endswith("known"))
    assert known.all()
    assert summary.prequential["accuracy"] > 0.4


def test_a_function_of_ones_own_adapts_too(table: Path) -> None:
    (table.parent / "own_adaptation.py").write_text(
        "def still(model, part):\n    model.get_submodule(part).requires_grad_(False)\n    return model\n"
    )
    text = JOB.replace('"freeze"\nnames = "layers.2.*"', '"own_adaptation:still"\npart = "layers.0"')
    assert read(table, text).participant().learner.context.names == ["layers.2.down", "layers.2.up"]


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('"lora"', '"lorra"', JobError, "model.adapt.name: expected an adaptation, got 'lorra'; did you mean 'lora'"),
        ("rank = 2", "rnk = 2", JobError, "model.adapt lora: .*rnk.*; it takes rank, alpha, target, train"),
        ("rank = 2", "rank = 0", JobError, "model.adapt lora.rank: expected 1 or more, got 0"),
        ('"layers.2.*"', '"layer.2.*"', JobError, "model.adapt freeze.names: expected a pattern that matches a weight"),
    ],
)
def test_a_typo_is_named(table: Path, old: str, new: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(table, JOB.replace(old, new)).participant()


@pytest.mark.parametrize(
    "adapt",
    ['name = "experts"\ntasks = 2\nfeatures = 2', 'name = "experts"\ntasks = 2', 'name = "freeze"\ntrain = "*"'],
)
def test_rows_to_predict_need_no_task_but_where_the_model_must_be_told_it(
    table: Path, tmp_path: Path, adapt: str
) -> None:
    """Experts with a gate guess it; a model that is not told it does not care; experts without a gate must be told."""
    people = pq.read_table(table)
    told = people.append_column("turn", pa.array([int(colour == "red") for colour in people["colour"].to_pylist()]))
    pq.write_table(told, table)
    start, _, end = JOB.partition('[[model.adapt]]\nname = "lora"')
    end = end[end.index("[learner]") :]
    text = start.replace("[features]", '[features]\ntask = "turn"') + f"[[model.adapt]]\n{adapt}\n\n{end}"
    run(read(table, text), tmp_path / "run")
    version = Version.load(tmp_path / "run")
    pq.write_table(people, tmp_path / "untold.parquet")
    if "experts" in adapt and "features" not in adapt:
        with pytest.raises(StreamError, match='expected a column "turn"'):
            version.predict(tmp_path / "untold.parquet")
        return
    guessed = version.predict(tmp_path / "untold.parquet")["probability"].to_numpy()
    known = version.predict(table)["probability"].to_numpy()
    assert (guessed == known).all() == ("experts" not in adapt)
    assert version.evaluate(tmp_path / "untold.parquet")["auc"] > 0.5
