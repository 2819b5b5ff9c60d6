"""Static checks whether a forward draws random numbers, and from which library; run once instead of at each step."""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ReferenceType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations

from incr_core.numerics._torch_privates import forward_is_hooked

__all__ = ["draws_nothing", "draws_only_from_torch"]

# fmt: off
CERTAIN = frozenset([
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ELU, nn.Embedding,
    nn.EmbeddingBag, nn.Flatten, nn.GELU, nn.GLU, nn.GroupNorm, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LayerNorm,
    nn.LeakyReLU, nn.Linear, nn.LogSoftmax, nn.MaxPool1d, nn.MaxPool2d, nn.ModuleDict, nn.ModuleList, nn.PReLU,
    nn.RMSNorm, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sequential, nn.SiLU, nn.Sigmoid, nn.Softmax, nn.Softplus, nn.Tanh,
    nn.Unflatten, ParametrizationList,
])
# fmt: on
"""Layers of `torch.nn` whose outputs are deterministic, in training mode too."""

DROPOUT = frozenset([nn.AlphaDropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout])
"""Layers that draw random numbers in training mode only."""

_DATA = (type(None), bool, int, float, complex, str, bytes, Tensor, np.ndarray, np.generic)
_KNOWN = frozenset(
    [
        *(torch.__name__, __name__.partition(".")[0], "abc", "collections", "dataclasses", "enum", "functools"),
        *("itertools", "math", "operator", "typing", "types", "__future__"),
    ]
)
"""Packages that never draw from Python's `random` or numpy's."""

_RUNS_ANYTHING = frozenset(["__import__", "compile", "eval", "exec", "getattr", "globals", "open", "vars"])


def draws_nothing(*modules: nn.Module, training: bool = True) -> bool:
    """Whether a forward of these modules certainly draws no random number.

    That holds for known kinds of layers without hooks and without an overridden forward. A class declares it with
    `draws_nothing = True`; subclasses do not inherit the declaration.

    Args:
        modules: The modules.
        training: Whether they are in training mode; if not, Dropout draws nothing either.

    Example:
        >>> draws_nothing(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        True
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        >>> draws_nothing(model), draws_nothing(model, training=False)
        (False, True)
    """
    kinds = CERTAIN if training else CERTAIN | DROPOUT

    def certain(layer: nn.Module) -> bool:
        kind = type_before_parametrizations(layer)
        known = kind in kinds or vars(kind).get("draws_nothing", False)
        return bool(known and not forward_is_hooked(layer))

    return all(certain(layer) for module in modules for layer in module.modules())


def draws_only_from_torch(*modules: nn.Module) -> bool:
    """Whether these modules certainly draw from torch only, and not from Python's `random` or numpy's.

    The code is analysed: all functions and classes that user code names, and those that these name in turn, must be
    known. Anything that cannot be analysed, such as an object of another library, counts as drawing.

    Example:
        >>> draws_only_from_torch(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
        True
        >>> import random
        >>> layer = nn.Linear(2, 2)
        >>> layer.noise = random.gauss
        >>> draws_only_from_torch(layer)
        False
    """
    seen: dict[int, Any] = {}  # by identity; holding the objects keeps identities unique
    left: list[Any] = list(modules)
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, _DATA):
            continue
        seen[id(value)] = value
        found = _within(value)
        if found is None:
            return False
        left += found
    return True


def _within(value: Any) -> list[Any] | None:
    """Return the parts of a value that must be known as well, or None if the value itself is unknown."""
    match value:
        case dict():
            return [*value.keys(), *value.values()]
        case list() | tuple() | set() | frozenset():
            return list(value)
        case nn.Module():
            # The constructor has run already.
            return [*(part for kind in type(value).__mro__ for part in _members(kind, "__init__")), vars(value)]
        case ModuleType():
            return [] if _home(value.__name__) in _KNOWN else None
        case type():
            return [*value.__bases__, *_members(value)] if value is not object else []
        case FunctionType():
            return [] if _home(value.__module__) in _KNOWN else _named(value)
        case MethodType():
            return [value.__func__, value.__self__]
        case partial():
            return [value.func, value.args, value.keywords]
        case property():
            return [value.fget, value.fset]
        case staticmethod() | classmethod():
            return [value.__func__]
        case ReferenceType():
            return [value()]
        case CellType():
            return [value.cell_contents] if _filled(value) else []
        case BuiltinFunctionType():
            owner = value.__module__ or type(value.__self__).__module__
            return [] if _home(owner) in (*_KNOWN, "builtins") else None
    return [] if _home(type(value).__module__) in _KNOWN else None


def _members(kind: type, *but: str) -> Iterator[Any]:
    """Yield the members of a class, except those that Python adds; none for a class of a known package."""
    if _home(kind.__module__) not in (*_KNOWN, "builtins"):
        yield from (member for name, member in vars(kind).items() if name not in ("__dict__", "__weakref__", *but))


def _named(function: FunctionType) -> list[Any] | None:
    """Return the objects that a function's code names, or None if it may run code that it does not name."""
    found: list[Any] = [function.__defaults__, function.__kwdefaults__, function.__closure__]
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname == "IMPORT_NAME" and _home(name) not in _KNOWN:
                return None
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                if name in function.__globals__:
                    found.append(function.__globals__[name])
                elif name in _RUNS_ANYTHING or not hasattr(builtins, name):
                    return None
    return found


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a variable that is not yet assigned
        return False


def _home(module: str | None) -> str:
    return (module or "").partition(".")[0]
