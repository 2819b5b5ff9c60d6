"""Choosing what to learn from: what `weigh` promises, and what the strategies that use it choose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import JobError, StrategyError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.models.adapt import nearest_mean
from incr_core.objectives import Binary, Multiclass, Objective, Ranking, Regression
from incr_core.objectives._losses import Generalised, Huber, Symmetric
from incr_core.strategies import ACE, Context, ICaRL, Outliers, Replay, Selective, SmallLoss, Strategy
from incr_core.strategies.mechanisms import RecentRanks
from incr_core.testing._laws import check_strategy

SGD = partial(torch.optim.SGD, lr=0.1)


class Times(Strategy):
    """Rows count what a function of their targets says."""

    def __init__(self, factor: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._factor = factor

    def weigh(self, ctx: Context, batch: Batch, output: Tensor) -> Tensor | None:
        assert not torch.is_grad_enabled()
        assert not output.requires_grad
        return self._factor(batch.targets)


def three(rows: int, seed: int = 0, noise: float = 0.0) -> Batch:
    """Three classes around three points, with that share of wrong labels."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(3, (rows,), generator=generator)
    inputs = 2.0 * torch.eye(3)[classes] + 0.5 * torch.randn(rows, 3, generator=generator)
    wrong = torch.rand(rows, generator=generator) < noise
    shift = torch.randint(1, 3, (rows,), generator=generator)
    return Batch(inputs, torch.where(wrong, (classes + shift) % 3, classes), row_ids=torch.arange(rows))


def learner(strategies: list[Strategy], batch_size: int = 12, accumulate: int = 1, seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    model = nn.Linear(3, 3).double()
    return Learner(model, Multiclass(3), SGD, strategies, batch_size=batch_size, accumulate=accumulate, shuffle=False)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_the_loss_is_the_weighed_sum_over_the_weights_the_rows_came_with(weighted: bool) -> None:
    rows = three(12)
    weights = torch.rand(12, dtype=torch.float64) if weighted else None
    batch = Batch(rows.inputs.double(), rows.targets, weights)  # type: ignore[union-attr]
    mine = learner([Times(lambda targets: 2.0 * targets), Times(lambda targets: 1.0 * (targets < 2))])
    (weight, _) = mine.context.parameters
    losses = mine.objective.rows(mine.model(batch.inputs), batch.targets)
    factor = 2.0 * batch.targets * (batch.targets < 2)
    w = torch.ones(12, dtype=torch.float64) if weights is None else weights
    expected = (factor * w * losses).sum() / w.sum()
    (gradient,) = torch.autograd.grad(expected, [weight])
    before = weight.detach().clone()
    assert mine.learn(batch).losses["loss"] == pytest.approx(12 * expected.item())
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)


def test_rows_that_all_count_nothing_change_nothing() -> None:
    mine = learner([Times(lambda targets: torch.zeros(len(targets)))])
    before = {name: value.clone() for name, value in mine.weights().items()}
    mine.learn(three(12).map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor))
    assert all(torch.equal(value, before[name]) for name, value in mine.weights().items())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Outliers(threshold=0.5, window=1000),
        lambda: SmallLoss(rate=0.3, warmup=3, history=64),
        lambda: SmallLoss(rate=0.3, warmup=3, history=64, per_class=True),
        lambda: Times(lambda targets: 1.0 + targets.double()),
    ],
    ids=["outliers", "small loss", "small loss by class", "constant"],
)
def test_k_batches_equal_one_large_batch(make: Callable[[], Strategy]) -> None:
    def weights(batch_size: int, accumulate: int) -> dict[str, Tensor]:
        mine = learner([make()], batch_size, accumulate)
        for day in range(2):
            rows = three(43, day)
            mine.learn(Batch(rows.inputs.double(), rows.targets))  # type: ignore[union-attr]
        return mine.weights()

    large = weights(12, 1)
    for name, value in weights(4, 3).items():
        torch.testing.assert_close(value, large[name], rtol=1e-9, atol=1e-11)


class Few(Times):
    """Says that it keeps few rows."""

    @property
    def keeps(self) -> float:
        return 0.25


