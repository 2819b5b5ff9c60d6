"""A model that learned with rounded weights and inputs loses less in int8 than one that did not."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from incr_core.job import Job
from incr_core.runs import Version, run
from tests.support.made_up import made_up

pytestmark = pytest.mark.slow

HELD_BACK = made_up(1000, seed=5)


def learned(out: Path, adapt: str) -> Version:
    out.mkdir()
    pq.write_table(made_up(2000), out / "rows.parquet")
    (out / "job.toml").write_text(f"""
[stream]
path = "rows.parquet"
every = 250

[features]
label = "score"
numeric = ["height", "weight"]
categorical = ["colour"]
buckets = 8

[model]
hidden = [64, 32]
adapt = [{adapt}]

[learner]
objective = "regression"
epochs = 3
optimizer = {{ name = "adam", lr = 0.01 }}
""")
    return run(Job.read(out / "job.toml"), out / "run").champion


@pytest.mark.parametrize("format", ["onnx", "pt2", "safetensors"])
def test_int8_costs_less_than_without(tmp_path: Path, format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript", reason="needs the extra export")
        pytest.importorskip("onnxruntime", reason="needs the extra export")
    apart, lost = {}, {}
    for name, adapt in (("aware", '{ name = "qat" }'), ("plain", "")):
        version = learned(tmp_path / name, adapt)
        record = version.export(tmp_path / name / "out", format, check=HELD_BACK, quantize="int8")
        apart[name] = record["check"]["share_of_spread"]
        lost[name] = record["metrics"]["after"]["rmse"] / record["metrics"]["before"]["rmse"] - 1
        if name == "aware":
            whole = version.export(tmp_path / name / "whole", format, check=HELD_BACK)
            assert whole["check"]["share_of_spread"] <= whole["check"]["allowed"]
    assert apart["aware"] < 0.5 * apart["plain"]
    assert abs(lost["aware"]) < 0.5 * abs(lost["plain"])
    if format != "onnx":
        assert apart["aware"] < 1e-5  # the weights are already those of int8


def test_the_weights_of_int8_are_those_that_were_learned(tmp_path: Path) -> None:
    version = learned(tmp_path / "run", '{ name = "qat" }')
    version.export(tmp_path / "out", "safetensors", check=HELD_BACK, quantize="int8")
    found = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    scaled = [name.removesuffix("_scale") for name in found if name.endswith(".weight_scale")]
    assert len(scaled) == 3
    for name in scaled:
        assert found[name].dtype == torch.int8
        layer = version.learner.model.get_submodule(name.rpartition(".")[0])
        torch.testing.assert_close(found[name] * found[f"{name}_scale"], layer.weight, rtol=1e-6, atol=0)


def test_a_pruned_and_aware_model_keeps_its_zeros_in_int8(tmp_path: Path) -> None:
    adapt = '{ name = "magnitude_pruning", sparsity = 0.75, over = 3 }, { name = "qat" }'
    version = learned(tmp_path / "run", adapt)
    record = version.export(tmp_path / "out", "pt2", check=HELD_BACK, quantize="int8")
    assert record["check"]["share_of_spread"] < 1e-5
    assert record["linear_weights"]["zero"] >= 0.74 * record["linear_weights"]["weights"]
