"""`incr export --prune`, and the export of a model that was pruned while it learned."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from incr_core.commands.cli import main
from incr_core.errors import ArgumentError, JobError
from incr_core.export._smaller import check_share, prune_globally
from incr_core.job import Job
from incr_core.runs import Version, run
from tests.support.made_up import made_up

pytestmark = pytest.mark.slow

HELD_BACK = made_up(200, seed=5)


def learned(out: Path, adapt: str = "", hidden: str = "[32, 16]") -> Version:
    pq.write_table(made_up(600), out / "rows.parquet")
    (out / "job.toml").write_text(f"""
[stream]
path = "rows.parquet"
every = 100

[features]
label = "tall"
numeric = ["height", "weight"]
categorical = ["colour"]
buckets = 8

[model]
hidden = {hidden}
{adapt}

[learner]
objective = "binary"
optimizer = {{ name = "adam", lr = 0.01 }}
""")
    return run(Job.read(out / "job.toml"), out / "run").champion


def test_the_smallest_weights_of_all_layers_together_become_zero(tmp_path: Path) -> None:
    version = learned(tmp_path)
    record = version.export(tmp_path / "out", "safetensors", check=HELD_BACK, prune=0.6)
    found = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    own = {name: value for name, value in version.learner.model.state_dict().items() if name in found}
    layers = [name for name in own if name.startswith("layers.") and own[name].ndim == 2]
    assert len(layers) == 3
    sizes = torch.cat([own[name].abs().flatten() for name in layers])
    bound = sizes.sort().values[round(0.6 * len(sizes)) - 1]
    for name, value in own.items():
        kept = value.abs() > bound if name in layers else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(found[name], torch.where(kept, value, 0.0)), name
    assert record["linear_weights"] == {"weights": len(sizes), "zero": round(0.6 * len(sizes))}
    assert record["size"]["after"]["zipped"] < record["size"]["before"]["zipped"]
    assert record["size"]["after"]["bytes"] == record["files"]["model.safetensors"]["bytes"]
    assert record["check"]["largest_difference"] > 1e-4
    assert record["check"]["allowed"] is None
    assert record["metrics"]["before"]["auc"] == version.evaluate(HELD_BACK)["auc"] != record["metrics"]["after"]["auc"]
    assert not any((value == 0).all() for value in version.learner.model.state_dict().values() if value.ndim == 2)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_pruned_graph_in_int8_is_checked_and_smaller(tmp_path: Path, format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript", reason="needs the extra export")
        pytest.importorskip("onnxruntime", reason="needs the extra export")
    version = learned(tmp_path, hidden="[256, 64]")
    record = version.export(tmp_path / "out", format, check=HELD_BACK, prune=0.9, quantize="int8")
    before, after = record["size"]["before"], record["size"]["after"]
    assert after["bytes"] < 0.75 * before["bytes"]
    assert after["zipped"] < 0.5 * before["zipped"]
    assert all(told["exported"] > 0 for told in record["latency_ms"].values())


@pytest.mark.parametrize("name", ["magnitude_pruning", "movement_pruning"])
def test_a_model_that_was_pruned_while_it_learned_is_exported_as_plain_layers(tmp_path: Path, name: str) -> None:
    adapt = f'adapt = [{{ name = "{name}", sparsity = 0.75, over = 3 }}]'
    version = learned(tmp_path, adapt)
    record = version.export(tmp_path / "out", "safetensors", check=HELD_BACK)
    assert record["check"]["largest_difference"] < 1e-6
    found = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    assert set(found) == set(learned_plain(tmp_path).learner.model.state_dict())
    zero, every = record["linear_weights"]["zero"], record["linear_weights"]["weights"]
    assert zero == pytest.approx(0.75 * every, abs=3)
    # The export copies the model, and leaves that of the version as it is.
    again = version.predict(HELD_BACK)
    assert again.equals(version.predict(HELD_BACK))
    assert any("prune_mask" in name for name in version.learner.model.state_dict())
    assert version.export(tmp_path / "twice", "safetensors")["linear_weights"] == record["linear_weights"]


def learned_plain(folder: Path) -> Version:
    (folder / "plain").mkdir()
    return learned(folder / "plain")


def test_the_command_prints_both_sizes_and_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned(tmp_path)
    pq.write_table(HELD_BACK, tmp_path / "held.parquet")
    where = [str(tmp_path / "run"), "--format", "safetensors", "--check", str(tmp_path / "held.parquet")]
    assert main(["export", *where, "--prune", "0.5", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    record = json.loads((tmp_path / "out/export.json").read_text())
    before, after = record["size"]["before"], record["size"]["after"]
    assert told.startswith("version 6 as safetensors, 50% pruned: ")
    sizes = f"{after['bytes']:,} bytes, {after['zipped']:,} zipped, of a model of {before['bytes']:,}, "
    assert sizes + f"{before['zipped']:,} zipped\n" in told
    assert "50% of 912 weights of linear and convolutional layers are 0" in told
    assert main(["export", *where, "--prune", "1.5", "--out", str(tmp_path / "two")]) == 2
    assert capsys.readouterr().err == "incr: --prune: expected a share of weights between 0 and 1, got 1.5\n"


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(ArgumentError, match="prune: expected a share of weights between 0 and 1, got 0"):
        check_share(0.0)
    with pytest.raises(JobError, match=r"prune: expected a model with nn.Linear or nn.Conv2d layers, got Embedding"):
        prune_globally(torch.nn.Embedding(2, 2), 0.5)