def runs(mine: Learner) -> list[tuple[int, bool]]:
    """The rows of each forward to come, and whether it is to be followed by a backward."""
    found: list[tuple[int, bool]] = []
    mine.model.register_forward_pre_hook(lambda _, inputs: found.append((len(inputs[0]), torch.is_grad_enabled())))
    return found


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.Adam])
@pytest.mark.parametrize("replays", [False, True], ids=["alone", "replay"])
def test_rows_that_count_nothing_are_not_run_backward_and_the_weights_are_the_same(
    optimizer: Callable[..., torch.optim.Optimizer], replays: bool
) -> None:
    def learned(kind: type[Times], day: int = 3) -> tuple[dict[str, Tensor], dict[str, float], list[tuple[int, bool]]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        chosen = kind(lambda targets: 1.5 * (targets == 2))
        strategies = [Replay(capacity=50), chosen] if replays else [chosen]
        mine = Learner(model, Multiclass(3), optimizer, strategies, batch_size=64, accumulate=2, shuffle=False)
        ran = runs(mine)
        for each in range(day):
            rows = three(300, each)
            weights = torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(each))
            none = rows.targets.masked_fill(torch.arange(300) < 128, 0)  # a step that learns from no row
            told = mine.learn(Batch(rows.inputs.double(), none, weights)).losses  # type: ignore[union-attr]
        return mine.weights(), told, ran

    weighed, losses, all_rows = learned(Times)
    chosen, same_losses, few_rows = learned(Few)
    for name, value in weighed.items():
        torch.testing.assert_close(chosen[name], value, rtol=1e-9, atol=1e-12)
    assert same_losses == pytest.approx(losses, rel=1e-9)
    backward, forward = ([rows for rows, gradients in few_rows if gradients is wanted] for wanted in (True, False))
    assert sum(backward) < 0.4 * sum(rows for rows, _ in all_rows)
    assert min(forward) >= 64  # the last batch of an increment is small, and weighed


def test_where_rows_depend_on_one_another_or_all_are_needed_all_are_run_once() -> None:
    class Shift(Strategy):
        def loss(self, ctx: Context, batch: Batch, output: Tensor) -> dict[str, Tensor]:
            assert len(output) == len(batch) == 64
            return {"shift": output.square().mean()}

    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    choose = Few(lambda targets: 1.0 * (targets == 2))
    rows, pairs = three(64), Batch(torch.randn(64, 3), torch.ones(64))
    for mine, batch in (
        (Learner(norm, Multiclass(3), SGD, [choose], batch_size=64), rows),
        (Learner(nn.Linear(3, 3), Multiclass(3), SGD, [choose, Shift()], batch_size=64), rows),
        (Learner(nn.Linear(3, 4), Ranking(dimension=2), SGD, [choose], batch_size=64), pairs),
    ):
        ran = runs(mine)
        mine.learn(batch)
        assert ran == [(64, True)]


@pytest.mark.parametrize(("beta", "by", "share"), [(3.0, "loss", 0.25), (1.0, "loss", 1.0), (3.0, "class", 1.0)])
def test_selective_runs_few_rows_backward_where_it_keeps_few(beta: float, by: str, share: float) -> None:
    still = partial(torch.optim.SGD, lr=0.0)  # so that losses, and their ranks, stay what they are
    mine = Learner(nn.Linear(3, 3), Multiclass(3), still, [Selective(beta, by)], batch_size=64)
    mine.learn(three(1280))
    ran = runs(mine)
    mine.learn(three(1280))
    assert sum(rows for rows, gradients in ran if gradients) / 1280 == pytest.approx(share, abs=0.05)


@pytest.mark.slow
def test_the_laws_hold_where_rows_are_chosen_before_they_are_run_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incr_core.learner._row_weighting.ENOUGH", 2)
    check_strategy(partial(Selective, beta=3.0), zero=partial(Selective, beta=0.0))


def test_remembered_rows_are_weighed_too() -> None:
    lengths: list[int] = []

    def factor(targets: Tensor) -> Tensor:
        lengths.append(len(targets))
        return torch.ones(len(targets), dtype=torch.float64)

    rows = three(24).map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    learner([Replay(ratio=0.5), Times(factor)]).learn(rows)
    assert lengths == [12, 18]


def test_what_takes_new_rows_out_of_the_loss_leaves_nothing_to_choose() -> None:
    with pytest.raises(StrategyError, match=r"strategy: SmallLoss weighs new rows .* and ACE takes"):
        learner([ACE(), SmallLoss(), Replay()])
    learner([ACE(), Replay()])


@pytest.mark.parametrize("pair", [(ACE, ICaRL), (ICaRL, ACE)])
def test_new_rows_are_set_aside_once(pair: tuple[type[Strategy], type[Strategy]]) -> None:
    one, two = pair
    with pytest.raises(StrategyError, match=rf"strategy: {one.__name__} and {two.__name__} each take new rows out"):
        Learner(nearest_mean(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3))), Multiclass(3), SGD, [one(), two()])


