"""What is worked out of a tensor is worked out anew when the tensor changes, and does not outlive a transform."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor

from incr_core.models._derived import Derived
from incr_core.models._magnitudes import Magnitudes


def test_it_is_worked_out_once_for_each_change() -> None:
    derived, source, calls = Derived[tuple[Tensor]](), torch.zeros(2), list[int]()

    def total() -> tuple[Tensor]:
        calls.append(1)
        return (source.sum(),)

    found = []
    for change in (0.0, None, 1.0, None):
        if change is not None:
            source += change
        found.append(float(derived.of(source, total)[0]))
    assert (found, len(calls)) == ([0.0, 0.0, 2.0, 2.0], 2)
    source = source.clone()  # another tensor, which may count as many writes
    assert float(derived.of(source, total)[0]) == 2.0
    assert len(calls) == 3
    for copied in (copy.deepcopy(derived), copy.copy(derived), pickle.loads(pickle.dumps(derived))):
        copied.of(source, total)
    assert len(calls) == 6


def test_what_a_transform_works_out_does_not_outlive_it() -> None:
    magnitudes, values = Magnitudes(1), torch.tensor([[1.0], [10.0], [1000.0]])
    for name, value in magnitudes.measure(values, values).items():
        magnitudes.get_buffer(name).add_(value)
    expected = copy.deepcopy(magnitudes)(values)
    torch.func.grad(lambda weight: (weight * magnitudes(values)).sum())(torch.ones(1))
    assert not torch._C._functorch.is_functorch_wrapped_tensor(magnitudes.skewed())
    torch.testing.assert_close(magnitudes(values), expected, rtol=0, atol=0)
