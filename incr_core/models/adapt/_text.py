"""A small transformer for text; and prompts, prefixes, LoRA and IA3 for Hugging Face transformers, by `peft`.

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
    """A transformer with a linear head on the first token: logits (B, outputs) of token ids.

    Inputs are ids (B, L) of any dtype, with 0 as padding, or a dict of "input_ids" and optionally "attention_mask".

    Args:
        body: The transformer.
        features: Its width.
        outputs: Number of outputs.
    """

    def __init__(self, body: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, outputs)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logits, (B, outputs)."""
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
    """Return a randomly initialised BERT of the given size; nothing is downloaded.

    It has one attention head per 16 elements of `width`. With `model.factory = "incr_core.models.adapt:bert"` a job
    passes `shape`, and lists of ids are a numeric column.

    Args:
        outputs: Number of outputs.
        vocabulary: Number of tokens.
        width: Hidden size, a multiple of 16.
        layers: Number of layers.
        length: Maximum sequence length.
        shape: Shape of rows, passed by a job; its `outputs` replace the argument.

    Example:
        >>> import torch
        >>> bert(outputs=3, vocabulary=50)(torch.randint(1, 50, (2, 7))).shape
        torch.Size([2, 3])

    Reference:
        Devlin et al. 2019, BERT.
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
    """Freeze a transformer, and learn `length` vectors that precede the text.

        e_1, e_2, ...  becomes  P_1, ..., P_length, e_1, e_2, ...

    P is initialised with the embeddings of random tokens (section 3.2 of the paper). The transformer's outputs at the
    places of P are removed, so that a head outside reads the tokens of the text as before. A pooler inside reads the
    first vector of P. The places of P count towards the transformer's maximum length.

    Args:
        model: A transformer of the transformers library, or a module that contains one. Parts outside of the
            transformer, such as a classifier, stay trainable.
        length: Number of vectors.

    Example:
        >>> model = prompt(bert(), length=4)
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['body.prompt_encoder.default.embedding.weight', 'head.weight', 'head.bias']

    Reference:
        Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning", section 2.
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
    """Removes the places of a prompt from a transformer's token outputs."""

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
    """Freeze a transformer, and learn `length` additional keys and values in each self-attention.

        attention(Q, K, V)  becomes  attention(Q, [P_K; K], [P_V; V])        P: (heads, length, numbers per head)

    Each prefix is learned directly instead of through an MLP, as in Liu et al. 2022 (P-tuning v2). Every token may
    attend to the whole prefix.

    Args:
        model: As for `prompt`; its attention must support a cache of earlier keys and values, as BERT's and GPT's do.
        length: Number of keys and values.

    Example:
        >>> import torch
        >>> prefix(bert(), length=4)(torch.randint(1, 50, (2, 7))).shape
        torch.Size([2, 2])

    Reference:
        Li & Liang 2021, "Prefix-tuning", section 4.2; Liu et al. 2022 (P-tuning v2).
    """
    at_least_one("prefix.length", length)
    # peft 0.21 passes keys and values by a name that transformers 5.24 deprecates and supports until 5.40.
    warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)

    def config(peft: ModuleType) -> Any:
        return peft.PrefixTuningConfig(task_type=peft.TaskType.FEATURE_EXTRACTION, num_virtual_tokens=length)

    model, adapted = _adapted(model, "prefix", config)
    adapted.register_forward_pre_hook(_leave_out_none, with_kwargs=True)
    return model


def _leave_out_none(transformer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Drop arguments that are None: a classifier passes an empty cache, which would replace the prefix."""
    return given, {name: value for name, value in named.items() if value is not None}


def peft_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float | None = None,
    target: str | list[str] | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> nn.Module:
    """Freeze a transformer, and learn a low-rank change of some of its layers with `peft`.

        W x  becomes  W x + alpha / rank * B (A dropout(x))

    For other modules use `adapt.lora`. `adapt.merge_lora` adds the changes to W and restores the original transformer.

    Args:
        model: As for `prompt`.
        rank: As for `adapt.lora`.
        alpha: As for `adapt.lora`; by default a factor of 1.
        target: Suffixes of layer names ("query"), or one regular expression for whole names; by default peft's choice
            for this kind of transformer.
        dropout: Dropout probability of the input.
        options: Further arguments of `peft.LoraConfig`, such as `use_dora`.

    Example:
        >>> model = peft_lora(bert(layers=1), rank=2, target=["query"])
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad][-3:]
        ['body.base_model.model.encoder.layer.0.attention.self.query.lora_B.default.weight', 'head.weight', 'head.bias']

    Reference:
        Hu et al. 2022, "LoRA", section 4.1.
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
    """Freeze a transformer, and learn a factor on each element of attention and feed-forward outputs.

        K, V, h  become  l_k * K, l_v * V, l_ff * h        l = 1: initially no change

    `adapt.merge_lora` multiplies the weights by l and restores the original transformer.

    Args:
        model: As for `prompt`.
        target: Layers, as in `peft_lora`.
        feedforward: Those of them whose input is scaled instead of their output; by default peft's choice for this kind
            of transformer.
        options: Further arguments of `peft.IA3Config`.

    Example:
        >>> model = ia3(bert(layers=1), target=["key"], feedforward=[])
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['body.base_model.model.encoder.layer.0.attention.self.key.ia3_l.default', 'head.weight', 'head.bias']

    Reference:
        Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
        section 3.3.
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
    """Wrap the model's transformer with peft; return the model and the wrapper."""
    peft, transformers = _library("peft", place), _library("transformers", place)
    if any(isinstance(part, peft.PeftModel) for part in model.modules()):
        raise ArgumentError(f"{place}: expected a model that peft has not adapted yet; leave one of the two out")
    whole = next((part for part in model.modules() if isinstance(part, transformers.PreTrainedModel)), None)
    if whole is None:
        raise ArgumentError(
            f"{place}: expected a transformer of the transformers library, or a model that holds one, "
            f"got {type(model).__name__}"
        )
    transformer = whole.base_model  # the transformer without a classifier's head
    known = set(transformer.modules())
    try:
        with warnings.catch_warnings():  # peft 0.21 uses a name that transformers 5.24 deprecates
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False but", UserWarning)  # peft corrects it
            adapted: nn.Module = peft.get_peft_model(transformer, config(peft))
    except ValueError as error:
        raise ArgumentError(f"{place}: {error}") from error
    for part in adapted.modules():
        if part not in known:  # new parts take the mode of the transformer, which shows whether it is frozen
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
