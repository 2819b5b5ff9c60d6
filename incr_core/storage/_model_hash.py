"""Hash of a model's weights, independent of the file format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["model_sha256"]


def model_sha256(weights: Mapping[str, Tensor]) -> str:
    r"""Hash weights: equal hashes mean equal models.

    SHA-256 over the weights in order of their names (by code point). Each contributes

        one line of ASCII JSON: ["name", "float32", [rows, columns]] without spaces, then "\n"
        the bytes of its elements, row-major, little-endian

    The line determines how many bytes follow, so different models never give the same byte sequence. Device, strides
    and shared memory of the tensors do not matter.

    Example:
        >>> model_sha256({"a": torch.zeros(2)}) == model_sha256({"a": torch.zeros(4)[::2]})
        True
        >>> model_sha256({"a": torch.zeros(2)}) == model_sha256({"a": torch.zeros(2, dtype=torch.int32)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(header, separators=(",", ":")).encode() + b"\n")
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
