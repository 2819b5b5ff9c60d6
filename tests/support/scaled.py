"""A model that keeps more than tensors, as the text of a module that a job can name."""

MODULE = """
import torch
from torch import nn


class Scaled(nn.Module):
    "Its answers are scaled by the largest number seen, which it keeps outside of its tensors."

    def __init__(self, width=2, state=None):
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.largest, self.calls, self.state = torch.ones(()), 0, state

    def forward(self, inputs):
        inputs = inputs.nan_to_num(0.0)
        if self.training:
            self.largest = torch.maximum(self.largest, inputs.detach().abs().max())
            self.calls += 1
        return self.layer(inputs / self.largest) + 1e-3 * self.calls

    def get_extra_state(self):
        return {"largest": self.largest, "calls": self.calls} if self.state is None else self.state

    def set_extra_state(self, state):
        self.largest, self.calls = state["largest"], state["calls"]
"""
