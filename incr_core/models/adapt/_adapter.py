"""Bottleneck adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from incr_core._util import at_least_one
from incr_core.errors import ArgumentError
from incr_core.models._patterns import Patterns, modules_matching, only_these_learn, replace_module
from incr_core.models.adapt._freeze import freeze_statistics

__all__ = ["Bottleneck", "adapter"]


def adapter(
    model: nn.Module, width: int = 16, target: Patterns | None = None, train: Patterns = (), norms: bool = True
) -> nn.Module:
    """Freeze the model, and add a small trainable network after each module that matches `target`.

        y = module(x)  becomes  y + U relu(D y + d) + u        U = 0, u = 0: initially no change

    As in the paper, normalisation layers keep learning their scale and shift. In a transformer, target the outputs of
    attention and feed-forward blocks.

    Args:
        model: The model.
        width: Width of the bottleneck; D is (width, out), U is (out, width).
        target: Patterns of module names; by default every nn.Linear. A module must return one tensor (B, ..., out), and
            contain an nn.Linear, the last of which determines `out`. Of nested modules only the outermost gets an
            adapter.
        train: Patterns of other trainable weights, such as a new head.
        norms: Whether LayerNorm and BatchNorm are trainable.

    Example:
        >>> model = adapter(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), width=2, target="0", train="1")
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['0.down.weight', '0.down.bias', '0.up.weight', '0.up.bias', '1.weight', '1.bias']

    Reference:
        Houlsby et al. 2019, "Parameter-efficient transfer learning for NLP", section 2.1.
    """
    at_least_one("adapter.width", width)
    kind = nn.Linear if target is None else nn.Module
    found = modules_matching(model, target or "*", (kind,), "adapter.target")
    chosen: list[str] = []
    for name, base in found:
        linear = [part for part in base.modules() if isinstance(part, nn.Linear)]
        within = any(name.startswith(f"{outer}.") for outer in chosen)
        if linear and not within:
            chosen.append(name)
            replace_module(model, name, Bottleneck(base, linear[-1].out_features, width))
    if not chosen:
        raise ArgumentError(
            f"adapter.target: expected modules that hold an nn.Linear, got {', '.join(name for name, _ in found[:5])}; "
            "choose another pattern"
        )
    own = [f"{name}.{part}.*" for name in chosen for part in ("down", "up")]
    also = [train] if isinstance(train, str) else list(train)
    kinds = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)
    scales = [n for n, part in model.named_modules() if isinstance(part, kinds) and [*part.parameters()]]
    only_these_learn(model, [*own, *also, *(scales if norms else [])], "adapter.train")
    freeze_statistics(model)
    return model


class Bottleneck(nn.Module):
    """A module followed by a bottleneck; see `adapter`. Inputs and output are the module's, (B, ..., out).

    Example:
        >>> import torch
        >>> layer = Bottleneck(nn.Linear(3, 5), out=5, width=2)
        >>> x = torch.randn(4, 3); bool((layer(x) == layer.base(x)).all())
        True
    """

    def __init__(self, base: nn.Module, out: int, width: int) -> None:
        super().__init__()
        self.base = base
        like = next(base.parameters())
        self.down = nn.Linear(out, width, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(width, out, device=like.device, dtype=like.dtype)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the module's output plus that of the bottleneck."""
        output = self.base(*inputs, **named)
        if not isinstance(output, Tensor):
            raise ArgumentError(
                f"adapter.target: expected modules that return one tensor, {type(self.base).__name__} "
                f"returns {type(output).__name__}; target a module inside it"
            )
        added: Tensor = self.up(F.relu(self.down(output)))
        return output + added
