"""How a model is called, and what of its answer counts, where it does not simply map a tensor to a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from incr_core.batch import Inputs
from incr_core.errors import ArgumentError

__all__ = ["answer_of", "arguments_of", "ask", "settle_calls", "takes_by_name", "undecided"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def answer_of(output: Any) -> Tensor:
    """What counts of a model's answer: the tensor itself; `logits` of a dict or of an object that has them, such as
    a ModelOutput of the transformers library; else the first element of a tuple.

    ArgumentError that names what came, where that is no tensor.

    >>> import torch
    >>> answer_of({"loss": None, "logits": torch.ones(1)}), answer_of((torch.zeros(1), "more"))
    (tensor([1.]), tensor([0.]))
    >>> answer_of({"hidden": torch.ones(1)})
    Traceback (most recent call last):
    ...
    incr_core.errors.ArgumentError: model: expected an answer that is a tensor, has logits, or is a tuple that begins
    with one, got dict of hidden; return the tensor that the objective is for, or name it logits
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    parts: list[str] = []
    if isinstance(output, Mapping):
        parts = [str(key) for key in output]
    elif isinstance(output, (tuple, list)):
        parts = [type(part).__name__ for part in output]
    of = f" of {', '.join(parts)}" if parts else ""
    raise ArgumentError(
        "model: expected an answer that is a tensor, has logits, or is a tuple that begins with one, "
        f"got {type(output).__name__}{of}; return the tensor that the objective is for, or name it logits"
    )


def takes_by_name(model: nn.Module, names: Collection[str]) -> bool:
    """Whether a model's forward takes a dict's entries as arguments by name, and not the dict as one.

    So it is where the forward has several parameters of which the dict's keys are names (of some of them, where it
    takes any others too). A wrapper that passes on whatever it is given is as the one module in it.

    >>> class Bert(nn.Module):
    ...     def forward(self, input_ids, attention_mask=None): ...
    >>> takes_by_name(Bert(), ["input_ids"]), takes_by_name(Bert(), ["inputs", "task"])
    (True, False)
    >>> class OfOne(nn.Module):
    ...     def forward(self, inputs): ...
    >>> takes_by_name(OfOne(), ["inputs"])
    False
    """
    known, anything = arguments_of(model)
    found = known.intersection(names)
    return len(known) > 1 and bool(found) and (anything or len(found) == len(names))


def arguments_of(model: nn.Module) -> tuple[frozenset[str], bool]:
    """The names that a model's forward takes, and whether it takes any others too; a wrapper's are those inside.

    >>> sorted(arguments_of(nn.Bilinear(1, 1, 1))[0])
    ['input1', 'input2']
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of a scripted or built-in forward
        return frozenset(), False
    known = frozenset(parameter.name for parameter in parameters if parameter.kind in _NAMED)
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    inside = list(model.children())
    return arguments_of(inside[0]) if anything and not known and len(inside) == 1 else (known, anything)


def ask(model: nn.Module, inputs: Inputs) -> Tensor:
    """A model's answer to inputs, once; `settle_calls` is for many times.

    >>> import torch
    >>> ask(nn.Identity(), torch.ones(1))
    tensor([1.])
    """
    by_name = isinstance(inputs, dict) and takes_by_name(model, inputs)
    return answer_of(model(**inputs) if by_name else model(inputs))  # type: ignore[arg-type]


def settle_calls(model: nn.Module) -> None:
    """Have `model(inputs)` take a batch's inputs, and give a tensor, from now on, whoever calls it.

    Hooks see to it (`takes_by_name`, `answer_of`), and take themselves off at the first calls of a model that needs
    none, so that its steps are as they were.

    >>> import torch
    >>> class Classifier(nn.Module):
    ...     def forward(self, left, right=None):
    ...         return {"logits": left - right}
    >>> model = Classifier(); settle_calls(model)
    >>> model({"left": torch.ones(1), "right": torch.zeros(1)})
    tensor([1.])
    """
    by_name, answer = _ByName(), _Answer()
    by_name.handle = model.register_forward_pre_hook(by_name, with_kwargs=True)
    answer.handle = model.register_forward_hook(answer)


_UNDECIDED = ContextVar("undecided", default=False)


@contextmanager
def undecided() -> Iterator[None]:
    """Inside, no hook of `settle_calls` takes itself off: a model that is only tried is to stay as it is.

    >>> import torch
    >>> model = nn.Identity(); settle_calls(model)
    >>> with undecided():
    ...     answer = model(torch.ones(1))
    >>> answer
    tensor([1.])
    """
    token = _UNDECIDED.set(True)
    try:
        yield
    finally:
        _UNDECIDED.reset(token)


class _ByName:
    """Gives a dict's entries by name; decided at the first call."""

    handle: RemovableHandle
    needed = False

    def __call__(self, model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        inputs = given[0] if len(given) == 1 and not named and isinstance(given[0], dict) else None
        if not self.needed:
            self.needed = inputs is not None and takes_by_name(model, inputs)
            if not self.needed:
                if not _UNDECIDED.get():
                    self.handle.remove()
                return None
        return None if inputs is None else ((), inputs)


class _Answer:
    """Gives what counts of an answer; decided once the model was seen in both modes, since some answer more in one."""

    handle: RemovableHandle

    def __init__(self) -> None:
        self.needed = False
        self.seen: set[bool] = set()

    def __call__(self, model: nn.Module, given: Any, output: Any) -> Tensor | None:
        if isinstance(output, Tensor):
            if not self.needed and not _UNDECIDED.get():
                self.seen.add(model.training)
                if len(self.seen) == 2:
                    self.handle.remove()
            return None
        self.needed = True
        return answer_of(output)
