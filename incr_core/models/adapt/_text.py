"""A small transformer for text; and prompts, prefixes, LoRA and IA3 for transformers of Hugging Face, through `peft`.

Needs the extra `text` (transformers, peft).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from incr_core._util import at_least_one, positive
from incr_core.batch import Inputs
from incr_core.errors import ArgumentError
from incr_core.models._patterns import replace_module

if TYPE_CHECKING:
    from incr_core.models._mlp import TableShape

__all__ = ["Text", "bert", "ia3", "peft_lora", "prefix", "prompt"]


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

    >>> import torch
    >>> bert(outputs=3, vocabulary=50)(torch.randint(1, 50, (2, 7))).shape
    torch.Size([2, 3])
    """
    transformers = _library("transformers", "bert")
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
    """Freeze a transformer, and learn `length` vectors that stand before the text.

        e_1, e_2, ...  becomes  P_1, ..., P_length, e_1, e_2, ...

    Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning", section 2; P starts as the vectors
    of random tokens (section 3.2). What the transformer says at the places of P is cut off, so a head outside reads the
    text's tokens where it read them before; a pooler inside reads the first vector of P. The places that P takes count
    towards the transformer's longest input.

    model: a transformer of the transformers library, or any module that holds one. What stands outside of the
    transformer, such as a classifier, goes on learning.

    >>> model = prompt(bert(), length=4)
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
    ['body.prompt_encoder.default.embedding.weight', 'head.weight', 'head.bias']
    """
    at_least_one("prompt.length", length)

    def config(peft: ModuleType) -> Any:
        return peft.PromptTuningConfig(
            task_type=peft.TaskType.FEATURE_EXTRACTION, num_virtual_tokens=length, prompt_tuning_init="SAMPLE_VOCAB"
        )

    model, adapted = _adapted(model, "prompt", config)
    adapted.register_forward_hook(_WithoutPrompt(length))
    return model


class _WithoutPrompt:
    """Cuts the places of a prompt off what a transformer says of each token."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, transformer: nn.Module, inputs: Any, output: Any) -> Any:
        if not hasattr(output, "last_hidden_state"):
            raise ArgumentError(
                f"prompt: expected a transformer that returns a last_hidden_state, got {type(output).__name__}; "
                "make it with return_dict=True"
            )
        output.last_hidden_state = output.last_hidden_state[:, self.length :]
        return output


def prefix(model: nn.Module, length: int = 8) -> nn.Module:
    """Freeze a transformer, and learn `length` more keys and values in each self-attention.

        attention(Q, K, V)  becomes  attention(Q, [P_K; K], [P_V; V])        P: (heads, length, numbers per head)

    Li & Liang 2021, "Prefix-tuning", section 4.2, each prefix learned directly instead of through an MLP, as in Liu et
    al. 2022 (P-tuning v2). Every token may look at all of the prefix.

    model: as for `prompt`; its attention must take a cache of earlier keys and values, as BERT's and GPT's do.

    >>> import torch
    >>> prefix(bert(), length=4)(torch.randint(1, 50, (2, 7))).shape
    torch.Size([2, 2])
    """
    at_least_one("prefix.length", length)
    # peft 0.21 passes keys and values by the name that transformers 5.24 calls old, and takes until 5.40.
    warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)

    def config(peft: ModuleType) -> Any:
        return peft.PrefixTuningConfig(task_type=peft.TaskType.FEATURE_EXTRACTION, num_virtual_tokens=length)

    model, adapted = _adapted(model, "prefix", config)
    adapted.register_forward_pre_hook(_leave_out_none, with_kwargs=True)
    return model


def _leave_out_none(transformer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Classifiers name a cache of None to their transformer, which would count more than the prefix."""
    return given, {name: value for name, value in named.items() if value is not None}


