"""Prompts, prefixes, LoRA and IA3 for a small BERT, through peft; skipped where the extra `text` is not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.errors import ArgumentError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models.adapt import adapter, bert, freeze, ia3, lora, merge_lora, peft_lora, prefix, prompt
from incr_core.objectives import Multiclass
from incr_core.runs import Version, run
from incr_core.update import Update, mean

pytestmark = [
    pytest.mark.text,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("peft") is None, reason="needs incr[text]"),
]

Adapt = Callable[[nn.Module], nn.Module]
HEAVY = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
ATTENTION = [f"base_model.model.encoder.layer.{layer}.attention.self" for layer in (0, 1)]

ADAPTED: dict[str, tuple[Adapt, set[str]]] = {
    "prompt": (partial(prompt, length=3), {"prompt_encoder.default.embedding.weight"}),
    "prefix": (partial(prefix, length=3), {"prompt_encoder.default.embedding.weight"}),
    "peft_lora": (
        partial(peft_lora, rank=2, dropout=0.1),
        {f"{place}.{kind}.lora_{side}.default.weight" for place in ATTENTION for kind in ("query", "value")
         for side in "AB"},
    ),
    "ia3": (partial(ia3, target=["key"], feedforward=[]), {f"{place}.key.ia3_l.default" for place in ATTENTION}),
}  # fmt: skip


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return bert(outputs=2, vocabulary=50, width=32, layers=2, length=32)


def rows(count: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 50, (count, 9), generator=generator)
    ids[:, 0] = 1
    ids[count // 2 :, 6:] = 0  # padding
    return Batch(ids, (ids[:, 1] > 25).long())


def ids_of(batch: Batch) -> Tensor:
    assert isinstance(batch.inputs, Tensor)
    return batch.inputs


@pytest.mark.parametrize("name", ADAPTED)
def test_only_what_is_put_in_and_the_head_learn(name: str) -> None:
    adapt, parts = ADAPTED[name]
    model = adapt(small())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learner = Learner(model, Multiclass(2), HEAVY, batch_size=16, epochs=2)  # B = 0: A moves from the second step on
    learner.learn(rows())
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {*(f"body.{part}" for part in parts), "head.weight", "head.bias"}
    assert moved == set(learner.context.names)


@pytest.mark.parametrize("name", ADAPTED)
def test_padding_changes_nothing(name: str) -> None:
    model = ADAPTED[name][0](small()).eval()
    ids = ids_of(rows())
    torch.testing.assert_close(model(F.pad(ids[:4], (0, 5))), model(ids[:4]))


def test_a_prompt_of_tokens_equals_those_tokens_before_the_text() -> None:
    plain: Any = small().eval()
    ids = ids_of(rows())
    longer = torch.cat([torch.tensor([7, 9]).expand(len(ids), 2), ids], dim=1)
    expected = plain.body(input_ids=longer, attention_mask=(longer != 0).long()).last_hidden_state[:, 2:]
    body: Any = prompt(plain, length=2).body
    with torch.no_grad():
        body.prompt_encoder.default.embedding.weight.copy_(plain.body.get_input_embeddings().weight[[7, 9]])
    torch.testing.assert_close(body(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state, expected)
    torch.testing.assert_close(plain(ids), plain.head(expected[:, 0]))


def test_a_prompt_starts_as_vectors_of_the_vocabulary() -> None:
    body: Any = prompt(small(), length=5).body
    vectors, words = body.prompt_encoder.default.embedding.weight, body.get_input_embeddings().weight
    assert all((words == vector).all(1).any() for vector in vectors)


def test_a_prefix_takes_its_share_of_attention_as_in_the_formula() -> None:
    model: Any = prefix(small(), length=4).eval()
    body = model.body.get_base_model()
    ids = ids_of(rows())[:3, :5]
    heard: list[Tensor] = []
    layer = body.encoder.layer[0].attention.self
    layer.register_forward_hook(lambda _, given, output: heard.extend([given[0], output[0]]))
    model(ids)
    hidden, found = heard

    def split(values: Tensor) -> Tensor:
        return values.reshape(3, -1, 2, 16).transpose(1, 2)

    # peft keeps layer after layer the keys and then the values of each vector.
    own = model.body.prompt_encoder.default.embedding.weight.reshape(4, 2, 2, 32)[:, 0]
    keys = torch.cat([split(own[:, 0].expand(3, -1, -1)), split(layer.key(hidden))], dim=2)
    values = torch.cat([split(own[:, 1].expand(3, -1, -1)), split(layer.value(hidden))], dim=2)
    attention = (split(layer.query(hidden)) @ keys.transpose(2, 3) / 16**0.5).softmax(-1)
    torch.testing.assert_close(found, (attention @ values).transpose(1, 2).reshape(3, 5, 32))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_prefix_works_with_either_attention(implementation: str) -> None:
    model: Any = prefix(small(), length=4).eval()
    reference = model(rows().inputs)
    model.body.set_attn_implementation(implementation)
    torch.testing.assert_close(model(rows().inputs), reference)


def test_lora_of_peft_is_the_change_that_ours_is() -> None:
    ours = lora(small(), rank=2, alpha=6.0, target=["*.query", "*.value"], train="head").eval()
    theirs = peft_lora(small(), rank=2, alpha=6.0).eval()
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, mine in ours.named_parameters():
            if name.endswith((".down", ".up")):
                mine.copy_(torch.randn(mine.shape))
                name = name.replace("body.", "body.base_model.model.")
                weights[name.replace(".down", ".lora_A.default.weight").replace(".up", ".lora_B.default.weight")].copy_(
                    mine
                )
    torch.testing.assert_close(theirs(rows().inputs), ours(rows().inputs))
    assert not torch.allclose(ours(rows().inputs), small().eval()(rows().inputs))


@pytest.mark.parametrize("adapt", [peft_lora, ia3])
def test_what_peft_can_merge_leaves_the_model_as_it_was_made(adapt: Adapt) -> None:
    data, plain = rows(), small()
    model = adapt(small())
    torch.testing.assert_close(model.eval()(data.inputs), plain.eval()(data.inputs))
    Learner(model.train(), Multiclass(2), HEAVY, batch_size=16, epochs=2).learn(data)
    after = model.eval()(data.inputs)
    assert not torch.allclose(after, plain(data.inputs))
    merged = merge_lora(model)
    torch.testing.assert_close(merged(data.inputs), after)
    assert [(name, type(part)) for name, part in merged.named_modules()] == [
        (name, type(part)) for name, part in plain.named_modules()
    ]


def test_low_rank_and_adapters_of_ours_fit_a_transformer_too() -> None:
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


@pytest.mark.parametrize("name", ADAPTED)
def test_a_resumed_learner_comes_to_the_same_bits(name: str) -> None:
    adapt, data = ADAPTED[name][0], rows()

    def made() -> Learner:
        return Learner(adapt(small()), Multiclass(2), HEAVY, batch_size=16)

    whole = made()
    whole.begin(data)
    whole.advance(2)
    again = made()
    assert whole.weights().keys() == again.weights().keys()
    again.adopt(whole.weights())
    again.load_state_dict(whole.state_dict())
    whole.advance()
    again.begin(data)
    again.advance()
    for key, value in whole.weights().items():
        assert torch.equal(value, again.weights()[key]), key


@pytest.mark.parametrize("name", ADAPTED)
def test_learners_merge_by_the_mean_of_what_was_put_in(name: str) -> None:
    adapt, parts = ADAPTED[name]
    learners = [Learner(adapt(small()), Multiclass(2), HEAVY, batch_size=16, seed=seed) for seed in (0, 1)]
    anchor = {name: value.clone() for name, value in learners[0].weights().items()}
    assert all(torch.equal(value, learners[1].weights()[name]) for name, value in anchor.items())  # by the seed alone
    updates = [learner.learn(rows()) for learner in learners]
    merged = mean([Update(update.weights, 1) for update in updates], anchor, learners[0].rules())
    learning = {*(f"model.body.{part}" for part in parts), "model.head.weight", "model.head.bias"}
    for key, value in merged.items():
        one, other = (update.weights[key] for update in updates)
        assert torch.equal(value, one + 0.5 * (other - one) if key in learning else anchor[key]), key
    learners[1].adopt(merged)
    assert all(torch.equal(value, merged[key]) for key, value in learners[1].weights().items())


def test_what_is_put_in_is_in_the_mode_of_the_transformer() -> None:
    """One in eval mode, as `from_pretrained` gives it, is not taken for one that was frozen in part."""
    for training in (True, False):
        model = peft_lora(small().train(training), dropout=0.5)
        assert {part.training for part in model.modules()} == {training}


def test_weights_outside_that_were_frozen_stay_so() -> None:
    names = Learner(peft_lora(freeze(small(), names="head.bias")), Multiclass(2), HEAVY).context.names
    assert "head.weight" in names
    assert "head.bias" not in names


def test_bad_arguments_are_refused() -> None:
    for name, (adapt, _) in ADAPTED.items():
        expected = f"{name}: expected a transformer of the transformers library, or a model that holds one, got Linear"
        with pytest.raises(ArgumentError, match=expected):
            adapt(nn.Linear(1, 1))
    with pytest.raises(ArgumentError, match="ia3: expected a model that peft has not adapted yet"):
        ia3(prompt(small()))
    with pytest.raises(ArgumentError, match=r"prefix.length: expected 1 or more, got 0"):
        prefix(small(), 0)
    with pytest.raises(ArgumentError, match=r"peft_lora.rank: expected 1 or more, got 0"):
        peft_lora(small(), rank=0)
    with pytest.raises(ArgumentError, match=r"peft_lora: Target modules .*'qery'.* not found in the base model"):
        peft_lora(small(), target=["qery"])
    with pytest.raises(ArgumentError, match=r"bert.width: expected a multiple of 16, got 20; try 32"):
        bert(width=20)


@pytest.mark.slow
def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from incr_core.models.adapt import bert, prompt\n"
        "try: prompt(bert())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ArgumentError prompt: needs peft, which is not installed; pip install 'incr[text]'\n"


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
