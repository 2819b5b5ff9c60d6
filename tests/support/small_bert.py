"""A small BERT with random weights and a tokenizer of words, saved to a folder; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

__all__ = ["KINDS", "save_small_bert", "tickets"]

KINDS = {
    "billing": ["invoice", "refund", "card", "paid", "price", "charge"],
    "delivery": ["parcel", "late", "courier", "address", "van", "box"],
    "fault": ["broken", "noise", "screen", "dead", "crack", "battery"],
}
OTHERS = ["the", "my", "a", "it", "is", "was", "with", "and", "of", "on", "very", "please", "help", "since"]


def tickets(rows: int = 300) -> pa.Table:
    """Texts of eight words, of which two tell the kind."""
    draw = np.random.default_rng(0)
    kinds = draw.choice(list(KINDS), rows)
    texts = [" ".join(draw.permutation([*draw.choice(OTHERS, 6), *draw.choice(KINDS[kind], 2)])) for kind in kinds]
    return pa.table({"body": texts, "hours": draw.normal(size=rows), "kind": kinds})


def save_small_bert(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """Save the model and its tokenizer, as `save_pretrained` does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *OTHERS, *(word for kind in KINDS.values() for word in kind)]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder
