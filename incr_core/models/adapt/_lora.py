"""Low-rank adaptation (LoRA) of any module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from incr_core._util import at_least_one, positive
from incr_core.errors import ArgumentError
from incr_core.models._patterns import Patterns, modules_matching, only_these_learn, replace_module
from incr_core.models.adapt._freeze import freeze_statistics

__all__ = ["LowRank", "lora", "merge_lora"]

# The `peft` library provides this and more, and `text.peft_lora` uses it for transformers. It requires transformers and
# accelerate, and its wrapper hides the model's class and names.


def lora(
    model: nn.Module, rank: int = 8, alpha: float | None = None, target: Patterns = "*", train: Patterns = ()
) -> nn.Module:
    """Freeze the model, and learn a low-rank change of each layer that matches `target`.

        W x  becomes  W x + alpha / rank * B (A x)        A uniform random, B = 0: initially no change

    For a convolution, A is a convolution of the same shape with `rank` output channels, and B a 1 x 1 convolution. For
    an embedding, A is a table with `rank` columns. `merge_lora` converts the layers back to plain ones.

    Args:
        model: The model.
        rank: r; A is (r, in), B is (out, r).
        alpha: By default `rank`, which is a factor of 1.
        target: Patterns of names of nn.Linear, nn.Embedding or nn.Conv2d modules.
        train: Patterns of other trainable weights, such as a new head.

    Example:
        >>> model = lora(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), rank=2, target="0", train="1")
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['0.down', '0.up', '1.weight', '1.bias']

    Reference:
        Hu et al. 2022, "LoRA", section 4.1.
    """
    at_least_one("lora.rank", rank)
    scale = positive("lora.alpha", float(rank if alpha is None else alpha)) / rank
    found = modules_matching(model, target, (nn.Linear, nn.Embedding, nn.Conv2d), "lora.target")
    for name, base in found:
        if isinstance(base, nn.Conv2d) and base.groups > 1:
            raise ArgumentError(
                f"lora.target: expected convolutions of one group, got {name} with {base.groups}; narrow the pattern"
            )
    for name, base in found:
        replace_module(model, name, LowRank(base, rank, scale))
    also = [train] if isinstance(train, str) else list(train)
    only_these_learn(model, [f"{name}.{part}" for name, _ in found for part in ("down", "up")] + also, "lora.train")
    freeze_statistics(model)
    return model


class LowRank(nn.Module):
    """A layer with a low-rank change; see `lora`. Inputs and output are the base's.

    Args:
        base: nn.Linear, nn.Embedding or nn.Conv2d.
        rank: Rank of the change.
        scale: Factor on the change.

    Example:
        >>> layer = LowRank(nn.Linear(3, 5), rank=2, scale=1.0)
        >>> x = torch.randn(4, 3); bool((layer(x) == layer.base(x)).all())
        True
    """

    def __init__(self, base: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        weight: Tensor = base.weight  # type: ignore[assignment]
        if isinstance(base, nn.Embedding):
            down, up = weight.new_empty(base.num_embeddings, rank), weight.new_zeros(base.embedding_dim, rank)
        else:
            down, up = weight.new_empty(rank, *weight.shape[1:]), weight.new_zeros(weight.shape[0], rank)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        if isinstance(base, nn.Embedding) and base.padding_idx is not None:
            nn.init.zeros_(down[base.padding_idx])  # it gets no gradient, so padding never changes
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, inputs: Tensor, *rest: Any, **named: Any) -> Tensor:
        """Return the base's output plus the change."""
        output: Tensor = self.base(inputs, *rest, **named)
        base = self.base
        if isinstance(base, nn.Conv2d):
            # With the base's stride, padding and dilation. The bias is set to zero, because `output` includes it
            # already.
            own = {"weight": self.down} | ({} if base.bias is None else {"bias": self.down.new_zeros(len(self.down))})
            inner = functional_call(base, own, (inputs,))
            return output + self.scale * F.conv2d(inner, self.up[:, :, None, None])
        if isinstance(base, nn.Embedding):
            inner = F.embedding(inputs, self.down, base.padding_idx)
        else:
            inner = F.linear(inputs, self.down)
        return output + self.scale * F.linear(inner, self.up)

    def change(self) -> Tensor:
        """Return scale * B A, in the shape of the base's weight."""
        if isinstance(self.base, nn.Embedding):
            return self.down @ self.up.t() * self.scale
        change: Tensor = (self.up @ self.down.flatten(1)).reshape(-1, *self.down.shape[1:])
        return change * self.scale


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """Add every low-rank change to its layer's weight, and restore plain layers: W <- W + alpha / rank * B A.

    The result has the classes and names of the model before `lora`, so it can be exported or adapted again. Changes by
    peft (`peft_lora`, `ia3`) are merged by peft.

    Example:
        >>> merge_lora(lora(nn.Sequential(nn.Linear(4, 2)), rank=1))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, LowRank):
            weight: Tensor = layer.base.weight  # type: ignore[assignment]
            weight += layer.change()
            replace_module(model, name, layer.base)
    while found := next((each for each in model.named_modules() if hasattr(each[1], "merge_and_unload")), None):
        name, layer = found
        plain: nn.Module = layer.merge_and_unload()
        if not name:
            return plain
        replace_module(model, name, plain)
    return model
