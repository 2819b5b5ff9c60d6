"""What peft puts into a small BERT: prompts, prefixes, low-rank changes and factors learn beside a head, alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

pytest.importorskip("peft")

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models.adapt import adapter, bert, hf_lora, ia3, lora, merge_lora, prefix, prompt
from incr_core.objectives import Multiclass
from incr_core.runs import Version, run

pytestmark = pytest.mark.text

HEAVY = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
TUNINGS: dict[str, Callable[..., Any]] = {
    "prompt": partial(prompt, length=3),
    "prefix": partial(prefix, length=3),
    "hf_lora": partial(hf_lora, rank=2),
    "ia3": ia3,
}


def small() -> Any:
    torch.manual_seed(0)
    return bert(outputs=2, vocabulary=50, width=32, layers=2, length=32)


def rows(count: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 50, (count, 9), generator=generator)
    ids[:, 0] = 1
    ids[count // 2 :, 6:] = 0  # padding
    return Batch(ids, (ids[:, 1] > 25).long())


def texts() -> torch.Tensor:
    ids = rows().inputs
    assert isinstance(ids, torch.Tensor)
    return ids


@pytest.mark.parametrize("tuning", TUNINGS)
def test_only_the_tuning_and_the_head_learn(tuning: str) -> None:
    model = TUNINGS[tuning](small())
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    words = {"prompt": "prompt_encoder", "prefix": "prompt_encoder", "hf_lora": "lora_", "ia3": "ia3_l"}
    assert {name for name in learns if words[tuning] not in name} == {"head.weight", "head.bias"}
    assert len(learns) > 2
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learner = Learner(model, Multiclass(2), HEAVY, batch_size=16)
    learner.learn(rows())
    # Of low-rank changes the second factor is zero, so the first one moves a step later.
    learner.learn(rows())
    assert {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])} == learns


@pytest.mark.parametrize("tuning", TUNINGS)
def test_padding_changes_nothing(tuning: str) -> None:
    model = TUNINGS[tuning](small()).eval()
    ids = texts()[:4]
    torch.testing.assert_close(model(nn.functional.pad(ids, (0, 5))), model(ids))


@pytest.mark.parametrize("tuning", ["hf_lora", "ia3"])
def test_what_has_learned_nothing_changes_nothing(tuning: str) -> None:
    model = small().eval()
    expected = model(texts())
    assert torch.equal(TUNINGS[tuning](model).eval()(texts()), expected)


def test_a_prompt_of_tokens_equals_these_tokens_in_front_of_the_text() -> None:
    model = small().eval()
    ids = texts()
    longer = torch.cat([torch.tensor([7, 9]).expand(len(ids), 2), ids], dim=1)
    states = model.body(input_ids=longer, attention_mask=(longer != 0).long()).last_hidden_state
    expected = model.head(states[:, 2])  # behind the prompt
    tuned: Any = prompt(model, length=2)
    with torch.no_grad():
        words = tuned.body.get_base_model().get_input_embeddings().weight
        tuned.body.prompt_encoder["default"].embedding.weight.copy_(words[[7, 9]])
    torch.testing.assert_close(tuned.eval()(ids), expected)


def test_a_prefix_takes_its_share_of_attention_as_in_the_formula() -> None:
    """One layer, so that what its attention gives is all that the prefix does."""
    torch.manual_seed(0)
    model: Any = prefix(bert(vocabulary=50, width=32, layers=1, length=32), length=4).eval()
    base = model.body.get_base_model()
    attention = base.encoder.layer[0].attention.self
    ids = texts()[:3, :5]
    hidden = base.embeddings(input_ids=ids, position_ids=torch.arange(4, 9)[None])  # they stand behind the prefix

    def split(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(len(values), -1, 2, 16).transpose(1, 2)

    own = model.body.prompt_encoder["default"].embedding.weight.reshape(4, 2, 2, 16)  # (length, K and V, heads, 16)
    more = own.permute(1, 2, 0, 3)
    keys = torch.cat([more[0].expand(3, -1, -1, -1), split(attention.key(hidden))], dim=2)
    values = torch.cat([more[1].expand(3, -1, -1, -1), split(attention.value(hidden))], dim=2)
    shares = (split(attention.query(hidden)) @ keys.transpose(2, 3) / 16**0.5).softmax(-1)
    seen = (shares @ values).transpose(1, 2).reshape(3, 5, 32)
    layer = base.encoder.layer[0]
    mixed = layer.attention.output(seen, hidden)
    expected = model.head(layer.output(layer.intermediate(mixed), mixed)[:, 0])
    torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_learner_goes_on_from_its_state(tuning: str) -> None:
    first = Learner(TUNINGS[tuning](small()), Multiclass(2), HEAVY, batch_size=16)
    first.learn(rows())
    state, weights = first.state_dict(), {name: value.clone() for name, value in first.weights().items()}
    torch.manual_seed(1)
    second = Learner(TUNINGS[tuning](small()), Multiclass(2), HEAVY, batch_size=16)
    second.adopt(weights)
    second.load_state_dict(state)
    for learner in (first, second):
        learner.learn(rows())
    found = second.weights()
    assert all(torch.equal(value, found[name]) for name, value in first.weights().items())


def test_low_rank_and_adapters_of_our_own_fit_a_transformer_too() -> None:
    plain = small().eval()
    data = rows()
    expected = plain(data.inputs)
    for adapt in (partial(lora, rank=2, target=["*.query", "*.value"], train="head"),
                  partial(adapter, width=4, target="*.output.dense", train="head")):  # fmt: skip
        model = adapt(small()).eval()
        torch.testing.assert_close(model(data.inputs), expected)
        Learner(model, Multiclass(2), HEAVY, batch_size=16).learn(data)
        model.eval()
        after = model(data.inputs)
        assert not torch.allclose(after, expected)
        torch.testing.assert_close(merge_lora(model)(data.inputs), after)


@pytest.mark.slow
def test_a_job_tunes_a_bert_by_name(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(2, 50, (300, 6))
    label = (ids[:, 0] > 25).astype(np.int64)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), 6)
    pq.write_table(pa.table({"ids": lists, "label": label}), tmp_path / "rows.parquet")
    job = Job.from_document(
        {
            "name": "texts",
            "stream": {"path": str(tmp_path / "rows.parquet"), "every": 100},
            "features": {"label": "label", "numeric": ["ids"]},
            "model": {
                "factory": "incr_core.models.adapt:bert",
                "arguments": {"vocabulary": 50, "layers": 1, "length": 16},
                "adapt": [{"name": "prefix", "length": 2}],
            },
            "learner": {"objective": "binary", "optimizer": {"name": "adam", "lr": 0.01}},
        }
    ).resolved()
    first = run(job, tmp_path / "run").summary
    assert first.rows_learned == 300
    assert run(job, tmp_path / "again").summary.model_sha256 == first.model_sha256
    learner = Version.load(tmp_path / "run").learner
    learns = {name for name, weight in learner.model.named_parameters() if weight.requires_grad}
    assert learns == {"body.prompt_encoder.default.embedding.weight", "head.weight", "head.bias"}


def test_bad_arguments_are_refused() -> None:
    for name, tuning in TUNINGS.items():
        told = rf"^{name}: expected a model that holds a transformer .* in an attribute, got Linear; "
        with pytest.raises(ArgumentError, match=told):
            tuning(nn.Linear(1, 1))
    with pytest.raises(ArgumentError, match=r"prefix.length: expected 1 or more, got 0"):
        prefix(small(), 0)
    with pytest.raises(ArgumentError, match=r"hf_lora.rank: expected 1 or more, got 0"):
        hf_lora(small(), 0)
    with pytest.raises(ArgumentError, match=r"^hf_lora: peft refuses BertModel: .*nowhere"):
        hf_lora(small(), target="nowhere")
    with pytest.raises(ArgumentError, match=r"bert.width: expected a multiple of 16, got 20; try 32"):
        bert(width=20)


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from incr_core.models.adapt import bert, prompt\n"
        "try: prompt(bert())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ArgumentError prompt: needs peft, which is not installed; pip install 'incr[text]'\n"
