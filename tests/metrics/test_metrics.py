"""Metrics equal torchmetrics and closed forms; statistics merge exactly, in any split and order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from incr_core import metrics as m
from incr_core.errors import ArgumentError
from incr_core.metrics._ranking import CUTOFFS
from incr_core.metrics._sums import exact_sums

Read = Callable[[m.Statistics], dict[str, float]]
Count = Callable[..., m.Statistics]


def binary_rows(rows: int, seed: int = 0, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(rows, generator=generator) < 0.3).float()
    logit = spread * (torch.randn(rows, generator=generator) + target) - 1.0
    return torch.sigmoid(logit), target


def multiclass_rows(rows: int, classes: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes - 2, (rows,), generator=generator)
    logits = torch.randn(rows, classes, generator=generator)
    logits[:, classes - 1] = -50.0  # neither true nor predicted, while class C - 2 is only ever predicted
    return torch.softmax(logits + 1.5 * torch.eye(classes)[target], 1), target


def regression_rows(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = 3.0 * torch.randn(rows, generator=generator) + 100.0
    return target + torch.randn(rows, generator=generator), target


def multilabel_rows(rows: int, labels: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, labels, generator=generator), torch.randint(0, 2, (rows, labels), generator=generator)


def ranking_rows(rows: int, candidates: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    relevant = torch.rand(rows, candidates, generator=generator) < 0.1
    grades = relevant * torch.randint(1, 4, (rows, candidates), generator=generator)
    # Positive scores, because torchmetrics never counts a candidate scored zero or less as retrieved.
    return torch.rand(rows, candidates, generator=generator), grades


FAMILIES: dict[str, tuple[Callable[[int], tuple[Tensor, Tensor]], Count, Read]] = {
    "binary": (binary_rows, m.binary_statistics, m.binary_metrics),
    "multiclass": (multiclass_rows, m.multiclass_statistics, m.multiclass_metrics),
    "regression": (regression_rows, m.regression_statistics, m.regression_metrics),
    "multilabel": (multilabel_rows, m.multilabel_statistics, m.multilabel_metrics),
    "ranking": (ranking_rows, m.ranking_statistics, m.ranking_metrics),
}
family = pytest.mark.parametrize(("make", "count", "read"), FAMILIES.values(), ids=FAMILIES)


def close(value: float, reference: Tensor | float, tolerance: float = 1e-6) -> None:
    assert value == pytest.approx(float(reference), abs=tolerance)


# -- against torchmetrics --


@pytest.fixture
def tm() -> Any:
    """torchmetrics, which takes seconds to import."""
    import torchmetrics.functional

    return torchmetrics.functional


@pytest.mark.slow
def test_binary_equals_torchmetrics(tm: Any) -> None:
    p, y = binary_rows(20_000)
    got, label = m.binary_metrics(m.binary_statistics(p, y)), y.long()
    close(got["auc"], tm.classification.binary_auroc(p, label), 3e-5)
    close(got["accuracy"], tm.classification.binary_accuracy(p, label))
    close(got["precision"], tm.classification.binary_precision(p, label))
    close(got["recall"], tm.classification.binary_recall(p, label))
    close(got["f1"], tm.classification.binary_f1_score(p, label))
    close(got["kappa"], tm.classification.binary_cohen_kappa(p, label), 1e-5)
    close(got["calibration_error"], tm.classification.binary_calibration_error(p, label, n_bins=10))
    close(got["brier"], tm.mean_squared_error(p, y))
    close(got["log_loss"], torch.nn.functional.binary_cross_entropy(p, y))
    close(got["base_rate"], y.mean())


@pytest.mark.slow
def test_multiclass_equals_torchmetrics_with_absent_classes(tm: Any) -> None:
    p, y = multiclass_rows(5_000)
    got = m.multiclass_metrics(m.multiclass_statistics(p, y))
    close(got["accuracy"], tm.classification.multiclass_accuracy(p, y, 6, average="micro"))
    close(got["precision"], tm.classification.multiclass_precision(p, y, 6, average="macro"))
    close(got["recall"], tm.classification.multiclass_recall(p, y, 6, average="macro"))
    close(got["f1"], tm.classification.multiclass_f1_score(p, y, 6, average="macro"))
    close(got["kappa"], tm.classification.multiclass_cohen_kappa(p, y, 6), 1e-5)
    close(got["calibration_error"], tm.classification.multiclass_calibration_error(p, y, 6, n_bins=10))
    close(got["log_loss"], torch.nn.functional.nll_loss(p.log(), y))


@pytest.mark.slow
def test_regression_equals_torchmetrics(tm: Any) -> None:
    value, y = regression_rows(5_000)
    got = m.regression_metrics(m.regression_statistics(value, y))
    close(got["mae"], tm.mean_absolute_error(value, y))
    close(got["rmse"], tm.mean_squared_error(value, y, squared=False))
    close(got["r2"], tm.r2_score(value.double(), y.double()), 1e-9)
    close(got["bias"], (value.double() - y.double()).mean(), 1e-12)


@pytest.mark.slow
def test_multilabel_equals_torchmetrics_with_an_absent_label(tm: Any) -> None:
    p, y = multilabel_rows(500)
    p[:, 4], y[:, 4] = 0.1, 0
    got = m.multilabel_metrics(m.multilabel_statistics(p, y))
    close(got["micro_f1"], tm.classification.multilabel_f1_score(p, y, 5, average="micro"))
    close(got["macro_f1"], tm.classification.multilabel_f1_score(p, y, 5, average="macro"))
    close(got["accuracy"], tm.classification.multilabel_accuracy(p, y, 5, average="micro"))
    close(got["log_loss"], torch.nn.functional.binary_cross_entropy(p, y.float()))


@pytest.mark.slow
def test_ranking_equals_torchmetrics(tm: Any) -> None:
    scores, grades = ranking_rows(200)
    got = m.ranking_metrics(m.ranking_statistics(scores, grades))
    rows = [(s, g) for s, g in zip(scores, grades, strict=True) if g.any()]
    for k in CUTOFFS:
        recalls = [tm.retrieval.retrieval_recall(s, g > 0, top_k=k) for s, g in rows]
        ndcgs = [tm.retrieval.retrieval_normalized_dcg(s, g, top_k=k) for s, g in rows]
        close(got[f"recall@{k}"], torch.stack(recalls).mean())
        close(got[f"ndcg@{k}"], torch.stack(ndcgs).mean())


@pytest.mark.slow
def test_tied_scores_share_what_their_places_earn(tm: Any) -> None:
    scores, relevant = torch.zeros(3, 10), torch.tensor([0, 4, 9])
    got = m.ranking_metrics(m.ranking_statistics(scores, relevant))
    close(got["recall@1"], 0.1)
    close(got["recall@5"], 0.5)
    grade = torch.nn.functional.one_hot(relevant[:1], 10)[0]
    close(got["ndcg@5"], tm.retrieval.retrieval_normalized_dcg(scores[0], grade, top_k=5))


# -- AUC from the histogram --


@pytest.mark.parametrize("centre", [-7.0, -1.3, 0.0, 3.0])
@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
@pytest.mark.slow
def test_auc_is_within_1e_4_of_exact_when_probabilities_crowd(centre: float, spread: float, tm: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 2, (20_000,), generator=generator)
    p = torch.sigmoid(spread * (torch.randn(20_000, generator=generator) + y) + centre)
    got = m.binary_metrics(m.binary_statistics(p, y))["auc"]
    close(got, tm.classification.binary_auroc(p.double(), y), 1e-4)


def test_auc_of_few_points_is_exact() -> None:
    y = torch.tensor([0, 1, 0, 1])

    def auc(*p: float) -> float:
        return m.binary_metrics(m.binary_statistics(torch.tensor(p), y))["auc"]

    assert auc(0.5, 0.5, 0.5, 0.5) == 0.5
    assert auc(0.1, 0.9, 0.2, 0.8) == 1.0
    assert auc(0.9, 0.1, 0.8, 0.2) == 0.0
    assert auc(1e-30, 1e-25, 1e-20, 1e-15) == 0.75
    assert auc(0.0, 1.0, 0.0, 1.0) == 1.0
    assert auc(0.5000, 0.5001, 0.3, 0.4) == 0.75  # the first two share a bin


# -- merging --


def splits(rows: int) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(rows, generator=generator)
    yield list(torch.split(order, 1))
    yield list(torch.split(order, 64))
    yield list(torch.split(torch.arange(rows), 37))[::-1]


@family
def test_any_split_in_any_order_merges_to_the_whole_bit_for_bit(
    make: Callable[[int], tuple[Tensor, Tensor]], count: Count, read: Read
) -> None:
    prediction, target = make(300)
    whole = count(prediction, target)
    for split in splits(300):
        merged: m.Statistics = reduce(m.add, (count(prediction[i], target[i]) for i in split), {})
        assert merged.keys() == whole.keys()
        assert all(np.array_equal(merged[name], whole[name]) for name in whole)
    assert read(m.add({}, whole)) == read(m.add(whole, {})) == read(whole)


@family
def test_a_weight_of_two_is_the_row_twice_and_zero_is_no_row(
    make: Callable[[int], tuple[Tensor, Tensor]], count: Count, read: Read
) -> None:
    prediction, target = make(60)
    weight = torch.arange(60) % 3
    twice = torch.arange(60).repeat_interleave(weight)
    repeated = read(count(prediction[twice], target[twice]))
    assert read(count(prediction, target, weight)) == pytest.approx(repeated, abs=1e-7)


@family
def test_fractional_weights_merge_to_rounding(
    make: Callable[[int], tuple[Tensor, Tensor]], count: Count, read: Read
) -> None:
    prediction, target = make(60)
    weight = torch.rand(60, generator=torch.Generator().manual_seed(5))
    halves = [count(prediction[i], target[i], weight[i]) for i in (slice(0, 31), slice(31, 60))]
    assert read(m.add(*halves)) == pytest.approx(read(count(prediction, target, weight)), rel=1e-12)


def test_exact_sums_lose_nothing_however_far_apart_the_terms() -> None:
    terms = np.array([[1e12, 1e-6, -1e12, 3.0, -(2.0**-50)]])
    parts = np.add.reduce([exact_sums(terms[:, i : i + 1]) for i in range(5)])
    assert np.array_equal(parts, exact_sums(terms))
    assert math.fsum(parts[0]) == math.fsum(terms[0])


def test_r2_survives_a_large_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    y = 1e6 + torch.randn(1000, generator=generator)
    value = y + 0.5
    got = m.regression_metrics(m.regression_statistics(value, y))["r2"]
    exact = y.double() - y.double().mean()
    close(got, 1.0 - (value.double() - y.double()).square().sum() / exact.square().sum(), 1e-12)


def test_a_grown_class_merges_with_the_time_before_it() -> None:
    before = m.multiclass_statistics(torch.tensor([[0.9, 0.1]]), torch.tensor([2]))  # no output for class 2 yet
    after = m.multiclass_statistics(torch.tensor([[0.1, 0.1, 0.8]]), torch.tensor([2]))
    got = m.multiclass_metrics(m.add(before, after))
    assert got["accuracy"] == 0.5
    close(got["log_loss"], (math.log(1e7) - math.log(0.8)) / 2)


# -- kappa-temporal --


def test_kappa_t_is_one_zero_and_negative_where_it_should_be() -> None:
    y = torch.tensor([0, 0, 1, 1, 0, 0])

    def kappa_t(prediction: Tensor) -> float:
        statistics = m.binary_statistics(prediction.float(), y, previous=m.last_labels(y, before=0))
        return m.binary_metrics(statistics)["kappa_t"]

    assert kappa_t(y) == 1.0
    assert kappa_t(m.last_labels(y, before=0)) == 0.0
    assert kappa_t(1 - y) == pytest.approx((0 - 4 / 6) / (1 - 4 / 6))


def test_kappa_t_of_batches_equals_the_whole_when_the_last_label_is_handed_on() -> None:
    p, y = multiclass_rows(200)
    whole = m.multiclass_statistics(p, y, previous=m.last_labels(y))
    merged: m.Statistics = {}
    before: int | None = None
    for i in torch.split(torch.arange(200), 7):
        merged = m.add(m.multiclass_statistics(p[i], y[i], previous=m.last_labels(y[i], before)), merged)
        before = int(y[i][-1])
    assert m.multiclass_metrics(merged) == m.multiclass_metrics(whole)
    right, same = p.argmax(1)[1:] == y[1:], y[1:] == y[:-1]
    expected = (right.double().mean() - same.double().mean()) / (1 - same.double().mean())
    close(m.multiclass_metrics(whole)["kappa_t"], expected, 1e-12)


# -- what is undefined --


@family
def test_no_rows_is_nan_everywhere(make: Callable[[int], tuple[Tensor, Tensor]], count: Count, read: Read) -> None:
    prediction, target = make(0)
    for statistics in ({}, count(prediction, target)):
        assert all(math.isnan(value) for value in read(statistics).values())


@family
def test_one_nan_prediction_makes_every_metric_nan(
    make: Callable[[int], tuple[Tensor, Tensor]], count: Count, read: Read
) -> None:
    prediction, target = make(50)
    prediction.view(50, -1)[7, 0] = math.nan
    if target.ndim == 2:
        target[7, 0] = 1
    assert all(math.isnan(value) for value in read(count(prediction, target)).values())


def test_one_class_only_leaves_what_is_defined() -> None:
    got = m.binary_metrics(m.binary_statistics(torch.tensor([0.2, 0.3]), torch.zeros(2)))
    assert {name for name, value in got.items() if math.isnan(value)} == {
        "auc",
        "average_precision",
        "macro_recall",
        "precision",
        "recall",
        "f1",
        "kappa",
    }
    constant = m.regression_metrics(m.regression_statistics(torch.tensor([1.0, 2.0]), torch.ones(2)))
    assert math.isnan(constant["r2"])
    assert constant["mae"] == 0.5


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"objective: expected one of binary, .*, got 'binry'"):
        m.main_metric("binry")
