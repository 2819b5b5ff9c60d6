"""The hash of a model's weights, which does not depend on how a file stores them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["model_sha256"]


def model_sha256(weights: Mapping[str, Tensor]) -> str:
    r"""Hash weights: equal hash means equal model.

    SHA-256 over the weights in order of their names (by code point); each contributes

        one line of ASCII JSON: ["name", "float32", [rows, columns]] without spaces, then "\n"
        its elements' bytes, row-major, little-endian

    The line fixes how many bytes follow it, so no two different models feed the hash the same bytes. Where
    the tensors live, their strides and whether they share memory do not matter.

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
