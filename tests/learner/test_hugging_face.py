"""Models of Hugging Face as they are: called by name, answering with a ModelOutput; skipped where `text` is missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.models.adapt import ia3, merge_lora, peft_lora, prefix, prompt
from incr_core.objectives import Multiclass, NextToken
from incr_core.strategies import DER, EWC, FeatureDistillation, LwF

pytestmark = [
    pytest.mark.text,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("peft") is None, reason="needs incr[text]"),
]

SGD = partial(torch.optim.SGD, lr=0.1)


def classifier() -> Any:
    torch.manual_seed(0)
    import transformers

    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def generative() -> Any:
    torch.manual_seed(0)
    import transformers

    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=32, num_labels=3, pad_token_id=0
    )
    return transformers.GPT2ForSequenceClassification(config)


def rows(count: int = 20) -> Batch:
    ids = torch.randint(2, 50, (count, 7), generator=torch.Generator().manual_seed(1))
    ids[::3, 5:] = 0  # padding
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return Batch(inputs, ids[:, 1] % 3, row_ids=torch.arange(count))


@pytest.mark.parametrize("make", [classifier, generative])
def test_a_learner_equals_a_loop_written_by_hand(make: Callable[[], Any]) -> None:
    data = rows()
    learner = Learner(make(), Multiclass(3), SGD, batch_size=8, shuffle=False, epochs=2, clip=1.0, seed=7)
    learner.learn(data)

    model = make().train()
    optimizer = SGD(model.parameters())
    torch.manual_seed(7)  # for Dropout
    for _ in range(2):
        for part in data.split(8):
            assert isinstance(part.inputs, dict)
            optimizer.zero_grad()
            F.cross_entropy(model(**part.inputs).logits, part.targets).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, learner.weights()[f"model.{name}"]), name
    expected = model.eval()(**data.inputs).logits.softmax(1)  # type: ignore[arg-type]
    assert torch.equal(learner.predict(data.inputs), expected)


def test_strategies_that_look_at_outputs_and_gradients_fit() -> None:
    """Each sees logits (B, 3): a strength of zero equals none, and another does not."""

    def weights(*strategies: Any) -> torch.Tensor:
        learner = Learner(classifier(), Multiclass(3), SGD, strategies, batch_size=10)
        for _ in range(2):
            learner.learn(rows())
        found: torch.Tensor = learner.model.classifier.weight  # type: ignore[union-attr, assignment]
        return found.detach()

    plain = weights()
    for strategy in (partial(EWC, samples=4), LwF, FeatureDistillation):
        assert torch.equal(weights(strategy(strength=0.0)), plain)
        assert not torch.equal(weights(strategy(strength=5.0)), plain)
    assert not torch.equal(weights(DER(capacity=20)), plain)


@pytest.mark.parametrize("make", [classifier, generative])
@pytest.mark.parametrize("adapt", [prompt, prefix, peft_lora, ia3])
def test_classifiers_are_adapted_as_they_are(make: Callable[[], Any], adapt: Callable[[nn.Module], Any]) -> None:
    model = adapt(make())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    learner = Learner(model, Multiclass(3), partial(torch.optim.Adam, lr=0.01), batch_size=10, epochs=2)
    learner.learn(rows())
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(learner.context.names)
    head = "classifier.weight" if make is classifier else "score.weight"
    assert head in moved
    assert all(name == head or name.startswith(("classifier", "score")) or "prompt_encoder" in name or "lora_" in name
               or "ia3_" in name for name in moved)  # fmt: skip
    if adapt in (peft_lora, ia3):
        expected = learner.predict(rows().inputs)
        again = Learner(merge_lora(model).requires_grad_(True), Multiclass(3), SGD)
        assert {name for name, _ in again.model.named_parameters()} == {name for name, _ in make().named_parameters()}
        torch.testing.assert_close(again.predict(rows().inputs), expected)


def test_a_model_that_its_owner_gave_to_peft_is_learned() -> None:
    """PeftModel without a kind of task passes on whatever it is given."""
    import peft

    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        model = peft.get_peft_model(classifier(), peft.LoraConfig(target_modules=["query"], r=2))
    learner = Learner(model, Multiclass(3), SGD, batch_size=10, epochs=2)
    learner.learn(rows())
    assert {name.rpartition(".lora_")[2] for name in learner.context.names} == {"A.default.weight", "B.default.weight"}
    assert learner.predict(rows().inputs).shape == (20, 3)


def test_a_model_that_has_learned_generates_as_it_did() -> None:
    """`generate` calls the model by the names of its arguments, and reads more of the answer than the logits."""
    torch.manual_seed(0)
    import transformers

    config = transformers.GPT2Config(
        vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(2, 20, (8, 6), generator=torch.Generator().manual_seed(1))
    Learner(model, NextToken(20), partial(torch.optim.Adam, lr=0.05), epochs=5).learn(Batch(ids, ids))
    bare = transformers.GPT2LMHeadModel(config)
    bare.load_state_dict(model.state_dict())
    mask = torch.ones_like(ids)
    told, expected = (each.eval().generate(ids, attention_mask=mask, max_new_tokens=4) for each in (model, bare))
    assert torch.equal(told, expected)
