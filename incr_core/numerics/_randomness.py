"""Torch's global random state, owned by a learner while it works.

Dropout draws from torch's global generator and takes no other. A learner must not share it with whoever else runs in
the process, or resuming would not be exact: so it is swapped in while the learner works, and out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GlobalRandomState", "draws_nothing", "global_random_state"]

# fmt: off
CERTAIN = frozenset([
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d",
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Bilinear", "Conv1d", "Conv2d", "Conv3d", "ELU", "Embedding",
    "EmbeddingBag", "Flatten", "GELU", "GLU", "GroupNorm", "Hardswish", "Hardtanh", "Identity", "LayerNorm",
    "LeakyReLU", "Linear", "LogSoftmax", "MaxPool1d", "MaxPool2d", "ModuleDict", "ModuleList", "PReLU", "RMSNorm",
    "ReLU", "ReLU6", "SELU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh", "Unflatten",
])
# fmt: on
"""Layers of `torch.nn` that give equal outputs for equal inputs, in training too."""
OURS = (
    "incr_core.models._mlp",
    "incr_core.models._moments",
    "incr_core.models._towers",
    "incr_core.objectives._base",
    "incr_core.objectives",
)


class GlobalRandomState:
    """A context manager inside which torch's global generators continue from this object's own state.

    Only the generators that `device` draws from are swapped: the CPU's, and the GPU's where the device is one.

    >>> state = global_random_state(7)
    >>> with state:
    ...     first = torch.rand(1)
    >>> other = torch.rand(1)
    >>> with state:
    ...     second = torch.rand(1)
    >>> _ = torch.manual_seed(7); bool((torch.rand(2) == torch.cat([first, second])).all())
    True
    """

    def __init__(self, device: torch.device, cpu: Tensor, gpu: Tensor | None) -> None:
        self._device = device
        self._mine = self._theirs = (cpu, gpu)

    def __enter__(self) -> None:
        self._theirs = self._current()
        self._set(*self._mine)

    def __exit__(self, *_: object) -> None:
        self._mine = self._current()
        self._set(*self._theirs)

    def state_dict(self) -> dict[str, Any]:
        """The states of the generators."""
        cpu, gpu = self._mine
        return {"cpu": cpu, "gpu": gpu}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there; a state saved without a GPU leaves the GPU's generator as it is."""
        gpu = self._mine[1] if state["gpu"] is None else state["gpu"].cpu()
        self._mine = (state["cpu"].cpu(), gpu)

    def _current(self) -> tuple[Tensor, Tensor | None]:
        gpu = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), gpu

    def _set(self, cpu: Tensor, gpu: Tensor | None) -> None:
        torch.set_rng_state(cpu)
        if gpu is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(gpu, self._device)


def global_random_state(seed: int, device: torch.device | str = "cpu") -> GlobalRandomState:
    """The state that `torch.manual_seed(seed)` would leave, without touching the global generators.

    >>> before = torch.get_rng_state()
    >>> _ = global_random_state(7)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    device = torch.device(device)
    cpu = torch.Generator().manual_seed(seed).get_state()
    gpu = torch.Generator(device).manual_seed(seed).get_state() if device.type == "cuda" else None
    return GlobalRandomState(device, cpu, gpu)


def draws_nothing(*modules: nn.Module) -> bool:
    """Whether it is certain that a forward of these takes no random number: only layers of known kinds, as torch made
    them: without hooks, or a forward of their own.

    >>> draws_nothing(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    True
    >>> draws_nothing(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    False
    """

    def certain(layer: nn.Module) -> bool:
        kind = type(layer)
        home = kind.__module__
        known = (home.startswith("torch.nn.modules.") and kind.__name__ in CERTAIN) or home.startswith(OURS)
        changed = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
        return known and not changed

    return all(certain(layer) for module in modules for layer in module.modules())