def test_a_rank_is_the_share_at_most_as_large_and_of_its_own_class_where_asked() -> None:
    recent = RecentRanks(5)
    values, classes = torch.tensor([7.0, 1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    for place in range(6):  # the first falls out of the ring
        recent.add(values[place : place + 1], classes[place : place + 1])
    assert recent.rank(torch.tensor([3.0, 4.5])).tolist() == pytest.approx([0.6, 0.8])
    assert recent.rank(torch.tensor([4.5, 4.5, 4.5]), torch.tensor([0, 1, 2])).tolist() == [1.0, 0.5, 1.0]


@pytest.mark.parametrize(("by", "beta"), [("loss", 2.0), ("uncertainty", 1.0), ("class", 1.0)])
def test_selective_keeps_the_size_of_a_step_in_the_mean(by: str, beta: float) -> None:
    torch.manual_seed(0)
    model, strategy = nn.Linear(3, 3), Selective(beta, by, history=500)
    mine = Learner(model, Multiclass(3), SGD, [strategy], batch_size=50)
    rare = three(4000)
    kept = (rare.targets != 0) | (torch.rand(4000) < 0.2)
    rows = rare.take(kept.nonzero().flatten())
    output = model(rows.inputs).detach()
    strategy.after_step(mine.context, rows.slice(0, 500), output[:500])
    factor = strategy.weigh(mine.context, rows.slice(500, 2500), output[500:2500])
    assert factor is not None
    assert float(factor.mean()) == pytest.approx(1.0, abs=0.08)
    if by == "loss":  # the largest losses are always learned from, and the chance of a loss is its rank's square
        losses = mine.objective.rows(output, rows.targets)
        chance, _ = strategy._chance(mine.context, rows.slice(500, 2500), output[500:2500])
        for index in (0, 7, 99):
            rank = float((losses[:500] <= losses[500 + index]).float().mean())
            assert float(chance[index]) == pytest.approx(rank**2)
    if by == "class":  # all classes are learned from equally often
        learned = torch.bincount(rows.targets[500:2500][factor > 0]).float()
        assert float(learned.min() / learned.max()) > 0.8


def test_selective_needs_classes_for_what_needs_classes() -> None:
    with pytest.raises(StrategyError, match=r'selective.by: expected the objective binary or multiclass for "class"'):
        Learner(nn.Linear(3, 1), Regression(), SGD, [Selective(by="class")])
    Learner(nn.Linear(3, 1), Binary(), SGD, [Selective(by="uncertainty")])


@pytest.mark.slow
def test_small_loss_finds_the_wrong_labels_and_learns_better_without_them() -> None:
    clean, noisy, right = three(2000, 1), three(400, 2, noise=0.4), three(400, 2)

    def learned(strategies: list[Strategy]) -> Learner:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))
        mine = Learner(model, Multiclass(3), partial(torch.optim.Adam, lr=0.003), strategies, batch_size=32, epochs=40)
        mine.learn(noisy)
        return mine

    def accuracy(mine: Learner) -> float:
        return float((mine.predict(clean.inputs).argmax(1) == clean.targets).float().mean())

    chosen = SmallLoss(rate=0.4, warmup=60, history=400)
    with_it, without = learned([chosen]), learned([])
    assert accuracy(with_it) > accuracy(without) + 0.04
    factor = chosen.weigh(with_it.context, noisy, with_it.model(noisy.inputs).detach())
    assert factor is not None
    wrong = noisy.targets != right.targets
    assert float((factor[wrong] > 0).float().mean()) < 0.15 < 0.9 < float((factor[~wrong] > 0).float().mean())


def test_small_loss_leaves_out_the_rate_it_was_told() -> None:
    rows = three(1000, 3, noise=0.3)
    strategy = SmallLoss(rate=0.25, warmup=1, history=1000)
    mine = Learner(nn.Linear(3, 3), Multiclass(3), SGD, [strategy], batch_size=1000)
    mine.context.step = 1
    output = mine.model(rows.inputs).detach()
    strategy.after_step(mine.context, rows, output)
    factor = strategy.weigh(mine.context, rows, output)
    assert factor is not None
    assert float((factor > 0).float().mean()) == pytest.approx(0.75)
    assert float(factor.mean()) == pytest.approx(1.0)
    with pytest.raises(StrategyError, match=r"small_loss.rate: expected a share below 1"):
        SmallLoss(rate=1.0)


