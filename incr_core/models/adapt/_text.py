"""A small transformer for text, and soft prompts for it. Needs the extra `text` (transformers)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core._util import at_least_one
from incr_core.batch import Inputs
from incr_core.errors import JobError, StrategyError
from incr_core.models.adapt._freeze import head_only

if TYPE_CHECKING:
    from incr_core.models._mlp import TableShape

__all__ = ["Text", "bert", "prefix", "prompt"]


class Text(nn.Module):
    """A transformer's first token through a linear head: logits (B, outputs) of token ids.

    inputs: ids (B, L), of any dtype, 0 being padding; or a dict of "input_ids" and perhaps "attention_mask".
    """

    def __init__(self, body: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, outputs)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, (B, outputs)."""
        given = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
        if "numeric" in given:
            given = {"input_ids": given["numeric"]}
        ids = given["input_ids"].long()
        mask = given.get("attention_mask", ids != 0).long()
        hidden: Tensor = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        logits: Tensor = self.head(hidden[:, 0])
        return logits


def bert(
    outputs: int = 2,
    vocabulary: int = 1000,
    width: int = 32,
    layers: int = 2,
    length: int = 64,
    shape: TableShape | None = None,
) -> Text:
    """A BERT of that size with random weights, from a config: nothing is downloaded.

    Devlin et al. 2019. It has one attention head per 16 numbers of `width`. shape: given by a job; its `outputs` count
    then, so `model.factory = "incr_core.models.adapt:bert"` works in a job file, with lists of ids as numeric column.

    >>> bert(outputs=3, vocabulary=50)(torch.randint(1, 50, (2, 7))).shape
    torch.Size([2, 3])
    """
    try:
        from transformers import BertConfig, BertModel
    except ModuleNotFoundError as missing:
        raise JobError(f"bert: needs {missing.name}, which is not installed; pip install 'incr[text]'") from missing
    if width % 16:
        raise StrategyError(f"bert.width: expected a multiple of 16, got {width}; try {width + 16 - width % 16}")
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        intermediate_size=4 * width,
        max_position_embeddings=length,
    )
    return Text(BertModel(config, add_pooling_layer=False), width, outputs if shape is None else shape.outputs)


def prompt(model: nn.Module, length: int = 8) -> nn.Module:
    """Freeze a transformer but its head, and learn `length` vectors that stand behind its first token.

        e_0, e_1, ...  becomes  e_0, P_1, ..., P_length, e_1, ...

    Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning", section 2; P starts as the vectors
    of random tokens (section 3.2). They stand behind the first token, not before, since classifiers read that one. The
    positions they take count towards the transformer's longest input.

    model: any module that holds a transformer of the transformers library that takes `inputs_embeds`.

    >>> model = prompt(bert(), length=4)
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
    ['body.prompt.vectors', 'head.weight', 'head.bias']
    """
    at_least_one("prompt.length", length)
    body = next((part for part in model.modules() if hasattr(part, "get_input_embeddings")), None)
    if body is None:
        raise StrategyError(f"prompt: expected a model that holds a transformer, got {type(model).__name__}")
    head_only(model)
    table: nn.Embedding = body.get_input_embeddings()  # type: ignore[operator]
    body.prompt = _Prompt(table, length)
    body.register_forward_pre_hook(_insert_prompt, with_kwargs=True)
    return model


class _Prompt(nn.Module):
    def __init__(self, table: nn.Embedding, length: int) -> None:
        super().__init__()
        tokens = torch.randint(table.num_embeddings, (length,), device=table.weight.device)
        self.vectors = nn.Parameter(table.weight.detach()[tokens].clone())


def _insert_prompt(body: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if positional or named.get("input_ids") is None:
        raise StrategyError("prompt: expected the transformer to be called with input_ids=..., by name")
    vectors: Tensor = body.prompt.vectors  # type: ignore[union-attr, assignment]
    named = dict(named)
    embedded: Tensor = body.get_input_embeddings()(named.pop("input_ids"))  # type: ignore[operator]
    own = vectors.expand(len(embedded), -1, -1)
    named["inputs_embeds"] = torch.cat([embedded[:, :1], own, embedded[:, 1:]], dim=1)
    mask = named.get("attention_mask")
    if mask is not None:
        named["attention_mask"] = torch.cat([mask[:, :1], mask.new_ones(own.shape[:2]), mask[:, 1:]], dim=1)
    return positional, named


def prefix(model: nn.Module, length: int = 8) -> nn.Module:
    """Freeze a transformer but its head, and learn `length` more keys and values in each self-attention.

        attention(Q, K, V)  becomes  attention(Q, [P_K; K], [P_V; V])        P: (heads, length, numbers per head)

    Li & Liang 2021, "Prefix-tuning", section 4.2, each prefix learned directly instead of through an MLP, as in Liu et
    al. 2022 (P-tuning v2). Every row may look at all of the prefix.

    model: any module that holds self-attention of the transformers library that can take a cache, such as BERT's.

    >>> prefix(bert(), length=4)(torch.randint(1, 50, (2, 7))).shape
    torch.Size([2, 2])
    """
    at_least_one("prefix.length", length)
    places = [part for part in model.modules() if hasattr(part, "attention_head_size") and hasattr(part, "key")]
    if not places:
        raise StrategyError(f"prefix: expected a model that holds self-attention, got {type(model).__name__}")
    head_only(model)
    for place in places:
        place.prefix = _Prefix(place, length)
        place.register_forward_pre_hook(_give_prefix, with_kwargs=True)
    return model


class _Prefix(nn.Module):
    """Keys and values of the prefix; stands for a cache of earlier tokens where attention asks for one."""

    def __init__(self, attention: Any, length: int) -> None:
        super().__init__()
        weight: Tensor = attention.key.weight
        size = (attention.num_attention_heads, length, attention.attention_head_size)
        self.keys = nn.Parameter(weight.new_empty(size).normal_(std=0.02))
        self.values = nn.Parameter(weight.new_empty(size).normal_(std=0.02))

    def update(self, keys: Tensor, values: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """All keys and values, (B, heads, length + L, d); the name is the library's."""
        own = (self.keys.expand(len(keys), -1, -1, -1), self.values.expand(len(keys), -1, -1, -1))
        return torch.cat([own[0], keys], dim=2), torch.cat([own[1], values], dim=2)


def _give_prefix(place: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    own: Any = place.prefix
    hidden, *rest = positional
    mask = rest[0] if rest else named.get("attention_mask")
    if mask is not None:
        mask = F.pad(mask, (own.keys.shape[1], 0), value=True if mask.dtype == torch.bool else 0)
    return (hidden,), {**named, "attention_mask": mask, "past_key_values": own}
