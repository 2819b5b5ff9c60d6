"""Texts in the built-in model: sums over words, whatever is cut how, and nothing for what is no word."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from incr_core.models import TableMLP, TableShape
from incr_core.models import _text as text_module
from incr_core.models._text import TextBag

SHAPE = TableShape(numeric=2, categorical=0, buckets=2, outputs=3, text=2, slots=5, text_buckets=50)


def texts(rows: int, seed: int = 0) -> torch.Tensor:
    made = torch.randint(1, 50, (rows, 2, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    made[:, :, 4:] = 0
    return made


def test_the_sums_are_those_of_the_formula() -> None:
    bag = TextBag(columns=2, buckets=50, embedding=3, outputs=2)
    nn.init.normal_(bag.words.weight)  # row 0 too: what is no word counts nothing whatever its weights
    found = texts(4)
    deep, wide = bag(found)
    expected = torch.stack([bag.words.weight[row[row > 0]].sum(0) / 2 for row in found.reshape(8, 5)]).reshape(4, 2, 5)
    torch.testing.assert_close(deep, 3 * expected[..., :3].flatten(1))
    torch.testing.assert_close(wide, 24 * expected[..., 3:].sum(1))


def test_of_many_rows_a_few_words_are_looked_up_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bag = TextBag(columns=2, buckets=50, embedding=3, outputs=2)
    whole = bag(texts(40))[0]
    monkeypatch.setattr(text_module, "AT_ONCE", 200)
    torch.testing.assert_close(bag(texts(40))[0], whole)


def test_no_word_is_never_learned() -> None:
    model = TableMLP(SHAPE, [4])
    inputs = {"numeric": torch.randn(6, 2), "text": texts(6)}
    model(inputs).square().sum().backward()
    assert isinstance(model.text, TextBag)
    assert model.text.words.weight.grad is not None
    assert not model.text.words.weight.grad[0].any()
    assert model.text.words.weight.grad[1:].any()
    assert model.text.words.weight[0].abs().sum() == 0


def test_words_say_nothing_of_the_output_at_first_and_none_has_a_weight_for_each_of_many() -> None:
    bag = TextBag(columns=1, buckets=50, embedding=3, outputs=2)
    assert not bag(texts(3)[:, :1])[1].any()
    many = TextBag(columns=1, buckets=50, embedding=3, outputs=65)
    assert many(texts(3)[:, :1])[1] is None
    assert many.words.weight.shape == (50, 3)
    inputs = {"numeric": torch.zeros(3, 2), "text": texts(3)}
    assert TableMLP(SHAPE, [4])(inputs).shape == (3, 3)
