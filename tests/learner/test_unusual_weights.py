"""Complex weights, and embeddings whose gradients are sparse: learned as torch does it, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.errors import ArgumentError, StrategyError
from incr_core.job import Job
from incr_core.learner import Learner
from incr_core.objectives import Binary, Multiclass
from incr_core.strategies import (
    AGEM,
    DER,
    EWC,
    L2SP,
    MAS,
    MIR,
    SI,
    ElasticNet,
    FedProx,
    GDumb,
    LwF,
    PackNet,
    Replay,
    Strategy,
)  # fmt: skip
from incr_core.strategies._mas import sensitivity
from incr_core.strategies.mechanisms import fisher_diagonal

# Of torch's own Adagrad and SparseAdam, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")

SGD = partial(torch.optim.SGD, lr=0.1)

CHAINS: dict[str, Callable[[], list[Strategy]]] = {
    "none": list,
    "ewc": lambda: [EWC(strength=20.0)],
    "ewc, not online": lambda: [EWC(strength=20.0, online=False)],
    "mas": lambda: [MAS(strength=20.0)],
    "si": lambda: [SI(strength=20.0)],
    "l2sp, fedprox": lambda: [L2SP(strength=0.5), FedProx(strength=0.5)],
    "elastic": lambda: [ElasticNet(l1=0.01, l2=0.1)],
    "agem": lambda: [AGEM(capacity=10, rows=4)],
    "lwf, der": lambda: [LwF(strength=1.0), DER(capacity=10)],
    "mir": lambda: [MIR(capacity=10)],
    "replay": lambda: [Replay(capacity=10)],
    "gdumb": lambda: [GDumb(capacity=10)],
}


def learned(model: nn.Module, make: Any, strategies: list[Strategy], rows: Callable[[int], Batch], **more: Any) -> None:
    learner = Learner(model, Multiclass(2), make, strategies, batch_size=8, accumulate=2, **more)
    for seed in (0, 1, 2):
        learner.learn(rows(seed))


# -- complex -----------------------------------------------------------------------------------------------------


class Spectral(nn.Module):
    """Rows times a complex matrix: two sums of real ones; pairs: its weight as pairs of real numbers."""

    def __init__(self, pairs: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        weight = torch.randn(3, 2, dtype=torch.complex64)
        self.weight = nn.Parameter(torch.view_as_real(weight).clone() if pairs else weight)
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight if self.weight.is_complex() else torch.view_as_complex(self.weight)
        product = inputs.to(weight.dtype) @ weight
        return product.real + product.imag * product.real + self.bias


def numbers(seed: int) -> Batch:
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(seed))
    return Batch(inputs, (inputs[:, 0] > 0).long(), row_ids=torch.arange(24) + 100 * seed)


@pytest.mark.parametrize("chain", CHAINS)
def test_complex_weights_learn_as_their_pairs_do(chain: str) -> None:
    one, other = Spectral(), Spectral(pairs=True)
    for model in (one, other):
        learned(model, SGD, CHAINS[chain](), numbers, clip=0.5)
    torch.testing.assert_close(torch.view_as_real(one.weight), other.weight)
    torch.testing.assert_close(one.bias, other.bias)
    assert not torch.equal(one.weight, Spectral().weight)


@pytest.mark.parametrize("measure", [
    lambda model: fisher_diagonal(model, Multiclass(2), numbers(0)),
    lambda model: sensitivity(model, numbers(0)),
])  # fmt: skip
def test_importance_is_that_of_each_number_of_a_pair(measure: Callable[[nn.Module], dict[str, Tensor]]) -> None:
    found, expected = measure(Spectral()), measure(Spectral(pairs=True))
    assert found["weight"].shape == (3, 2, 2)
    torch.testing.assert_close(found["weight"], expected["weight"])


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_optimizers_by_name_take_complex_weights(name: str) -> None:
    """Their fused forms do not, so they are not asked for those."""
    one, other = Spectral(), Spectral(pairs=True)
    learned(one, name, [], numbers)
    learned(other, name, [], numbers)
    torch.testing.assert_close(torch.view_as_real(one.weight), other.weight)


def test_complex_weights_learn_in_a_job(table: Path) -> None:
    (table.parent / "spectral.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Spectral(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.weight = nn.Parameter(torch.randn(2, 1, dtype=torch.complex64))\n\n"
        "    def forward(self, inputs):\n        return (inputs.to(self.weight.dtype) @ self.weight).abs()\n"
    )
    path = table.parent / "job.toml"
    path.write_text(
        '[stream]\npath = "people.parquet"\nevery = 500\n[features]\nlabel = "tall"\nnumeric = ["height", "weight"]\n'
        '[model]\nfactory = "spectral:Spectral"\n[learner]\nobjective = "binary"\n'
    )
    learner = Job.read(path).participant().learner
    before = learner.weights()["model.weight"].clone()
    learner.learn(Batch(torch.randn(8, 2), torch.ones(8)))
    assert learner.optimizer.defaults["fused"] is None
    assert not torch.equal(learner.weights()["model.weight"], before)


def test_packnet_names_the_weights_that_it_cannot_own() -> None:
    with pytest.raises(StrategyError, match=r"packnet: expected real weights, .*, got weight of complex64"):
        Learner(Spectral(), Multiclass(2), SGD, [PackNet()])


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_packnet_prunes_no_weight_that_is_divided_by_its_norm(normed: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(normed(nn.Linear(4, 3)), nn.Linear(3, 2))
    with pytest.raises(
        StrategyError, match=r"^packnet: expected weights that may become 0, got 0\.weight, .*remove_para"
    ):
        Learner(model, Multiclass(2), SGD, [PackNet()])


# -- sparse ------------------------------------------------------------------------------------------------------


class Bag(nn.Module):
    def __init__(self, sparse: bool, head: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, 4 if head else 2, sparse=sparse)
        self.head = nn.Linear(4, 2) if head else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.table(inputs).sum(1))
        return found


def words(seed: int) -> Batch:
    ids = torch.randint(0, 10, (24, 3), generator=torch.Generator().manual_seed(seed))
    return Batch(ids, (ids[:, 0] > 4).long(), row_ids=torch.arange(24) + 100 * seed)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("make", [SGD, partial(torch.optim.Adagrad, lr=0.1)])
def test_sparse_gradients_teach_what_dense_ones_do(make: Any, chain: str, clip: float | None) -> None:
    one, other = Bag(sparse=True), Bag(sparse=False)
    learned(one, make, CHAINS[chain](), words, clip=clip)
    learned(other, make, CHAINS[chain](), words, clip=clip)
    torch.testing.assert_close(one.table.weight, other.table.weight)
    torch.testing.assert_close(one.head.weight, other.head.weight)
    assert not torch.equal(one.table.weight, Bag(sparse=True).table.weight)


def test_sparse_adam_equals_a_loop_written_by_hand() -> None:
    model = Bag(sparse=True, head=False)
    learner = Learner(model, Multiclass(2), "SparseAdam", batch_size=8, shuffle=False, clip=0.5)
    learner.learn(words(0))
    other = Bag(sparse=True, head=False)
    optimizer = torch.optim.SparseAdam(other.parameters())
    for part in words(0).split(8):
        optimizer.zero_grad()
        F.cross_entropy(other(part.inputs), part.targets).backward()  # type: ignore[no-untyped-call]
        gradient = other.table.weight.grad
        assert gradient is not None
        dense = gradient.to_dense()
        other.table.weight.grad = gradient * min(1.0, 0.5 / (float(dense.norm()) + 1e-6))
        optimizer.step()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(model.table.weight, other.table.weight)
    assert torch.equal(model.table.weight[10:], Bag(sparse=True, head=False).table.weight[10:])


def test_half_precision_takes_sparse_gradients() -> None:
    one, other = Bag(sparse=True), Bag(sparse=False)
    for model in (one, other):
        learned(model, SGD, [], words, precision="float16", clip=1.0)
    torch.testing.assert_close(one.table.weight, other.table.weight)


def test_what_cannot_take_sparse_gradients_is_refused_when_the_learner_is_made() -> None:
    remedy = "choose SGD, Adagrad or SparseAdam, or make the embedding with sparse=False"
    for make, name in (
        (torch.optim.Adam, "Adam"),
        ("adamw", "AdamW"),
        (partial(torch.optim.SGD, weight_decay=0.1), "SGD"),
    ):
        with pytest.raises(ArgumentError, match=f"takes the sparse gradient of table.weight, got {name} .*; {remedy}"):
            Learner(Bag(sparse=True), Multiclass(2), make)
    with pytest.raises(
        ArgumentError, match=r"the dense gradient of head.weight, got SparseAdam .*; choose SGD or Adagrad"
    ):
        Learner(Bag(sparse=True), Multiclass(2), "sparseadam")
    with pytest.raises(ArgumentError, match=r"takes the dense gradient of table.weight, got SparseAdam"):
        Learner(Bag(sparse=True, head=False), Multiclass(2), "sparseadam", [EWC()])  # which pulls at every row
    told = r"takes the dense gradient of table.weight, got SparseAdam \(.*\); choose another$"
    with pytest.raises(ArgumentError, match=told):
        Learner(Bag(sparse=False), Multiclass(2), "sparseadam")
    with pytest.raises(ArgumentError, match=r"takes the dense gradient of table.weight, got <lambda>"):
        Learner(Bag(sparse=False), Multiclass(2), lambda weights: torch.optim.SparseAdam(list(weights)))


# -- optimisers by name ------------------------------------------------------------------------------------------


def test_an_optimizer_by_name_is_that_of_a_job(table: Path) -> None:
    def made(optimizer: Any) -> Learner:
        torch.manual_seed(0)
        return Learner(nn.Linear(2, 1), Binary(), optimizer)

    assert type(made("adam").optimizer) is torch.optim.Adam
    assert made("adam").optimizer.defaults["fused"] is True
    assert made("Adam").optimizer.defaults["lr"] == torch.optim.Adam([nn.Parameter(torch.zeros(1))]).defaults["lr"]
    assert made({"lr": 0.5}).optimizer.defaults["lr"] == 0.5
    one, other = made({"name": "sgd", "lr": 0.5}), made(partial(torch.optim.SGD, lr=0.5, fused=True))
    rows = Batch(torch.randn(8, 2), torch.ones(8))
    for learner in (one, other):
        learner.learn(rows)
    assert torch.equal(one.weights()["model.weight"], other.weights()["model.weight"])
    path = table.parent / "job.toml"
    path.write_text(
        '[stream]\npath = "people.parquet"\n[features]\nlabel = "tall"\nnumeric = ["height", "weight"]\n'
        '[learner]\nobjective = "binary"\noptimizer = "adam"\n'
    )
    assert Job.read(path).participant().learner.optimizer.defaults == made("adam").optimizer.defaults


def test_a_name_or_an_argument_that_is_unknown_is_told() -> None:
    for optimizer, message in (
        ("adamm", "learner.optimizer.name: expected an optimizer, got 'adamm'; did you mean 'adam'?"),
        ({"name": "sgd", "rate": 1.0}, "learner.optimizer: .*'rate'; it takes lr, momentum"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Learner(nn.Linear(2, 1), Binary(), optimizer)
