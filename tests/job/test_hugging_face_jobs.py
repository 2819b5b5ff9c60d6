"""Jobs whose model is of Hugging Face: columns are its arguments; skipped where the extra `text` is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.batch import Batch
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models import MODELS, TableShape
from incr_core.objectives import Multiclass
from incr_core.registry import RunDirectory
from incr_core.runs import Version, run

pytestmark = [
    pytest.mark.text,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("peft") is None, reason="needs incr[text]"),
]

JOB = """
[stream]
path = "texts.parquet"
every = 40

[features]
label = "topic"
numeric = ["tokens"]
classes = [0, 1, 2]

[model]
factory = "classifier:make"
inputs = { input_ids = "tokens" }

[learner]
objective = "multiclass"
batch_size = 10
"""

FACTORY = """
from transformers import BertConfig, BertForSequenceClassification


def make(shape, layers=1):
    return BertForSequenceClassification(BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, num_labels=shape.outputs,
    ))
"""


@pytest.fixture
def texts(tmp_path: Path) -> torch.Tensor:
    """120 texts of 7 tokens, of which some end in padding; the topic is that of the second token."""
    ids = torch.randint(2, 50, (120, 7), generator=torch.Generator().manual_seed(1))
    ids[::3, 5:] = 0
    columns = {"tokens": ids.tolist(), "topic": (ids[:, 1] % 3).tolist(), "mask": (ids != 0).long().tolist()}
    pq.write_table(pa.table(columns), tmp_path / "texts.parquet")
    (tmp_path / "classifier.py").write_text(FACTORY)
    return ids


def read(folder: Path, *changes: tuple[str, str]) -> Job:
    text = JOB
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "job.toml").write_text(text)
    return Job.read(folder / "job.toml")


def test_a_job_learns_what_a_learner_in_python_does(texts: torch.Tensor, tmp_path: Path) -> None:
    job = read(tmp_path)
    run(job, tmp_path / "run")
    found, _ = RunDirectory.open(tmp_path / "run").load()

    torch.manual_seed(0)
    model = MODELS.find("classifier:make", "model.factory", str(tmp_path))(TableShape(7, 0, 0, 3))
    learner = Learner(model, Multiclass(3), {"name": "adam", "lr": 0.003}, batch_size=10)
    for start in (0, 40, 80):
        ids = texts[start : start + 40]
        learner.learn(Batch({"input_ids": ids, "attention_mask": (ids != 0).long()}, ids[:, 1] % 3))
    assert found.keys() == learner.weights().keys()
    for name, value in found.items():
        assert torch.equal(value, learner.weights()[name]), name

    expected = learner.predict({"input_ids": texts, "attention_mask": (texts != 0).long()})
    told = Version.load(tmp_path / "run").predict(tmp_path / "texts.parquet")
    assert told["probability.2"].to_pylist() == expected[:, 2].tolist()


def test_a_column_may_be_the_mask(texts: torch.Tensor, tmp_path: Path) -> None:
    named = ('{ input_ids = "tokens" }', '{ input_ids = "tokens", attention_mask = "mask" }')
    weights = []
    for place, changes in (("one", []), ("two", [named, ('["tokens"]', '["mask", "tokens"]')])):
        run(read(tmp_path, *changes), tmp_path / place)
        weights.append(RunDirectory.open(tmp_path / place).load()[0])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("adapt", ["prefix", "peft_lora"])
def test_adapted_by_peft_it_resumes_to_the_same_bits(texts: torch.Tensor, tmp_path: Path, adapt: str) -> None:
    adapted = ("[learner]", f'[[model.adapt]]\nname = "{adapt}"\n\n[learner]')
    run(read(tmp_path, adapted), tmp_path / "whole")
    learned, _ = RunDirectory.open(tmp_path / "whole").load()
    assert any(part in name for name in learned for part in ("prompt_encoder", "lora_A"))

    rows, folder = pq.read_table(tmp_path / "texts.parquet"), tmp_path / "parts.data"
    folder.mkdir()
    for name, part in (("1", rows.slice(0, 80)), ("2", rows.slice(80))):
        pq.write_table(part, folder / f"{name}.parquet")
        run(read(tmp_path, adapted, ('"texts.parquet"', '"parts.data"')), tmp_path / "parts")
    again, _ = RunDirectory.open(tmp_path / "parts").load()
    assert all(torch.equal(value, again[name]) for name, value in learned.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([('"tokens" }', '"words" }')], r"^model.inputs: expected columns of features.numeric, got 'words'"),
        ([('["tokens"]', '["tokens", "mask"]')], r"^model.inputs: expected every feature .*, mask is none"),
        ([('input_ids = "tokens"', 'ids = "tokens"')], r"^model.factory: classifier:make cannot take rows of 7"),
        ([('factory = "classifier:make"\n', "")], r"model.inputs: expected with model.factory only"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    texts: torch.Tensor, tmp_path: Path, changes: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        read(tmp_path, *changes).participant()
