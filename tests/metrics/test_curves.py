"""Curves and average precision from histograms of scores equal scikit-learn's, which sorts all rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from incr_core import metrics as m


def rows(n: int, share: float, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and labels of which `share` are positive."""
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(n, generator=generator) < share).float()
    return torch.sigmoid(spread * (torch.randn(n, generator=generator) + 2 * target) - 4.0), target


@pytest.mark.slow
@pytest.mark.parametrize(("share", "spread"), [(0.3, 1.5), (0.01, 1.0), (0.01, 4.0), (0.5, 0.3)])
def test_average_precision_is_scikit_learns(share: float, spread: float) -> None:
    from sklearn.metrics import average_precision_score

    p, y = rows(20_000, share, spread)
    found = m.binary_metrics(m.binary_statistics(p, y))["average_precision"]
    assert found == pytest.approx(average_precision_score(y.numpy(), p.double().numpy()), abs=3e-3)


@pytest.mark.slow
def test_average_precision_of_many_classes_is_the_mean_over_those_that_occur() -> None:
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (20_000,), generator=generator)
    p = torch.softmax(torch.randn(20_000, 5, generator=generator) + 1.5 * torch.eye(5)[y], 1)
    found = m.multiclass_metrics(m.multiclass_statistics(p, y))["average_precision"]
    each = [average_precision_score((y == c).numpy(), p[:, c].double().numpy()) for c in range(4)]
    assert found == pytest.approx(np.mean(each), abs=3e-3)


@pytest.mark.slow
def test_curves_pass_through_scikit_learns_points() -> None:
    from sklearn.metrics import precision_recall_curve, roc_curve

    p, y = rows(20_000, 0.1, 1.5)
    counts = m.binary_statistics(p, y)["scores"][0]
    false, true = m.roc_curve(counts)
    exact_false, exact_true, _ = roc_curve(y.numpy(), p.double().numpy(), drop_intermediate=False)
    assert np.interp(np.linspace(0, 1, 50), false, true) == pytest.approx(
        np.interp(np.linspace(0, 1, 50), exact_false, exact_true), abs=0.01
    )
    recall, precision = m.precision_recall_curve(counts)
    exact_precision, exact_recall, _ = precision_recall_curve(y.numpy(), p.double().numpy())
    levels = np.linspace(0.1, 1, 30)
    assert np.interp(levels, recall, precision) == pytest.approx(
        np.interp(levels, exact_recall[::-1], exact_precision[::-1]), abs=0.03
    )


def test_a_confusion_matrix_has_a_row_for_each_true_class() -> None:
    p, y = torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2])
    assert m.multiclass_statistics(p, y)["matrix"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_of_very_many_classes_neither_matrix_nor_curves_are_kept() -> None:
    statistics = m.multiclass_statistics(torch.eye(33), torch.arange(33))
    assert {"matrix", "class_scores"}.isdisjoint(statistics)
    assert "average_precision" not in m.multiclass_metrics(statistics)


def test_macro_recall_counts_the_rare_class_as_much_as_the_common_one() -> None:
    p, y = torch.tensor([0.1] * 8 + [0.9, 0.1]), torch.tensor([0.0] * 8 + [1.0, 1.0])
    found = m.binary_metrics(m.binary_statistics(p, y))
    assert (found["accuracy"], found["macro_recall"]) == (0.9, 0.75)


def test_trivial_values_have_the_errors_of_constants() -> None:
    y = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    found = m.trivial_metrics({m.TRIVIAL: m.trivial_value_statistics((3.0, 2.0), y)})
    assert found["mean"] == {"mae": 2.0, "rmse": pytest.approx((14 / 3) ** 0.5)}
    assert found["last value"] == {"mae": pytest.approx(5 / 3), "rmse": pytest.approx((17 / 3) ** 0.5)}