def test_outliers_count_threshold_over_distance_and_hardly_move_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.tensor([10.0, -5.0]) + torch.tensor([2.0, 0.1]) * torch.randn(5000, 2, generator=generator)
    strategy = Outliers(threshold=3.0, window=100_000)
    mine = Learner(nn.Linear(2, 1), Regression(), partial(torch.optim.SGD, lr=0.0), [strategy], batch_size=100)
    mine.learn(Batch(inputs, torch.zeros(5000)))
    row = torch.tensor([[10.0 + 2.0 * 8.0, float("nan")], [10.0, -5.0], [10.0, -5.0 + 0.1 * 8.0]])
    factor = strategy.weigh(mine.context, Batch(row, torch.zeros(3)), torch.zeros(3))
    assert factor is not None
    assert factor.tolist() == pytest.approx([3 / 8, 1.0, 3 / (8 / 2**0.5)], rel=0.05)
    far = torch.full((100, 2), 1e9)
    mine.learn(Batch(far, torch.zeros(100)))
    assert strategy._sums is not None
    mean = strategy._sums[1] / strategy._sums[0]
    assert float(abs(mean[0] - 10.0)) < 1.0
    with pytest.raises(StrategyError, match="outliers: expected inputs with numbers"):
        strategy.after_step(mine.context, Batch(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2)), torch.zeros(2))


def test_a_weight_column_reaches_the_loss(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, generator=generator)
    opposite = torch.arange(400) % 2 == 1  # every other row says the opposite, and counts nothing
    label = torch.where(opposite, x < 0, x > 0)
    pq.write_table(
        pa.table({"x": x.numpy(), "y": label.int().numpy(), "w": (~opposite).float().numpy()}),
        tmp_path / "rows.parquet",
    )
    document = {
        "stream": {"path": str(tmp_path / "rows.parquet")},
        "features": {"label": "y", "weight": "w"},
        "model": {"hidden": []},
        "learner": {"objective": "binary", "epochs": 20, "optimizer": {"name": "sgd", "lr": 0.5}},
    }
    participant = Job.from_document(document).resolved().participant()
    participant.receive()
    participant.begin()
    participant.advance()
    assert participant.learner.predict(torch.tensor([[2.0], [-2.0]])).tolist() == pytest.approx([1.0, 0.0], abs=0.05)


@pytest.mark.parametrize("objective", [Binary, partial(Multiclass, 3)])
def test_robust_losses_are_functions_of_the_probability_of_the_label(objective: Callable[..., Objective]) -> None:
    plain = objective()
    output = torch.randn(50, 3 if plain.outputs == 3 else 1, dtype=torch.float64)
    targets = torch.arange(50) % (3 if plain.outputs == 3 else 2)
    targets = targets if plain.outputs == 3 else targets.double()
    ce = plain.rows(output, targets)
    p = (-ce).exp()
    torch.testing.assert_close(objective(loss=Generalised(0.7)).rows(output, targets), (1 - p**0.7) / 0.7)
    torch.testing.assert_close(objective(loss=Symmetric(0.1, 2.0)).rows(output, targets), 0.1 * ce + 8.0 * (1 - p))
    assert torch.equal(objective(loss=Generalised(0.0))(output, targets), plain(output, targets, torch.ones(50)))
    weights = torch.rand(50, dtype=torch.float64)
    expected = (weights * (1 - p)).sum() / weights.sum()
    torch.testing.assert_close(objective(loss=Generalised(1.0))(output, targets, weights), expected)


def test_huber_is_the_square_within_delta_and_has_a_bounded_gradient() -> None:
    error = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Huber(2.0)(error).sum(), [error])
    torch.testing.assert_close(gradient, 2 * error.detach().clamp(-2, 2))
    assert torch.equal(Huber(9.0)(error), error * error)


def test_a_job_names_its_loss(table: Path) -> None:
    document = {
        "stream": {"path": str(table)},
        "features": {"label": "score", "numeric": ["height"]},
        "learner": {"objective": "regression", "loss": {"name": "huber", "delta": 0.5}},
    }
    job = Job.from_document(document)
    loss = job.objective().loss
    assert isinstance(loss, Huber)
    assert loss.delta == 0.5
    for setting, message in (
        ("learner.loss=gce", "learner.loss.name: expected a loss that .* regression takes, got 'gce'; known: huber"),
        ('learner.loss={name="huber", detla=1}', "learner.loss huber: .*detla.*; it takes delta"),
    ):
        with pytest.raises(JobError, match=message):
            job.with_settings([setting]).objective()
