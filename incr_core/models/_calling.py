"""Calling conventions of models that do not simply map a tensor to a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from incr_core.batch import Inputs
from incr_core.errors import ArgumentError

__all__ = ["Calls", "answer_of", "arguments_of", "ask", "takes_by_name"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def answer_of(output: Any) -> Tensor:
    """Return the tensor of a model's output that the objective uses.

    It is the output itself; or the `logits` of a dict or of an object, such as a ModelOutput of the transformers
    library; or the first element of a tuple.

    Raises:
        ArgumentError: The output contains no such tensor.

    Example:
        >>> import torch
        >>> answer_of({"loss": None, "logits": torch.ones(1)}), answer_of((torch.zeros(1), "more"))
        (tensor([1.]), tensor([0.]))
        >>> answer_of({"hidden": torch.ones(1)})
        Traceback (most recent call last):
        ...
        incr_core.errors.ArgumentError: model: expected an answer that is a tensor, has logits, or is a tuple that
        begins with one, got dict of hidden; return the tensor that the objective is for, or name it logits
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
    """Whether a model's forward takes a dict's entries as named arguments, instead of the dict as one argument.

    That holds if the forward has several parameters and all keys are names of parameters (or some, if it accepts
    arbitrary named arguments). A wrapper that passes on its arguments is treated as the single module inside it.

    Example:
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
    """Return the parameter names of a model's forward, and whether it accepts arbitrary named arguments.

    For a wrapper that passes on its arguments, these are the names of the module inside.

    Example:
        >>> sorted(arguments_of(nn.Bilinear(1, 1, 1))[0])
        ['input1', 'input2']
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a scripted or built-in forward
        return frozenset(), False
    known = frozenset(parameter.name for parameter in parameters if parameter.kind in _NAMED)
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    inside = list(model.children())
    return arguments_of(inside[0]) if anything and not known and len(inside) == 1 else (known, anything)


def ask(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return a model's output for inputs once; `Calls` is for repeated calls.

    Example:
        >>> import torch
        >>> ask(nn.Identity(), torch.ones(1))
        tensor([1.])
    """
    by_name = isinstance(inputs, dict) and takes_by_name(model, inputs)
    return answer_of(model(**inputs) if by_name else model(inputs))  # type: ignore[arg-type]


class Calls:
    """Makes `model(inputs)` accept a batch's inputs and return a tensor for any caller (`takes_by_name`, `answer_of`).

    Calls with named arguments, such as those by the model's author, are unchanged.

    Example:
        >>> import torch
        >>> class Classifier(nn.Module):
        ...     def forward(self, left, right=None):
        ...         return {"logits": left - right}
        >>> model = Classifier(); calls = Calls(model)
        >>> model({"left": torch.ones(1), "right": torch.zeros(1)})
        tensor([1.])
        >>> model(left=torch.ones(1), right=torch.zeros(1))
        {'logits': tensor([1.])}
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._by_name: bool | None = None  # unknown before the first call
        self._answers = True  # whether all outputs so far were tensors
        self._modes: set[bool] = set()  # modes observed so far, because some models return more in training mode
        self._ours = False
        self._handles: list[RemovableHandle] = []
        self._attach()

    def settled(self, training: bool, *, alone: bool) -> bool:
        """Whether the calling convention is known; hooks are removed from a model that needs none, which is then as
        fast as before.

        Args:
            training: Mode of the following calls.
            alone: Whether all calls until the next call of this method have that mode. The hooks are then removed if
                the model returns a tensor in that mode.
        """
        if self._by_name or not self._answers:
            return True
        known = len(self._modes) == 2
        if known or (alone and training in self._modes):
            self._detach()
        elif not self._handles:
            self._attach()
        return known

    def _attach(self) -> None:
        # Before any hook that modifies the inputs.
        before = self._model.register_forward_pre_hook(self._give, with_kwargs=True, prepend=True)
        self._handles = [before, self._model.register_forward_hook(self._take)]

    def _detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _give(self, model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._ours = len(given) == 1 and not named
        if not self._ours:
            return None
        inputs = given[0]
        if self._by_name is None:
            self._by_name = isinstance(inputs, dict) and takes_by_name(model, inputs)
        return ((), inputs) if self._by_name and isinstance(inputs, dict) else None

    def _take(self, model: nn.Module, given: Any, output: Any) -> Tensor | None:
        if not self._ours:
            return None
        self._modes.add(model.training)
        if isinstance(output, Tensor):
            return None
        self._answers = False
        return answer_of(output)
