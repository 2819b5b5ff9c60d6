"""Lossless division of nested state into tensors for safetensors and JSON, without pickle.

state --pack--> {"0:net/weight": Tensor}, {"net": {"weight": {"$tensor": "0:net/weight"}}, "step": 3}
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incr_core.errors import CheckpointError
from incr_core.numerics import stored, unstored

__all__ = ["pack", "unpack"]


def pack(state: Any, room: Mapping[str, Tensor] = {}) -> tuple[dict[str, Tensor], Any]:
    """Split nested state into flat tensors and JSON; `unpack` is its exact inverse.

    Supported are dicts with str or int keys, lists, tuples, None, bool, int, float, str, tensors, and numpy arrays and
    scalars of any dtype without objects or fields. Dict subclasses are restored as dict, tensors on the CPU. Tensors
    are copied, so the result is a snapshot, and shared memory is stored twice.

    Args:
        state: The state.
        room: Tensors of an earlier result that are no longer needed. They are overwritten where they fit, because the
            system takes longer to allocate memory than to fill it.

    Raises:
        CheckpointError: A leaf has an unsupported type; the message names its path.

    Example:
        >>> tensors, structure = pack({"step": 3, "weight": torch.ones(2), "seen": (1, 2)})
        >>> structure
        {'step': 3, 'weight': {'$tensor': '0:weight'}, 'seen': {'$tuple': [1, 2]}}
        >>> list(tensors)
        ['0:weight']
    """
    tensors: dict[str, Tensor] = {}
    structure = _pack(state, (), tensors)
    return {key: _copied(value, room.get(key)) for key, value in tensors.items()}, structure


def unpack(tensors: Mapping[str, Tensor], structure: Any) -> Any:
    """Restore the state that `pack` has split.

    Example:
        >>> unpack(*pack({1: (float("inf"), [torch.tensor(2)]), "name": None}))
        {1: (inf, [tensor(2)]), 'name': None}
    """
    if isinstance(structure, list):
        return [unpack(tensors, item) for item in structure]
    if not isinstance(structure, dict):
        return structure
    tag = next(iter(structure), "")
    if not tag.startswith("$"):
        return {key: unpack(tensors, value) for key, value in structure.items()}
    content = structure[tag]
    match tag:
        case "$tuple":
            return tuple(unpack(tensors, item) for item in content)
        case "$items":
            return {key: unpack(tensors, value) for key, value in content}
        case "$float":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        case "$tensor":
            found = tensors[content]
            return unstored(found, getattr(torch, structure["dtype"])) if "dtype" in structure else found
        case "$array" | "$scalar":
            shape, dtype = structure.get("shape", ()), np.dtype(structure["dtype"])
            if dtype.hasobject:  # numpy would interpret the bytes as addresses
                raise CheckpointError(f"state: expected an array of plain values, got one of type {dtype}")
            array = np.ndarray(shape, dtype, bytearray(tensors[content].numpy().tobytes()))
            return array if tag == "$array" else array[()]
    raise CheckpointError(f"state: unknown tag {tag!r}; it was saved by a newer incr")


def _pack(node: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    kind = type(node)
    if node is None or kind in (bool, int, str):
        return node
    if kind is float:
        # JSON has no nan or inf, and the bits of a nan are part of the state.
        return node if np.isfinite(node) else {"$float": struct.pack(">d", node).hex()}
    if kind is list:
        return [_pack(item, (*path, str(i)), tensors) for i, item in enumerate(node)]
    if kind is tuple:
        return {"$tuple": [_pack(item, (*path, str(i)), tensors) for i, item in enumerate(node)]}
    if isinstance(node, dict):
        return _pack_dict(node, path, tensors)
    if isinstance(node, Tensor):
        if node.layout is not torch.strided or node.is_meta or node.dtype not in _STORED:
            raise _cannot_keep(path, f"a {node.layout} tensor of {node.dtype} on {node.device}")
        plain = stored(node.detach().resolve_conj().resolve_neg())
        key = _store(plain, path, tensors)
        if plain.dtype == node.dtype:
            return {"$tensor": key}
        return {"$tensor": key, "dtype": str(node.dtype).removeprefix("torch.")}
    if (kind is np.ndarray or isinstance(node, np.generic)) and node.dtype.kind in "biufcSUmM":
        # As bytes, because torch has no datetime64, text or big-endian numbers.
        flat = np.frombuffer(bytearray(node.tobytes()), np.uint8)
        key = _store(torch.from_numpy(flat), path, tensors)
        dtype = np.lib.format.dtype_to_descr(node.dtype)
        if isinstance(node, np.generic):
            return {"$scalar": key, "dtype": dtype}
        return {"$array": key, "dtype": dtype, "shape": list(node.shape)}
    raise _cannot_keep(path, f"a {kind.__module__}.{kind.__qualname__}")


def _pack_dict(node: dict[Any, Any], path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    packed = []
    for key, value in node.items():
        if type(key) not in (str, int):
            raise _cannot_keep((*path, repr(key)), f"a key of type {type(key).__qualname__}")
        packed.append((key, _pack(value, (*path, str(key)), tensors)))
    # A JSON object suffices if all keys are text and none can be mistaken for a tag.
    if all(type(key) is str and not key.startswith("$") for key, _ in packed):
        return dict(packed)
    return {"$items": [[key, value] for key, value in packed]}


def _store(tensor: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor]) -> str:
    # The count makes the key unique: {"a/b": t} and {"a": {"b": t}} have the same path.
    name = "/".join(path).encode("utf-8", "backslashreplace").decode()
    key = f"{len(tensors)}:{name}"
    tensors[key] = tensor
    return key


def _copied(tensor: Tensor, room: Tensor | None) -> Tensor:
    if room is not None and (room.shape, room.dtype) == (tensor.shape, tensor.dtype):
        return room.copy_(tensor)
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


def _cannot_keep(path: tuple[str, ...], got: str) -> CheckpointError:
    return CheckpointError(
        f"state[{'/'.join(path)}]: expected a dict with str or int keys, list, tuple, None, bool, "
        f"int, float, str, dense tensor or numpy array, got {got}; keep it as one of those"
    )


# Dtypes that safetensors supports, and other complex dtypes, which are stored as pairs of real numbers.
_STORED = frozenset(
    getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    )
)
