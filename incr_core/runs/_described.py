"""Descriptions of objects that are equal for equal objects, in this process and in later ones."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from incr_core._util import MadeWith, made_with
from incr_core.errors import JobError
from incr_core.storage import model_sha256

__all__ = ["called", "described", "name_of"]

PLAIN = (type(None), bool, int, float, str, bytes, Path, enum.Enum, torch.dtype, torch.device, np.generic)


def name_of(kind: Any) -> str:
    """Qualified name of a class or function: "__main__.Net".

    Example:
        >>> name_of(nn.Linear), name_of(partial(len))
        ('torch.nn.modules.linear.Linear', 'builtins.len')
    """
    if isinstance(kind, partial):
        return name_of(kind.func)
    return f"{kind.__module__}.{kind.__qualname__}"


def called(kind: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: str) -> str:
    """Describe a class or function with arguments as a call.

    Example:
        >>> called(nn.Linear, (2,), {"out_features": 1, "bias": False}, "model")
        'torch.nn.modules.linear.Linear(2, bias=False, out_features=1)'
    """
    told = [described(value, place) for value in args]
    told += [f"{name}={described(kwargs[name], place)}" for name in sorted(kwargs)]
    return f"{name_of(kind)}({', '.join(told)})"


def described(value: Any, place: str) -> str:
    """Describe a value. Raises JobError if no description distinguishes it from others of its kind.

    Example:
        >>> described({"width": 3, "act": nn.ReLU}, "model")
        "{'act': torch.nn.modules.activation.ReLU, 'width': 3}"
        >>> described(object(), "strategies[0]")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: strategies[0]: expected arguments that can be known again when the run goes on, got a
        builtins.object; give numbers, text, tensors, classes, or lists of these
    """
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, partial):
        return called(value.func, value.args, value.keywords, place)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return name_of(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        array = torch.as_tensor(value).detach().cpu()
        return f"{array.dtype}{list(array.shape)} {model_sha256({'value': array})[:16]}"
    if isinstance(value, MadeWith):
        return called(type(value), *made_with(value), place)
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {described(value[key], place)}" for key in sorted(value, key=repr)) + "}"
    if isinstance(value, list | tuple):
        return type(value).__name__ + "(" + ", ".join(described(item, place) for item in value) + ")"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(described(item, place) for item in value)) + "}"
    if is_dataclass(value) and not isinstance(value, type):
        return called(type(value), (), {field.name: getattr(value, field.name) for field in fields(value)}, place)
    raise JobError(
        f"{place}: expected arguments that can be known again when the run goes on, got a {name_of(type(value))}; "
        "give numbers, text, tensors, classes, or lists of these"
    )


def _module(module: nn.Module) -> str:
    """Describe a module by its class, its printed form and its weights."""
    printed = hashlib.sha256(repr(module).encode()).hexdigest()[:8]
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    count = sum(value.numel() for value in tensors.values())
    return f"{name_of(type(module))}, layers {printed}, {count:,} weights {model_sha256(tensors)[:16]}"
