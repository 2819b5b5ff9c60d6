"""Tensors of modules, each listed once under its first name, with its merge rule.

A module may occur several times in a model (ALBERT's layers, the towers of a siamese network), and a tensor in several
modules (a decoder tied to its embedding). It is exchanged, merged, stepped and stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from incr_core.errors import ArgumentError
from incr_core.numerics import is_persistent, refusal_of, writes

__all__ = ["Entries", "merge_rules"]


class Place(NamedTuple):
    """Location of a tensor: an attribute of a module, under one of the module's names."""

    name: str
    module: nn.Module
    attribute: str
    tensor: Tensor

    @property
    def kept(self) -> bool:
        """Whether the module's state contains it; false for buffers registered with `persistent=False`."""
        return is_persistent(self.module, self.attribute)


@dataclass(slots=True)
class Constant:
    """A non-persistent buffer, which learning must not change: its initial value and number of writes."""

    place: Place
    value: Tensor
    writes: int


class Entries:
    """The tensors of modules, by name. Names are resolved once, and tensors are read as they are now.

    Args:
        modules: Modules, by the first part of the names.

    Attributes:
        rules: Merge rule of each entry.

    Raises:
        ArgumentError: A tensor cannot be merged, or has no shape yet.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> entries = Entries(model=nn.Sequential(layer, nn.ReLU(), layer))
        >>> entries.rules
        {'model.0.weight': 'mean', 'model.0.bias': 'mean'}
    """

    def __init__(self, **modules: nn.Module) -> None:
        self._modules = modules
        places = list(self._places())
        for place in places:
            _check_made(place)
        self._names = {place.name for place in places}
        by_tensor = _by_tensor(place for place in places if place.kept)
        self._first = [same[0] for same in by_tensor]
        self._others = [
            (same[0], other) for same in by_tensor for other in same[1:] if other.module is not same[0].module
        ]
        self.rules = {same[0].name: _rule(same) for same in by_tensor}
        for place in self._first:
            _check_mergeable(place, self.rules[place.name])
        kept = {id(place.tensor) for place in self._first}
        unkept = [same[0] for same in _by_tensor(place for place in places if id(place.tensor) not in kept)]
        self._constants = [Constant(p, p.tensor.detach().clone(), writes(p.tensor)) for p in unkept]

    def _places(self) -> Iterator[Place]:
        for name, module in self._modules.items():
            for place in _places(module):
                yield place._replace(name=f"{name}.{place.name}")

    def read(self) -> dict[str, Tensor]:
        """Return the current tensors, by name; views of the live ones, without gradients."""
        for first, other in self._others:
            if getattr(other.module, other.attribute) is not getattr(first.module, first.attribute):
                raise ArgumentError(
                    f"{other.name}: expected the tensor that it shares with {first.name}, got another, since a forward "
                    f"assigned one; write into it (`{other.attribute}.copy_(...)`), or give each a separate tensor"
                )
        return {place.name: getattr(place.module, place.attribute).detach() for place in self._first}

    def check_constants(self) -> None:
        """Raise an ArgumentError if learning has changed a buffer that is neither saved nor merged."""
        for constant in self._constants:
            place = constant.place
            now: Tensor | None = getattr(place.module, place.attribute)
            if now is None or (now is place.tensor and writes(now) == constant.writes):
                continue
            was = constant.value.to(now.device)
            # A buffer of another shape is a cache that depends on the inputs, such as positions up to the longest
            # sequence.
            if (now.shape, now.dtype) == (was.shape, was.dtype) and not torch.equal(now.detach(), was):
                raise ArgumentError(
                    f"{place.name}: expected a buffer with persistent=False to stay as it was, and learning changed "
                    "it: it would be neither saved nor merged; register it with persistent=True, or keep what no later "
                    "step depends on in a plain attribute"
                )
            constant.writes = writes(now)
            constant.place = place._replace(tensor=now)

    def check_names(self) -> None:
        """Raise an ArgumentError if a forward has created a tensor since construction."""
        for place in self._places():
            if place.name not in self._names:
                raise ArgumentError(
                    f"{place.name}: expected all tensors to exist when the learner is made, and a forward made this "
                    "one: no optimizer moves it, and it would be neither saved nor merged; make it in __init__, or "
                    "run one forward, under a seed, before"
                )


def merge_rules(module: nn.Module) -> dict[str, str]:
    """Return the merge rule of each tensor of a module, by its first name.

    Floating and complex parameters: "mean". Floating and complex buffers: "average", the same mean, which the outer
    step does not modify (momentum would make a running variance negative). Integers and booleans: "max", because a mean
    of counts or masks is meaningless. A module may declare other rules in a class attribute `merge = {buffer: rule}`;
    "sum" adds the participants' additions to the anchor's value.

    Example:
        >>> rules = merge_rules(nn.BatchNorm1d(2))
        >>> rules["weight"], rules["running_var"], rules["num_batches_tracked"]
        ('mean', 'average', 'max')
    """
    return {same[0].name: _rule(same) for same in _by_tensor(_places(module))}


def _places(module: nn.Module) -> Iterator[Place]:
    """Yield every tensor under every name, in the order of `state_dict`."""
    for prefix, part in module.named_modules(remove_duplicate=False):
        for attribute, tensor in [
            *part.named_parameters(recurse=False, remove_duplicate=False),
            *part.named_buffers(recurse=False, remove_duplicate=False),
        ]:
            yield Place(f"{prefix}.{attribute}" if prefix else attribute, part, attribute, tensor)


def _by_tensor(places: Iterator[Place]) -> list[list[Place]]:
    found: dict[int, list[Place]] = {}
    for place in places:
        found.setdefault(id(place.tensor), []).append(place)
    return list(found.values())


def _rule(same: list[Place]) -> str:
    """Return the merge rule of a tensor at these places."""
    declared: dict[str, str] = {}
    for place in same:
        rules: Mapping[str, str] = getattr(place.module, "merge", {})
        if place.attribute in rules:
            declared[place.name] = rules[place.attribute]
    if len({*declared.values()}) > 1:
        told = ", ".join(f"{rule!r} as {name}" for name, rule in declared.items())
        raise ArgumentError(f"{same[0].name}: expected one rule by which it merges, got {told}: it is one tensor")
    tensor = same[0].tensor
    average = "mean" if isinstance(tensor, nn.Parameter) else "average"
    fallback = average if tensor.is_floating_point() or tensor.is_complex() else "max"
    return next(iter(declared.values()), fallback)


def _check_made(place: Place) -> None:
    if is_lazy(place.tensor):
        raise ArgumentError(
            f"{place.name}: expected a tensor with a shape, got one that {type(place.module).__name__} makes in its "
            "first forward; run one before the learner is made, under a seed: torch.manual_seed(0); model(inputs)"
        )


def _check_mergeable(place: Place, rule: str) -> None:
    tensor = place.tensor
    if tensor.is_meta:
        raise ArgumentError(
            f"{place.name}: expected a tensor with values, got one on the meta device; load the model first"
        )
    if tensor.layout is not torch.strided:
        raise ArgumentError(
            f"{place.name}: expected a dense tensor, got one of {tensor.layout}; keep it with .to_dense()"
        )
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise ArgumentError(
            f"{place.name}: expected a tensor with room for all its values, got an expanded one; .clone() it"
        )
    if (refusal := refusal_of(tensor.dtype, rule)) is not None:
        raise ArgumentError(f"{place.name}: {refusal}")
