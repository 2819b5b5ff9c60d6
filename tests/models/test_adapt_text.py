"""Soft prompts and prefixes for a small BERT; skipped where the extra `text` is not installed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from incr_core.batch import Batch
from incr_core.errors import StrategyError
from incr_core.learner import Learner
from incr_core.models.adapt import adapter, lora, merge_lora, prefix, prompt
from incr_core.models.adapt._text import bert
from incr_core.objectives import Multiclass

HEAVY = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def small() -> nn.Module:
    torch.manual_seed(0)
    return bert(outputs=2, vocabulary=50, width=32, layers=2, length=32)


def rows(count: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 50, (count, 9), generator=generator)
    ids[:, 0] = 1
    ids[count // 2 :, 6:] = 0  # padding
    return Batch(ids, (ids[:, 1] > 25).long())


@pytest.mark.parametrize(
    ("adapt", "parts"),
    [
        (partial(prompt, length=3), {"body.prompt.vectors"}),
        (partial(prefix, length=3), {f"body.encoder.layer.{layer}.attention.self.prefix.{kind}" for layer in (0, 1)
                                     for kind in ("keys", "values")}),
    ],
)  # fmt: skip
def test_only_the_prompt_and_the_head_learn(adapt: Any, parts: set[str]) -> None:
    model = adapt(small())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    Learner(model, Multiclass(2), HEAVY, batch_size=16).learn(rows())
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {*parts, "head.weight", "head.bias"}


@pytest.mark.parametrize("adapt", [prompt, prefix])
def test_padding_changes_nothing(adapt: Any) -> None:
    model = adapt(small()).eval()
    ids = rows().inputs
    assert isinstance(ids, torch.Tensor)
    padded = nn.functional.pad(ids[:4], (0, 5))
    torch.testing.assert_close(model(padded), model(ids[:4]))


def test_a_prompt_of_a_token_equals_that_token_in_the_text() -> None:
    model = small().eval()
    ids = rows().inputs
    assert isinstance(ids, torch.Tensor)
    longer = torch.cat([ids[:, :1], torch.tensor([7, 9]).expand(len(ids), 2), ids[:, 1:]], dim=1)
    expected = model(longer)
    body: Any = prompt(model, length=2).body
    with torch.no_grad():
        body.prompt.vectors.copy_(body.get_input_embeddings().weight[[7, 9]])
    torch.testing.assert_close(model(ids), expected)


def test_a_prefix_takes_its_share_of_attention_as_in_the_formula() -> None:
    model: Any = prefix(small(), length=4).eval()
    place = model.body.encoder.layer[0].attention.self
    hidden = torch.randn(3, 5, 32)
    found = place(hidden)[0]

    def split(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(3, 5, 2, 16).transpose(1, 2)

    own = place.prefix
    keys = torch.cat([own.keys.expand(3, -1, -1, -1), split(place.key(hidden))], dim=2)
    values = torch.cat([own.values.expand(3, -1, -1, -1), split(place.value(hidden))], dim=2)
    attention = (split(place.query(hidden)) @ keys.transpose(2, 3) / 16**0.5).softmax(-1)
    torch.testing.assert_close(found, (attention @ values).transpose(1, 2).reshape(3, 5, 32))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_prefix_works_with_either_attention(implementation: str) -> None:
    model: Any = prefix(small(), length=4).eval()
    reference = model(rows().inputs)
    model.body.set_attn_implementation(implementation)
    torch.testing.assert_close(model(rows().inputs), reference)


def test_low_rank_and_adapters_fit_a_transformer_too() -> None:
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


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(StrategyError, match=r"prompt: expected a model that holds a transformer, got Linear"):
        prompt(nn.Linear(1, 1))
    with pytest.raises(StrategyError, match=r"prefix: expected a model that holds self-attention"):
        prefix(nn.Linear(1, 1))
    with pytest.raises(StrategyError, match=r"prefix.length: expected 1 or more, got 0"):
        prefix(small(), 0)
    with pytest.raises(StrategyError, match=r"bert.width: expected a multiple of 16, got 20; try 32"):
        bert(width=20)
