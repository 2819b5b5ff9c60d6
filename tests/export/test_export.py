"""What is exported answers as its version does, in a process that has no incr; what cannot be is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from incr_core.commands.cli import main
from incr_core.errors import ArgumentError, ExportError, JobError, StreamError
from incr_core.export._check import check_codes
from incr_core.export.encoder import Encoder
from incr_core.job import Job
from incr_core.runs import Run, Version, open_run, run
from tests.support.made_up import made_up

pytestmark = pytest.mark.slow

ROWS = made_up(300)
HELD_BACK = made_up(200, seed=5)
MIXED = pa.table(
    {
        "height": [170.0, None, 181.5, 150.0, 190.0, 168.0],
        "weight": [70.0, 55.0, None, 80.0, 90.0, 60.0],
        "colour": ["red", None, "never seen", "blue", "green", "red"],
    }
)
"""Rows to predict, with missing values and a category that nobody has seen."""


def learned(out: Path, label: str, objective: str, rows: pa.Table = ROWS, **sections: Any) -> Version:
    """The champion of a run in the folder `out`, of a job with these sections."""
    document: dict[str, Any] = {
        "stream": {"path": str(out / "rows.parquet"), "every": 150},
        "features": {"label": label, "numeric": ["height", "weight"], "categorical": ["colour"]},
        "learner": {"objective": objective, "batch_size": 32, "optimizer": {"name": "adam", "lr": 0.01}},
        "model": {"hidden": [16]},
    }
    for name, section in sections.items():
        document[name] = {**document.get(name, {}), **section}
    pq.write_table(rows, out / "rows.parquet")
    return run(Job.from_document(document).resolved(), out / "run").champion


def columns_of(version: Version, rows: pa.Table) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = version.predict(rows).drop_columns(["row"]).to_pydict()
    return found


def assert_close(found: dict[str, list[Any]], wanted: dict[str, list[Any]], rtol: float = 1e-5) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        if isinstance(values[0], str):
            assert found[name] == values
        else:
            np.testing.assert_allclose(found[name], values, rtol=rtol, atol=1e-6)


SERVICE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import onnxruntime
from encoder import Encoder

encoder, session = Encoder.read(), onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
for rows in json.load(sys.stdin):
    print(json.dumps(encoder.answers(session.run(None, encoder.inputs(rows))[0])))
assert not {"torch", "incr_core"} & sys.modules.keys()
"""


