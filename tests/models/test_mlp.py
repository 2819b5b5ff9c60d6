"""The built-in model for tables."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.models import TableMLP, TableShape
from incr_core.objectives import Binary


def table(rows: int, numeric: int, categorical: int, buckets: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {
        "numeric": torch.randn(rows, numeric, generator=generator),
        "categorical": torch.randint(buckets, (rows, categorical, 2), generator=generator),
    }


@pytest.mark.parametrize(("numeric", "categorical"), [(3, 2), (3, 0), (0, 2)])
@pytest.mark.parametrize("hidden", [[], [8], [8, 4]])
def test_every_shape_of_table_is_learned(numeric: int, categorical: int, hidden: list[int]) -> None:
    torch.manual_seed(0)
    model = TableMLP(TableShape(numeric, categorical, 16, 1), hidden, embedding=4, dropout=0.1)
    learner = Learner(model, Binary(), partial(torch.optim.Adam, lr=0.05), batch_size=16, epochs=30)
    inputs = table(64, numeric, categorical)
    targets = (inputs["numeric"][:, 0] > 0 if numeric else inputs["categorical"][:, 0, 0] > 7).float()
    labelled = Batch(inputs, targets)
    learner.absorb(learner.observe(labelled))
    learner.learn(labelled)
    assert ((learner.predict(inputs) > 0.5) == targets.bool()).float().mean() > 0.9


def test_no_weights_for_categories_where_there_are_none() -> None:
    model = TableMLP(TableShape(3, 0, 4096, 1), [8])
    assert not any("embedding" in name for name in model.state_dict())


def test_scale_and_unit_of_a_number_do_not_matter() -> None:
    torch.manual_seed(0)
    model = TableMLP(TableShape(1, 0, 1, 1), [8]).eval()
    values = torch.randn(50, 1)

    def output(values: Tensor) -> Tensor:
        model.moments.sums.zero_()
        model.moments.add(model.observe({"numeric": values, "categorical": None})["moments.sums"])  # type: ignore[dict-item]
        found: Tensor = model(values)
        return found

    torch.testing.assert_close(output(values), output(1000 * values + 5000), rtol=1e-3, atol=1e-3)


def test_a_missing_number_is_the_mean_and_says_so() -> None:
    model = TableMLP(TableShape(1, 0, 1, 1), [])
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[1.0, 100.0]]))  # type: ignore[operator]
        model.layers[0].bias.zero_()  # type: ignore[operator]
    model.moments.add(model.moments.measure(torch.tensor([[4.0], [6.0]])))
    assert model(torch.tensor([[5.0], [6.0], [torch.nan], [1e9]])).flatten().tolist() == [0.0, 1.0, 100.0, 8.0]


def test_two_categories_are_confused_only_if_both_hashes_collide() -> None:
    model = TableMLP(TableShape(0, 1, 16, 1), [])
    numeric = torch.zeros(3, 0)
    same, other = torch.tensor([[1, 2]]), torch.tensor([[1, 3]])
    found = model({"numeric": numeric, "categorical": torch.stack([same, same, other])}).flatten().tolist()
    assert found[0] == found[1] != found[2]


def test_one_hash_in_two_columns_is_two_categories() -> None:
    model = TableMLP(TableShape(0, 2, 16, 1), [])
    last = model.layers[0]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.ones_(last.weight)  # so that the places of the two columns make no difference
    swapped = torch.tensor([[[1, 2], [3, 4]], [[3, 4], [1, 2]]])
    found = model({"numeric": torch.zeros(2, 0), "categorical": swapped})
    assert not torch.allclose(found[0], found[1])
