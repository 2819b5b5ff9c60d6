"""Models whose forward takes names, and answers more than a tensor."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.commands.distill import Taught
from incr_core.errors import ArgumentError
from incr_core.learner import Learner
from incr_core.learner._independence import rows_independent
from incr_core.objectives import Multiclass
from incr_core.strategies import AGEM, DER, EWC, MIR, GDumb, LwF, PackNet, Replay, Selective, Strategy
from incr_core.strategies.mechanisms import fisher_diagonal

SGD = partial(torch.optim.SGD, lr=0.1)
Pair = namedtuple("Pair", ["logits", "auxiliary"])


class Plain(nn.Module):
    """A tensor to a tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, inputs: Tensor) -> Any:
        output: Tensor = self.layers(inputs)
        return output


class Answers(Plain):
    """Answers in some form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.form = form

    def forward(self, inputs: Tensor) -> Any:
        return self.form(super().forward(inputs))


class MoreWhileTraining(Plain):
    def forward(self, inputs: Tensor) -> Any:
        output: Tensor = super().forward(inputs)
        return (output, output * 2) if self.training else output


class Named(Plain):
    """Takes two thirds of a row, and the rest, by name."""

    def forward(self, left: Tensor, right: Tensor | None = None, scale: float = 1.0) -> Any:
        assert right is not None
        return super().forward(torch.cat([left, right], dim=1) * scale)


class WantsTheDict(Plain):
    def forward(self, inputs: Any, scale: float = 1.0) -> Any:
        return super().forward(torch.cat([inputs["left"], inputs["right"]], dim=1) * scale)


FORMS: dict[str, Callable[[], nn.Module]] = {
    "a dict": lambda: Answers(lambda output: {"hidden": output * 3, "logits": output}),
    "a named tuple": lambda: Answers(lambda output: Pair(output, None)),
    "a tuple": lambda: Answers(lambda output: (output, output * 3)),
    "a list": lambda: Answers(lambda output: [output]),
    "a tuple while it trains": MoreWhileTraining,
}


def rows(count: int = 24, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=generator)
    return Batch(inputs, (inputs[:, 0] > 0).long(), row_ids=torch.arange(count) + 1000 * seed)


def by_name(batch: Batch) -> Batch:
    assert isinstance(batch.inputs, Tensor)
    inputs = {"right": batch.inputs[:, 2:], "left": batch.inputs[:, :2]}
    return Batch(inputs, batch.targets, row_ids=batch.row_ids)


def learned(model: nn.Module, strategies: list[Strategy], change: Callable[[Batch], Batch] = lambda b: b) -> Learner:
    learner = Learner(model, Multiclass(2), SGD, strategies, batch_size=8, accumulate=2, clip=1.0)
    learner.predict(change(rows()).inputs)
    for seed in (0, 1):
        learner.learn(change(rows(seed=seed)))
    return learner


def same(one: Learner, other: Learner) -> None:
    theirs = other.weights()
    assert all(torch.equal(value, theirs[name]) for name, value in one.weights().items())


CHAINS: dict[str, Callable[[], list[Strategy]]] = {
    "none": list,
    "replay, der, lwf": lambda: [Replay(capacity=10), DER(capacity=10), LwF(strength=1.0)],
    "ewc, agem": lambda: [EWC(strength=10.0), AGEM(capacity=10, rows=4)],
    "mir": lambda: [MIR(capacity=10)],
    "selective": lambda: [Selective(beta=1.0)],
    "packnet": lambda: [PackNet(tasks=3, retrain=1)],
    "gdumb": lambda: [GDumb(capacity=10)],
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_answer_is_learned_as_the_tensor_in_it(form: str, chain: str) -> None:
    expected, got = learned(Plain(), CHAINS[chain]()), learned(FORMS[form](), CHAINS[chain]())
    same(got, expected)
    assert torch.equal(got.predict(rows().inputs), expected.predict(rows().inputs))
    assert got.loss_of(rows()) == expected.loss_of(rows())


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("model", [Named, WantsTheDict])
def test_a_dict_is_given_by_name_where_the_forward_has_its_names(model: type[nn.Module], chain: str) -> None:
    same(learned(model(), CHAINS[chain](), by_name), learned(Plain(), CHAINS[chain]()))


def test_a_wrapper_of_anything_takes_what_the_module_in_it_takes() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Named()

        def forward(self, *given: Any, **named: Any) -> Any:
            return self.inner(*given, **named)

    expected = learned(Plain(), []).predict(rows().inputs)
    assert torch.equal(learned(Wrapper(), [], by_name).predict(by_name(rows()).inputs), expected)


def test_a_student_is_taught_the_tensor_in_the_answer() -> None:
    taught = [learned(Plain(), [Taught(learned(make(), []), 1.0, 2.0)]) for make in (FORMS["a dict"], Plain)]
    same(*taught)
    assert not torch.equal(taught[0].predict(rows().inputs), learned(Plain(), []).predict(rows().inputs))


@pytest.mark.parametrize("form", FORMS)
def test_fisher_information_is_that_of_the_tensor(form: str) -> None:
    model = FORMS[form]()
    Learner(model, Multiclass(2), SGD)
    found, expected = (fisher_diagonal(each, Multiclass(2), rows()) for each in (model, Plain()))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("form", [*FORMS, "by name"])
def test_shards_may_divide_rows_whatever_the_form(form: str) -> None:
    """Trying it out must not take hooks off, which would look like a forward that changes what the model holds."""
    model, data = (FORMS[form](), rows()) if form in FORMS else (Named(), by_name(rows()))
    learner = Learner(model, Multiclass(2), SGD)
    learner.predict(data.inputs)
    model.train()
    assert rows_independent(model, Multiclass(2), data, 2) is True
    assert learner.loss_of(data) > 0


def test_an_answer_that_holds_no_output_is_named() -> None:
    forms: list[tuple[Callable[[Tensor], Any], str]] = [
        (lambda output: {"hidden": output, "pooled": output}, "dict of hidden, pooled"),
        (lambda output: (None, output), "tuple of NoneType, Tensor"),
        (lambda output: 3.0, "float"),
    ]
    for form, got in forms:
        with pytest.raises(
            ArgumentError, match=f"^model: expected an answer that is a tensor, .*, got {got}; return the"
        ):
            Learner(Answers(form), Multiclass(2), SGD).learn(rows())


def test_a_model_that_needs_nothing_is_as_it_was_once_it_has_learned() -> None:
    seen: list[bool] = []

    class Watched(Plain):
        def forward(self, inputs: Tensor) -> Any:
            seen.append(bool(self._forward_hooks or self._forward_pre_hooks))
            return super().forward(inputs)

    def hooked(act: Callable[[], object]) -> bool:
        seen.clear()
        act()
        return any(seen)

    data = rows(8)
    alone = Learner(Watched(), Multiclass(2), SGD)
    assert hooked(lambda: alone.learn(data))
    assert not hooked(lambda: alone.learn(data))
    assert hooked(lambda: alone.predict(data.inputs))  # in another mode it may answer otherwise
    assert not hooked(lambda: alone.learn(data))
    assert not hooked(lambda: alone.predict(data.inputs))
    watched = Learner(Watched(), Multiclass(2), SGD, [Replay(capacity=4)])  # a strategy may call it in any mode
    watched.learn(data)
    assert hooked(lambda: watched.learn(data))
    watched.predict(data.inputs)
    assert not hooked(lambda: watched.learn(data))


class MoreWhileAnswering(Plain):
    def forward(self, inputs: Tensor) -> Any:
        output: Tensor = super().forward(inputs)
        return output if self.training else (output, output * 2)


def test_a_model_that_answers_more_when_it_predicts_is_seen_to() -> None:
    expected, got = (Learner(model, Multiclass(2), SGD) for model in (Plain(), MoreWhileAnswering()))
    for learner in (expected, got):
        learner.learn(rows())
        learner.learn(rows())
    assert torch.equal(got.predict(rows().inputs), expected.predict(rows().inputs))
    same(*(learned(model(), [EWC(strength=10.0)]) for model in (MoreWhileAnswering, Plain)))


def test_who_calls_a_model_by_the_names_of_its_arguments_has_its_own_answer() -> None:
    """So do methods of the model, such as a transformer's `generate`."""
    model: Any = FORMS["a dict"]()
    learner = Learner(model, Multiclass(2), SGD)
    learner.learn(rows())
    inputs = rows().inputs
    answer = model(inputs=inputs)
    assert sorted(answer) == ["hidden", "logits"]
    assert torch.equal(model(inputs), answer["logits"])


def test_a_second_learner_of_the_same_model_learns_alike() -> None:
    model = FORMS["a dict"]()
    learned(model, [])
    again = Plain()
    learned(again, [])
    same(learned(model, []), learned(again, []))


@pytest.mark.parametrize("form", [lambda logits: logits, lambda logits: {"logits": logits}])
def test_how_a_model_is_called_does_not_keep_shards_from_dividing_a_batch(form: Callable[[Tensor], Any]) -> None:
    learner, batch = Learner(Answers(form), Multiclass(2), SGD, shard=(0, 2)), rows()
    learner.again(batch)
    assert len(learner.division.share(batch)[0]) == len(batch) // 2
