"""A small transformer for text, and what peft puts into transformers. Needs the extra `text` (transformers, peft)."""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from incr_core._util import at_least_one, positive
from incr_core.batch import Inputs
from incr_core.errors import ArgumentError
from incr_core.models._patterns import Patterns
from incr_core.models.adapt._freeze import head_only

if TYPE_CHECKING:
    from incr_core.models._mlp import TableShape

__all__ = ["Text", "bert", "hf_lora", "ia3", "prefix", "prompt"]


class Text(nn.Module):
    """A transformer's state at the first token of a text through a linear head: logits (B, outputs) of token ids.

    inputs: ids (B, L), of any dtype, 0 being padding; or a dict of "input_ids" and perhaps "attention_mask". A body may
    put states in front of those of the tokens, as prompts do: the first token is the L-th from the end.
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
        logits: Tensor = self.head(hidden[:, -ids.shape[1]])
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

    >>> import torch
    >>> bert(outputs=3, vocabulary=50)(torch.randint(1, 50, (2, 7))).shape
    torch.Size([2, 3])
    """
    transformers = _needed("transformers", "bert")
    if width % 16:
        raise ArgumentError(f"bert.width: expected a multiple of 16, got {width}; try {width + 16 - width % 16}")
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        intermediate_size=4 * width,
        max_position_embeddings=length,
    )
    body = transformers.BertModel(config, add_pooling_layer=False)
    return Text(body, width, outputs if shape is None else shape.outputs)


def prompt(model: nn.Module, length: int = 8) -> nn.Module:
    """Freeze a transformer but for its head, and learn `length` vectors that stand in front of every text.

        e_0, e_1, ...  becomes  P_1, ..., P_length, e_0, e_1, ...

    Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning", section 2; by peft's PromptTuning.
    The positions they take count towards the transformer's longest input.

    model: any module that holds a transformer of the transformers library in an attribute. What reads it must find the
    text's tokens behind the prompt, as `Text` does.

    >>> model = prompt(bert(), length=4)
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
    ['body.prompt_encoder.default.embedding.weight', 'head.weight', 'head.bias']
    """
    at_least_one("prompt.length", length)
    return _tuned(model, "prompt", "PromptTuningConfig", num_virtual_tokens=length)


def prefix(model: nn.Module, length: int = 8) -> nn.Module:
    """Freeze a transformer but for its head, and learn `length` more keys and values in each self-attention.

        attention(Q, K, V)  becomes  attention(Q, [P_K; K], [P_V; V])        P: (heads, length, numbers per head)

    Li & Liang 2021, "Prefix-tuning", section 4.2, each prefix learned directly instead of through an MLP, as in Liu et
    al. 2022 (P-tuning v2); by peft's PrefixTuning.

    model: as for `prompt`; its transformer must be able to take a cache, as BERT's is.

    >>> import torch
    >>> prefix(bert(), length=4)(torch.randint(1, 50, (2, 7))).shape
    torch.Size([2, 2])
    """
    at_least_one("prefix.length", length)
    # peft 0.21 hands the prefix to transformers 5.24 under its former name, with every forward.
    warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
    return _tuned(model, "prefix", "PrefixTuningConfig", num_virtual_tokens=length)


def hf_lora(model: nn.Module, rank: int = 8, alpha: float | None = None, target: Patterns | None = None) -> nn.Module:
    """Freeze a transformer but for its head, and learn low-rank changes of its attention, as peft knows the model.

        W  becomes  W + (alpha / rank) B A        A: (rank, in), B: (out, rank), B = 0 at first

    Hu et al. 2022, "LoRA", section 4. `lora` does it for any module; this one takes the layers that peft knows to be
    right for the kind of transformer (query and value of BERT's).

    alpha: default `rank`. target: names of layers in place of peft's own.

    >>> model = hf_lora(bert(), rank=2)
    >>> sum(weight.requires_grad for weight in model.parameters())  # A and B of 2 layers x (query, value), and the head
    10
    """
    at_least_one("hf_lora.rank", rank)
    if alpha is not None:
        positive("hf_lora.alpha", alpha)
    return _tuned(model, "hf_lora", "LoraConfig", r=rank, lora_alpha=rank if alpha is None else alpha, **_at(target))


def ia3(model: nn.Module, target: Patterns | None = None, feedforward: Patterns | None = None) -> nn.Module:
    """Freeze a transformer but for its head, and learn a factor for each number of keys, values and hidden layers.

        k  becomes  l_k * k,  v  becomes  l_v * v,  h  becomes  l_h * h        l = 1 at first

    Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning", section
    3.3 ((IA)^3); by peft's IA3.

    target: names of layers in place of those that peft knows for the kind of transformer; feedforward: which of them
    have their inputs scaled instead.

    >>> import torch
    >>> model, ids = bert().eval(), torch.randint(1, 50, (2, 7))
    >>> before = model(ids)
    >>> torch.equal(ia3(model).eval()(ids), before)
    True
    """
    beside = {} if feedforward is None else {"feedforward_modules": _at(feedforward)["target_modules"]}
    return _tuned(model, "ia3", "IA3Config", **_at(target), **beside)


def _at(target: Patterns | None) -> dict[str, Any]:
    return {} if target is None else {"target_modules": [target] if isinstance(target, str) else list(target)}


def _tuned(model: nn.Module, what: str, config: str, **arguments: Any) -> nn.Module:
    """The model with its transformer wrapped by peft, and only that tuning and the head learning."""
    peft, transformers = _needed("peft", what), _needed("transformers", what)
    place = next(
        (name for name, part in model.named_children() if isinstance(part, transformers.PreTrainedModel)), None
    )
    if place is None:
        raise ArgumentError(
            f"{what}: expected a model that holds a transformer of the transformers library in an attribute, got "
            f"{type(model).__name__}; incr_core.models.adapt.Text(body, features, outputs) puts a head on one"
        )
    head_only(model)
    try:
        settings = getattr(peft, config)(task_type=peft.TaskType.FEATURE_EXTRACTION, **arguments)
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.24 for this by its former name; nothing of ours can change that.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            setattr(model, place, peft.get_peft_model(getattr(model, place), settings))
    except (ValueError, AttributeError, KeyError) as error:  # of a kind of transformer that it cannot take
        raise ArgumentError(f"{what}: peft refuses {type(getattr(model, place)).__name__}: {error}") from error
    return model


def _needed(package: str, what: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"{what}: needs {missing.name}, which is not installed; pip install 'incr[text]'"
        ) from missing
