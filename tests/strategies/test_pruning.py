"""The masks of pruning, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from incr_core.strategies import Pruning

PLACE = "model.0.parametrizations.weight"


def decided(pruning: Pruning, done: int = 9, **weights: list[float]) -> dict[str, Tensor]:
    """The mask, and the weights that change."""
    given = {
        f"{PLACE}.original": torch.tensor([weights["original"]]),
        f"{PLACE}.0.prune_mask": torch.tensor([weights["mask"]]).bool(),
    }
    if "scores" in weights:
        given[f"{PLACE}.0.prune_scores"] = torch.tensor([weights["scores"]])
    found, shared = pruning.derive(given, {"done": torch.tensor(done)})
    assert not shared
    return {name.rpartition(".")[2]: value[0] for name, value in found.items()}


def test_a_weight_that_momentum_has_moved_stays_pruned() -> None:
    found = decided(Pruning(sparsity=0.5, over=1), original=[5.0, 1.0, -2.0, 0.1], mask=[0, 1, 1, 1])
    assert found["prune_mask"].tolist() == [False, True, True, False]
    assert found["original"].tolist() == [0.0, 1.0, -2.0, 0.0]


def test_of_equal_weights_the_first_stay() -> None:
    found = decided(Pruning(sparsity=0.5, over=1), original=[1.0, -1.0, 1.0, 1.0], mask=[1, 1, 1, 1])
    assert found["prune_mask"].tolist() == [True, True, False, False]


def test_a_weight_whose_score_has_risen_is_used_again() -> None:
    found = decided(
        Pruning(sparsity=0.5, over=1), original=[5.0, 1.0, -2.0, 0.1], mask=[1, 1, 0, 0], scores=[-1.0, 2.0, 0.5, -3.0]
    )
    assert found.keys() == {"prune_mask"}  # pruned weights keep their values
    assert found["prune_mask"].tolist() == [False, True, True, False]


@pytest.mark.parametrize(("done", "share"), [(0, 0.0), (2, 0.0), (3, 0.2), (5, 0.725), (7, 0.8), (50, 0.8)])
def test_the_share_follows_the_cubic_schedule(done: int, share: float) -> None:
    pruning = Pruning(sparsity=0.8, initial=0.2, start=3, over=4)
    assert pruning.share(done) == pytest.approx(share)