def peft_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float | None = None,
    target: str | list[str] | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> nn.Module:
    """Freeze a transformer, and learn a low-rank change to some of its layers, as `peft` does it.

        W x  becomes  W x + alpha / rank * B (A dropout(x))

    Hu et al. 2022, "LoRA", section 4.1. For any other module there is `adapt.lora`. `adapt.merge_lora` adds the changes
    to W and leaves the transformer as it was made.

    model: as for `prompt`. rank, alpha: as for `adapt.lora`, of which the default alpha is a factor of 1. target: names
    of layers, by their ends ("query"), or one regular expression for whole names; default: those that peft knows for
    the kind of transformer. options: others of `peft.LoraConfig`, such as `use_dora`.

    >>> model = peft_lora(bert(layers=1), rank=2, target=["query"])
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad][-3:]
    ['body.base_model.model.encoder.layer.0.attention.self.query.lora_B.default.weight', 'head.weight', 'head.bias']
    """
    at_least_one("peft_lora.rank", rank)
    scale = positive("peft_lora.alpha", float(rank if alpha is None else alpha))

    def config(peft: ModuleType) -> Any:
        return peft.LoraConfig(
            task_type=peft.TaskType.FEATURE_EXTRACTION,
            r=rank,
            lora_alpha=scale,
            target_modules=target,
            lora_dropout=dropout,
            **options,
        )

    return _adapted(model, "peft_lora", config)[0]


def ia3(
    model: nn.Module,
    target: str | list[str] | None = None,
    feedforward: str | list[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Freeze a transformer, and learn a factor for each number that attention and feed-forward layers pass on.

        K, V, h  become  l_k * K, l_v * V, l_ff * h        l = 1: at first nothing has changed

    Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning", section
    3.3. `adapt.merge_lora` multiplies the weights by l and leaves the transformer as it was made.

    model: as for `prompt`. target, feedforward: layers as in `peft_lora`, the second those of the first whose input is
    scaled instead of their output; default: those that peft knows for the kind of transformer. options: others of
    `peft.IA3Config`.

    >>> model = ia3(bert(layers=1), target=["key"], feedforward=[])
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
    ['body.base_model.model.encoder.layer.0.attention.self.key.ia3_l.default', 'head.weight', 'head.bias']
    """

    def config(peft: ModuleType) -> Any:
        return peft.IA3Config(
            task_type=peft.TaskType.FEATURE_EXTRACTION,
            target_modules=target,
            feedforward_modules=feedforward,
            **options,
        )

    return _adapted(model, "ia3", config)[0]


def _adapted(model: nn.Module, place: str, config: Callable[[ModuleType], Any]) -> tuple[nn.Module, nn.Module]:
    """The model, with its transformer in peft's wrapper; and the wrapper."""
    peft, transformers = _library("peft", place), _library("transformers", place)
    if any(isinstance(part, peft.PeftModel) for part in model.modules()):
        raise ArgumentError(f"{place}: expected a model that peft has not adapted yet; leave one of the two out")
    whole = next((part for part in model.modules() if isinstance(part, transformers.PreTrainedModel)), None)
    if whole is None:
        raise ArgumentError(
            f"{place}: expected a transformer of the transformers library, or a model that holds one, "
            f"got {type(model).__name__}"
        )
    transformer = whole.base_model  # a classifier's transformer, without its head
    known = set(transformer.modules())
    try:
        with warnings.catch_warnings():  # peft 0.21 asks for a name that transformers 5.24 calls old
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False but", UserWarning)  # and sets it right
            adapted: nn.Module = peft.get_peft_model(transformer, config(peft))
    except ValueError as error:
        raise ArgumentError(f"{place}: {error}") from error
    for part in adapted.modules():
        if part not in known:  # in the mode of what they are put into, which tells whether it is frozen
            part.training = transformer.training
    if transformer is model:
        return adapted, adapted
    replace_module(model, next(name for name, part in model.named_modules() if part is transformer), adapted)
    return model, adapted


def _library(name: str, place: str) -> ModuleType:
    try:
        return __import__(name)
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"{place}: needs {missing.name}, which is not installed; pip install 'incr[text]'"
        ) from missing