def test_an_onnx_model_answers_in_a_process_that_has_neither_incr_nor_torch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra export")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    version = learned(tmp_path, "size", "multiclass")
    record = version.export(tmp_path / "out", "onnx", check=HELD_BACK)
    small = version.export(tmp_path / "small", "onnx", check=HELD_BACK, quantize="int8")
    rows = MIXED.to_pylist()
    asked = json.dumps([rows, rows[:1], MIXED.to_pydict(), rows * 50])
    command = [sys.executable, "-I", "-c", SERVICE]
    done = subprocess.run([*command, str(tmp_path / "out")], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = columns_of(version, MIXED)
    whole, one, by_column, many = map(json.loads, done.stdout.splitlines())
    assert_close(whole, wanted)
    assert_close(one, {name: values[:1] for name, values in wanted.items()})
    assert by_column == whole
    assert_close(many, {name: values * 50 for name, values in wanted.items()})
    assert list(wanted) == ["class", "probability.large", "probability.medium", "probability.small"]
    assert record["check"]["rows"] == 200
    assert record["check"]["largest_difference"] < 1e-5
    assert small["check"]["largest_difference"] > 1e-5  # which float would not be, so it is int8 that was asked
    assert small["check"]["largest_difference"] < 0.2
    before, after = (record["metrics"][name] for name in ("before", "after"))
    assert before["accuracy"] == after["accuracy"] == version.evaluate(HELD_BACK)["accuracy"]
    done = subprocess.run([*command, str(tmp_path / "small")], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("label", "objective", "classes"),
    [("tall", "binary", ["no", "yes"]), ("score", "regression", None)],
)
def test_a_program_of_torch_answers_as_its_version(
    tmp_path: Path, label: str, objective: str, classes: list[str] | None
) -> None:
    named = pa.array(classes or ["", ""]).take(ROWS["tall"])
    table = ROWS if classes is None else ROWS.drop_columns(["tall"]).append_column("tall", named)
    version = learned(tmp_path, label, objective, table)
    record = version.export(tmp_path / "out", "pt2")
    assert (record["check"]["of"], record["check"]["rows"]) == ("rows.parquet", 300)
    assert all(told["exported"] > 0 and told["incr"] > 0 for told in record["latency_ms"].values())
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    encoder = Encoder.read(tmp_path / "out/encoder.json")
    for rows in (MIXED, MIXED.slice(0, 1), pa.concat_tables([MIXED] * 20)):
        inputs = {name: torch.from_numpy(value) for name, value in encoder.inputs(rows.to_pylist()).items()}
        assert_close(encoder.answers(program(**inputs).detach().numpy()), columns_of(version, rows))


class Net(nn.Module):
    """Of numbers alone, with statistics, dropout and an answer by name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(2), nn.Dropout(0.5)
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.last(self.drop(self.first(self.norm(inputs)).relu()))}


def own(out: Path, model: type[nn.Module], **arguments: Any) -> Version:
    rows = ROWS.select(["height", "weight", "score"])
    model_of = {"factory": model, "arguments": arguments}
    return open_run(out, stream=rows, label="score", objective="regression", model=model_of, every=100).run().champion


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_weights_go_into_a_model_of_ones_own(tmp_path: Path, quantize: str | None) -> None:
    version = own(tmp_path / "run", Net, width=64)
    record = version.export(tmp_path / "out", "safetensors", quantize=quantize)
    assert record["check"]["of"] == "the run's tables"
    assert all(told["exported"] is None for told in record["latency_ms"].values())
    told = json.loads((tmp_path / "out/architecture.json").read_text())
    assert told["class"] == f"{Net.__module__}.Net"
    assert told["inputs"] == {"numeric": [2, "float32"]}
    weights = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    for name in [name for name in weights if name.endswith(".weight_scale")]:
        scaled = name.removesuffix("_scale")
        assert weights[scaled].dtype == torch.int8
        weights[scaled] = weights[scaled] * weights.pop(name)
    model = Net(64).eval()
    model.load_state_dict(weights)
    rows = HELD_BACK.select(["height", "weight"])
    encoder = Encoder.read(tmp_path / "out/encoder.json")
    inputs = torch.from_numpy(encoder.inputs(rows.to_pydict())["numeric"])
    with torch.no_grad():
        output = model(inputs)["logits"].reshape(-1)
    values = told["output"]["mean"] + told["output"]["std"] * output.double()
    wanted = torch.tensor(columns_of(version, rows)["value"])
    apart = float((values - wanted).abs().max() / (wanted.max() - wanted.min()))
    assert apart < 1e-5 if quantize is None else 1e-5 < apart < 0.05
    plain = sum(value.nbytes for value in version.learner.model.state_dict().values())
    assert quantize is None or record["files"]["model.safetensors"]["bytes"] < plain + 2000


def test_rates_are_passed_as_numbers_of_the_service(tmp_path: Path) -> None:
    rates = [{"by": ["colour"], "window": "2h", "prior": 0.5}, {"by": [], "window": "1h", "prior": 0.5}]
    version = learned(tmp_path, "tall", "binary", stream={"predict_at": "at", "every": "1h"}, features={"rate": rates})
    record = version.export(tmp_path / "out", "safetensors", check=ROWS)
    assert record["check"]["coded"] == 300  # with rates as they were at each row's own time
    encoder = Encoder.read(tmp_path / "out/encoder.json")
    row = {"height": 170.0, "weight": 70.0, "colour": "red", "rate of label in 1h": 0.5, "count of label in 1h": 0}
    with pytest.raises(ValueError, match=r"row 0: rate of label by colour in 2h: expected a value, got none"):
        encoder.inputs([row])
    named: dict[str, float | None] = {"rate of label by colour in 2h": None, "count of label by colour in 2h": 7}
    with pytest.raises(ValueError, match=r"sum of the label \+ 10 \* prior.* with the row's colour .* 2 hours before"):
        encoder.inputs([row | named])
    named["rate of label by colour in 2h"] = 0.25
    made = encoder.inputs([row | named])["numeric"]
    np.testing.assert_array_equal(made, np.array([[170, 70, 0.25, np.log(8), 0.5, 0]], dtype=np.float32))


@pytest.mark.parametrize(
    ("adapt", "features"),
    [({"name": "lora", "rank": 2, "target": "layers.*"}, {}), ({"name": "task_heads", "tasks": 3}, {"task": "task"})],
)
def test_an_adapted_model_is_exported_as_it_answers(
    tmp_path: Path, adapt: dict[str, Any], features: dict[str, Any]
) -> None:
    """The export compares the two itself."""
    rows = ROWS.append_column("task", pa.array(np.arange(300) % 3))
    version = learned(tmp_path, "tall", "binary", rows, features=features, model={"hidden": [8], "adapt": [adapt]})
    record = version.export(tmp_path / "out", "pt2")
    assert record["check"]["largest_difference"] < 1e-6
    taken = [one["name"] for one in Encoder.read(tmp_path / "out/encoder.json").specification["inputs"]]
    assert taken == ["numeric", "categorical", *features]


class Branching(Net):
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return super().forward(inputs if inputs.sum() > 0 else -inputs)


class OfEight(Net):
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return super().forward(inputs if len(inputs) == 8 else inputs * 1.0)


class Otherwise(Net):
    """Another answer where it is traced: no trace shows that."""

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return super().forward(inputs + 100.0 * torch.compiler.is_exporting())


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Branching, "cannot trace the model: .*data-dependent.* let its forward neither branch on values"),
        (OfEight, "cannot trace the model: .*rows.* nor fix the number of rows"),
        (Otherwise, "expected answers within 0.0001 of version 3's, got one that differs by .* in row"),
    ],
)
def test_a_model_that_no_trace_answers_for_is_refused_and_nothing_is_left(
    tmp_path: Path, model: type[nn.Module], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    version = own(tmp_path / "run", model, width=2)
    capfd.readouterr()
    with pytest.raises(ExportError, match=told):
        version.export(tmp_path / "out", "pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert capfd.readouterr().out == ""


def test_what_cannot_be_exported_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = own(tmp_path / "run", Net, width=2)
    with pytest.raises(ArgumentError, match="format: expected a format, got 'onxx'; did you mean 'onnx'"):
        version.export(tmp_path / "out", "onxx")
    with pytest.raises(ArgumentError, match="quantize: expected int8, got 'int4'"):
        version.export(tmp_path / "out", quantize="int4")
    with pytest.raises(ArgumentError, match=f"out: expected a new folder, got {tmp_path}, where something is already"):
        version.export(tmp_path)
    with pytest.raises(StreamError, match=r"held.parquet: expected a file of rows to check on, got nothing there"):
        version.export(tmp_path / "out", "safetensors", check=tmp_path / "held.parquet")
    with pytest.raises(
        StreamError, match="expected rows to check on, found none that can be used: row 0: expected a fi"
    ):
        version.export(tmp_path / "out", "safetensors", check={"height": [float("nan")], "weight": [1.0]})
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ArgumentError, match=r"format: onnx needs onnx(script)?, which is not installed; pip install 'incr\[e"
    ):
        version.export(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("label", "objective", "sections", "told"),
    [
        (
            "weight",
            "ranking",
            {"features": {"numeric": ["height"], "item": ["colour"]}},
            "learner.objective: .*'ranking'",
        ),
        (
            "tall",
            "binary",
            {"features": {"numeric": ["height"], "task": "seen"}, "model": {"adapt": [{"name": "experts"}]}},
            "model.adapt experts: expected a model of one path to export.*incr distill DIR",
        ),
        (
            "tall",
            "binary",
            {"model": {"kind": "auto"}},
            'model.kind = "auto": expected a model of one network to export, .* incr distill DIR',
        ),
        (
            "tall",
            "binary",
            {"features": {"text": ["note"]}},
            "features.text: expected none to export, .* got note; serve it",
        ),
        (
            "tall",
            "binary",
            {"features": {"date": ["at"]}},
            "features.date: expected none to export, .* got at; .* features.numeric, as days since 1970",
        ),
        (
            "tall",
            "binary",
            {
                "stream": {"predict_at": "at", "every": "1h"},
                "features": {
                    "rate": [{"by": ["colour"], "window": "1h"}, {"by": ["colour"], "window": "1h", "prior": 0.1}]
                },
            },
            "features.rate: expected rates of different names to export, .* called 'count of label by colour in 1h'",
        ),
    ],
)
def test_jobs_that_no_model_can_be_exported_of_are_refused(
    tmp_path: Path, label: str, objective: str, sections: dict[str, Any], told: str
) -> None:
    note = pa.array(["a tall one" if tall else "a small one" for tall in ROWS["tall"].to_pylist()])
    rows = ROWS.append_column("seen", ROWS["tall"]).append_column("note", note)
    version = learned(tmp_path, label, objective, rows, **sections)
    with pytest.raises(JobError, match=told):
        version.export(tmp_path / "out", "safetensors")


def test_codes_that_differ_are_told_by_column_and_row(tmp_path: Path) -> None:
    version = learned(tmp_path, "tall", "binary")
    version.export(tmp_path / "out", "safetensors")
    specification = json.loads((tmp_path / "out/encoder.json").read_text())
    encoded = version.encoded(MIXED, "mixed")
    assert check_codes(specification, MIXED, encoded) == 6
    with pytest.raises(ExportError, match="of row 0 what incr does, got other numbers of colour \\('red'\\)"):
        check_codes({**specification, "buckets": 7}, MIXED, encoded)


def test_the_command_tells_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned(tmp_path, "tall", "binary")
    pq.write_table(HELD_BACK, tmp_path / "held.parquet")
    where = [str(tmp_path / "run"), "--format", "safetensors", "--check", str(tmp_path / "held.parquet")]
    assert main(["export", *where, "--out", str(tmp_path / "out"), "--version", "1"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"version 1 as safetensors: {tmp_path / 'out'}: architecture.json (")
    assert "checked on 200 rows of held.parquet: answers differ by at most 0; encoder.py makes the same" in told
    auc = Run(tmp_path / "run").version(1).evaluate(HELD_BACK)["auc"]
    assert told.endswith(f"auc: {auc:.4f}, and {auc:.4f} in incr\n")
    assert main(["export", *where, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("incr: --out: expected a new folder, got ")
    assert main(["export", *where, "--out", str(tmp_path / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "two/export.json").read_text())
