"""Units of a model that FSDP gathers one at a time, and checks for models that FSDP cannot shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from incr_core.errors import JobError

__all__ = ["check_shardable", "explaining_uncalled", "kept_whole", "units_of"]

UNKNOWN = frozenset(
    [
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
        *(torch.int16, torch.uint16, torch.uint32, torch.uint64),
    ]
)
"""Types for which gloo has no gather."""


def units_of(model: nn.Module) -> list[nn.Module]:
    """Return the units to gather one at a time, inner units first; the last one is the model.

    The units are the layers of every `nn.ModuleList`, each once. A layer that shares a parameter with a module outside
    of it is no unit, because FSDP keeps a shared parameter single only within a unit. Modules whose trainable
    parameters have another type than the rest of their unit are separate units.

    Raises:
        JobError: A module needs a separate unit and cannot be one.

    Example:
        >>> layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
        >>> model = nn.Module(); model.layers = layers
        >>> len(units_of(model))
        3
        >>> layers[1].weight = layers[0].weight
        >>> len(units_of(model))
        1
    """
    parts = list(model.modules())
    # A list of parametrizations computes a weight, also outside of a forward. It is gathered with its layer.
    lists = [part for part in parts if isinstance(part, nn.ModuleList) and not isinstance(part, ParametrizationList)]
    layers = [layer for part in lists for layer in part if _called(layer)]
    units = {layer for layer in layers if _apart(layer, model)} | {model}
    names = {weight: name for name, weight in model.named_parameters()}
    for unit in list(units):
        units |= _of_other_types(unit, units, model)
    for own in (_own(unit, units) for unit in units):
        for other in own[1:]:
            if other.dtype != own[0].dtype:
                raise _refused(
                    names[other],
                    f"{_word(other)} where {names[own[0]]} is {_word(own[0])}, and the two must be gathered together",
                    "make them of one type, or put one into a separate module that has a forward",
                )
    return [part for part in reversed(parts) if part in units]


def check_shardable(model: nn.Module) -> None:
    """Raise JobError, with the name of the parameter, for a model that FSDP cannot shard or would train differently."""
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            if part.max_norm is not None:
                raise _refused(
                    f"{name}.weight".lstrip("."),
                    f"of an {type(part).__name__} with max_norm, which scales rows of it in the forward; "
                    "there it is a copy, gathered from the shards",
                    "leave max_norm out and scale the rows that are looked up, or the weight after each step",
                )
            if part.sparse:
                raise _refused(
                    f"{name}.weight".lstrip("."),
                    f"of an {type(part).__name__} with sparse gradients, which cannot be added up between shards",
                    "say sparse = False",
                )
    named = dict(model.named_parameters())
    for name, weight in named.items():
        if is_lazy(weight):
            raise _refused(name, "not made yet", "run the model once on a row where it is made")
        if weight.dim() == 0:
            raise _refused(name, "a single number without a dimension", "give it the shape (1,)")
    for one, other in _overlapping(named):
        raise _refused(
            other, f"in the memory of another, {one}", f"make both one nn.Parameter: module.{other} = module.{one}"
        )


def kept_whole(model: nn.Module) -> set[nn.Parameter]:
    """Parameters that each shard keeps whole: frozen ones of a type that cannot be gathered.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> model.scale = nn.Parameter(torch.ones(1).to(torch.float8_e5m2), requires_grad=False)
        >>> [weight.dtype for weight in kept_whole(model)]
        [torch.float8_e5m2]
    """
    return {weight for weight in model.parameters() if weight.dtype in UNKNOWN and not weight.requires_grad}


@contextmanager
def explaining_uncalled(model: nn.Module) -> Iterator[None]:
    """Raise JobError if a forward reads the weights of a layer without calling it: they are not gathered then."""
    try:
        yield
    except RuntimeError as error:
        if "got mixed torch.Tensor and DTensor" not in str(error):
            raise
        lists = [name or "model" for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
        raise JobError(
            "cluster.shards: expected a forward that calls the layers of its nn.ModuleLists, got one that reads the "
            f"weights of a layer of {', '.join(lists)} without calling it, before which they are not gathered; call "
            "the layer, keep it outside of the nn.ModuleList, or set shards = 1"
        ) from error


def _refused(parameter: str, got: str, remedy: str) -> JobError:
    return JobError(
        f"cluster.shards: expected parameters that can be sharded, got {parameter}, {got}; {remedy}, or set shards = 1"
    )


def _word(weight: Tensor) -> str:
    return str(weight.dtype).removeprefix("torch.")


def _called(part: nn.Module) -> bool:
    """Return whether a module has a forward, before which it can be gathered. Containers have none."""
    return type(part).forward is not nn.Module.forward


def _apart(part: nn.Module, model: nn.Module) -> bool:
    """Return whether no parameter of a part also occurs outside of it."""
    outside = {weight for other in _without(model, part) for weight in other.parameters(recurse=False)}
    return outside.isdisjoint(part.parameters())


def _without(model: nn.Module, part: nn.Module) -> Iterator[nn.Module]:
    """Modules that are reachable from the model other than through a part."""
    seen, ahead = {part}, [model]
    while ahead:
        if (module := ahead.pop()) not in seen:
            seen.add(module)
            ahead += module.children()
            yield module


def _own(unit: nn.Module, units: set[nn.Module]) -> list[nn.Parameter]:
    """Trainable parameters that are gathered with a unit and with no unit inside it."""
    within = [other for other in unit.modules() if other in units and other is not unit]
    elsewhere = {weight for other in within for weight in other.parameters()}
    return [weight for weight in unit.parameters() if weight.requires_grad and weight not in elsewhere]


def _of_other_types(unit: nn.Module, units: set[nn.Module], model: nn.Module) -> set[nn.Module]:
    """Return the largest parts of a unit whose trainable parameters all have one type that is rare in the unit."""
    own = set(_own(unit, units))
    sizes: Counter[torch.dtype] = Counter()
    for weight in own:
        sizes[weight.dtype] += weight.numel()
    found, ahead = set(), [unit] if len(sizes) > 1 else []
    most = {dtype for dtype, _ in sizes.most_common(1)}
    while ahead:
        for part in ahead.pop().children():
            types = {weight.dtype for weight in part.parameters() if weight in own}
            if len(types) == 1 and types != most and _called(part) and _apart(part, model):
                found.add(part)
            elif part not in units:
                ahead.append(part)
    return found


def _overlapping(named: dict[str, nn.Parameter]) -> Iterator[tuple[str, str]]:
    """Pairs of distinct parameters that share memory."""
    spans = sorted((*_span(weight), name) for name, weight in named.items() if weight.numel())
    for (_, stop, one), (start, _, other) in pairwise(spans):
        if start < stop:
            yield one, other


def _span(weight: Tensor) -> tuple[int, int]:
    """Addresses of the first element and of the end of the last element."""
    reach = sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    return weight.data_ptr(), weight.data_ptr() + (reach + 1) * weight.element_size()
