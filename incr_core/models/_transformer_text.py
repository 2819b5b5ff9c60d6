"""Text columns in tables: token ids, passed through a transformer that the model contains."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["TransformerText"]


class TransformerText(nn.Module):
    """A transformer on each text of a row: the mean of its last hidden states over the tokens of the text.

    Args:
        body: A transformer of Hugging Face, in the mode in which it stays: eval, so that it drops nothing.
        columns: Text columns per row, T.
        width: Size of a hidden state.

    Shapes:
        Tokens (B, T, L) int32, each the token's id plus 1; 0 is padding. The result is (B, T width), zeros for a text
        without tokens.

    Reference:
        Reimers and Gurevych 2019, "Sentence-BERT", section 3.
    """

    def __init__(self, body: nn.Module, columns: int, width: int) -> None:
        super().__init__()
        self.body = body
        self.width = columns * width

    def forward(self, text: Tensor) -> tuple[Tensor, None]:
        """Return the vectors of a row's texts, (B, T width), and no part of the output."""
        tokens = text.flatten(0, 1)
        there = tokens > 0
        longest = max(1, int(there.sum(1).max())) if len(tokens) else 1  # padding that all texts share costs time only
        tokens, there = tokens[:, :longest], there[:, :longest]
        mask = there.long()
        mask[:, 0] = 1  # attention over no token at all would be NaN
        hidden = self.body(input_ids=(tokens.long() - 1).clamp(min=0), attention_mask=mask).last_hidden_state
        shares = there.to(hidden.dtype).unsqueeze(2)
        vectors: Tensor = (hidden * shares).sum(1) / shares.sum(1).clamp(min=1.0)
        return vectors.reshape(len(text), self.width), None
