"""Texts as vectors of a frozen pretrained transformer, computed once for each text and kept within a bound.

Needs the extra `text` (transformers).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from incr_core._util import byte_count
from incr_core.data.encoding._words import texts_of
from incr_core.errors import ArgumentError
from incr_core.numerics import seeded
from incr_core.shown import shown

__all__ = ["Pretrained", "pretrained_at", "pretrained_sha256"]

FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model", "*.safetensors")
"""Files of a folder that decide on its vectors."""

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Pretrained:
    """A frozen transformer of a Hugging Face folder: text -> the mean of its last hidden states, without padding.

    Each text is passed through the transformer alone, so its vector is a function of the text and does not depend on
    the texts beside it. Vectors are float32. Those used last are kept by a hash of their text, up to `cache` bytes.
    Nothing is downloaded, weights are read from safetensors files only, and no code of the folder is run.

    Args:
        folder: A folder with `config.json`, a tokenizer and `model.safetensors`.
        tokens: Maximum number of tokens of a text; later ones are ignored.
        cache: Size of the vectors kept, such as "256MB".

    Attributes:
        width: The size of a vector.

    Reference:
        Reimers and Gurevych 2019, "Sentence-BERT", section 3, for the mean of the hidden states.
    """

    def __init__(self, folder: Path, tokens: int = 128, cache: str = "256MB") -> None:
        self.folder, self.tokens = folder, tokens
        self._room = byte_count("model.encoder_cache", cache)
        self._kept: OrderedDict[bytes, Floats] = OrderedDict()
        self._lock = Lock()
        config = json.loads((folder / "config.json").read_text())
        self.width = int(next((config[key] for key in ("hidden_size", "dim", "d_model") if key in config), 0))
        if not self.width:
            raise ArgumentError(
                f"model.encoder: expected hidden_size in {folder / 'config.json'}, got none; name a folder of a text "
                "encoder such as BERT"
            )

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            return _library().AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"model.encoder: expected a tokenizer in {self.folder}, got none that can be read: "
                f"{shown(error, 200)}; save it there (tokenizer.save_pretrained)"
            ) from error

    @cached_property
    def _body(self) -> Any:
        return self.body().requires_grad_(False)

    def body(self) -> Any:
        """Return a new transformer with the weights of the folder, in eval mode.

        Raises:
            ArgumentError: They cannot be read, or weights are missing.
        """
        try:
            with seeded(0), _without_progress_bar():  # transformers draws weights before it reads them
                body, told = _library().AutoModel.from_pretrained(
                    str(self.folder),
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"model.encoder: expected a model in {self.folder} as safetensors, got none that can be read: "
                f"{shown(error, 200)}; save it there (model.save_pretrained)"
            ) from error
        if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler.")):
            raise ArgumentError(
                f"model.encoder: expected all weights of the encoder in {self.folder}, got none for {missing[0]}; save "
                "the whole model"
            )
        return body.eval()

    def vectors(self, column: pa.ChunkedArray, place: str) -> Floats:
        """Return the vectors of a column of texts, (B, width); zeros for null and empty text.

        `place` names column and file in errors.
        """
        texts = texts_of(column, place).to_pylist()
        found = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            if text:
                found[row] = self._vector(text)
        return found

    def ids(self, column: pa.ChunkedArray, place: str) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the ids of each text's tokens plus 1, (B, tokens), for a transformer that learns; 0 is padding."""
        texts = texts_of(column, place).to_pylist()
        found = np.zeros((len(texts), self.tokens), dtype=np.int32)
        with self._lock:
            for row, text in enumerate(texts):
                if text:
                    ids = self._tokenizer(text, truncation=True, max_length=self.tokens)["input_ids"]
                    found[row, : len(ids)] = np.asarray(ids) + 1
        return found

    def _vector(self, text: str) -> Floats:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                kept = self._kept[key] = self._computed(text)
                while len(self._kept) * kept.nbytes > self._room and len(self._kept) > 1:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(key)
        return kept

    @torch.no_grad()
    def _computed(self, text: str) -> Floats:
        encoded = self._tokenizer(text, truncation=True, max_length=self.tokens, return_tensors="pt")
        hidden = self._body(**encoded).last_hidden_state
        return np.asarray(hidden[0].mean(0).numpy(), dtype=np.float32)


@lru_cache(maxsize=4)
def pretrained_at(folder: Path, tokens: int, cache: str) -> Pretrained:
    """Return the transformer of a folder, one for all participants of a process."""
    return Pretrained(folder, tokens, cache)


def pretrained_sha256(folder: Path) -> str:
    """Return a hash of the files of a folder that decide on its vectors."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}):
        found.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    logging = _library().utils.logging
    shows = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shows:
            logging.enable_progress_bar()


def _library() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"model.encoder: needs {missing.name}, which is not installed; pip install 'incr[text]'"
        ) from missing
    return transformers
