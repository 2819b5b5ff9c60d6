"""Optimisers by name, and what they can take: complex weights, and the sparse gradients of embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from incr_core._util import Catalogue, refusal
from incr_core.errors import ArgumentError
from incr_core.learner._schedule import Groups, grouped
from incr_core.numerics import as_dense

__all__ = [
    "OPTIMIZERS",
    "OptimizerFactory",
    "check_gradients",
    "factory_of",
    "fusable",
    "keep_dense",
    "optimizer_for",
    "optimizer_named",
    "sparse_weights",
]

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]

OPTIMIZERS: Catalogue[Callable[..., Optimizer]] = Catalogue(
    "an optimizer",
    {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    },
    "incr.optimizers",
    error=ArgumentError,
)
"""Those of torch.optim in small letters."""


def factory_of(optimizer: OptimizerFactory | str | Mapping[str, Any], *, fused: bool = True) -> OptimizerFactory:
    """A function that makes the optimiser: the one given, or one of the name and arguments that a job gives.

    >>> factory_of("sgd", fused=False)
    functools.partial(<class 'torch.optim.sgd.SGD'>)
    >>> factory_of({"name": "sgd", "lr": 0.1})([Parameter(torch.zeros(1))]).defaults["lr"]
    0.1
    """
    if callable(optimizer):
        return optimizer
    given = {"name": optimizer} if isinstance(optimizer, str) else {"name": "adam", **optimizer}
    return optimizer_named(given.pop("name"), given, fused=fused)


def optimizer_named(
    name: str, arguments: Mapping[str, Any] | None = None, *, fused: bool = True, root: str | None = None
) -> partial[Optimizer]:
    """Any of `OPTIMIZERS` by its name, whatever its capitals; where it has a fused form, that one.

    arguments: what it takes besides the parameters. fused: False where its fused form could not take them (`fusable`).
    root: a folder whose modules are found too. ArgumentError where there is no such optimiser, or it does not take the
    arguments.

    >>> optimizer_named("adam", {"lr": 0.01})([Parameter(torch.zeros(1))]).defaults["lr"]
    0.01
    """
    kind = OPTIMIZERS.find(name if ":" in name else name.lower(), "learner.optimizer.name", root)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in (arguments or {}).items()}
    if fused and "fused" in inspect.signature(kind).parameters and "foreach" not in given:
        given.setdefault("fused", True)
    try:
        _step(partial(kind, **given), sparse=kind is torch.optim.SparseAdam)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ArgumentError(f"learner.optimizer: {refusal(error, kind)}") from error
    return partial(kind, **given)


def optimizer_for(
    model: nn.Module,
    optimizer: OptimizerFactory | str | Mapping[str, Any],
    groups: Groups = (),
    *,
    sharded: bool = False,
    edited: bool = False,
) -> tuple[Optimizer, bool]:
    """The optimiser of a model's trainable weights, and whether some of their gradients will be sparse.

    groups: weights by name pattern, and the optimiser's arguments for them. edited: whether strategies edit
    gradients, which must be dense for them. ArgumentError where the optimiser does not take the weights or their
    gradients.

    >>> optimizer_for(nn.Embedding(2, 2, sparse=True), torch.optim.SGD)[1]
    True
    """
    make = factory_of(optimizer, fused=not sharded and fusable(model))
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trainable:  # there is an optimiser all the same, of nothing: it has no state, and its step is never taken
        return torch.optim.SGD([Parameter(torch.zeros(0))]), False
    if sparse := sparse_weights(model):
        if edited:
            sparse = keep_dense(sparse)
        check_gradients(make, sparse, [name for name in trainable if name not in sparse])
    parts = grouped(trainable, groups)
    try:
        made = make(parts)
    except ValueError as error:  # it does not take weights like these: Muon, those that are not matrices
        raise ArgumentError(f"learner.optimizer: {error}; choose another optimizer, or freeze such weights") from error
    if not sparse and isinstance(made, torch.optim.SparseAdam):  # the one that takes no others
        check_gradients(make, (), trainable)
    return made, bool(sparse)


def fusable(model: nn.Module) -> bool:
    """Whether fused forms of optimisers take the model: none takes complex weights, or sparse gradients.

    >>> fusable(nn.Linear(1, 1)), fusable(nn.Embedding(2, 2, sparse=True))
    (True, False)
    """
    complex_weights = any(weight.is_complex() for weight in model.parameters() if weight.requires_grad)
    return not complex_weights and not sparse_weights(model)


def sparse_weights(model: nn.Module) -> dict[str, Parameter]:
    """Weights of embeddings with `sparse=True`, by name: their gradients hold only the rows that were looked up.

    >>> list(sparse_weights(nn.Sequential(nn.Embedding(2, 2, sparse=True), nn.Linear(2, 1))))
    ['0.weight']
    """
    found = {
        id(part.weight)
        for part in model.modules()
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.sparse and part.weight.requires_grad
    }
    return {name: weight for name, weight in model.named_parameters() if id(weight) in found}


def keep_dense(sparse: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Make the gradients of these weights dense as they come; returns the weights that stay sparse: none.

    >>> table = nn.Embedding(3, 1, sparse=True)
    >>> keep_dense(sparse_weights(table))
    {}
    >>> table(torch.tensor([1])).sum().backward(); table.weight.grad.flatten()
    tensor([0., 1., 0.])
    """
    for weight in sparse.values():
        weight.register_post_accumulate_grad_hook(_made_dense)  # type: ignore[no-untyped-call]
    return {}


def _made_dense(weight: Tensor) -> None:
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = as_dense(weight.grad)


def check_gradients(make: OptimizerFactory, sparse: Collection[str], dense: Collection[str]) -> None:
    """ArgumentError where an optimiser cannot take gradients as they come: tried out on a weight of its own.

    sparse, dense: names of weights with gradients of either kind.

    >>> check_gradients(torch.optim.Adam, ["table.weight"], [])
    Traceback (most recent call last):
    ...
    incr_core.errors.ArgumentError: learner.optimizer: expected one that takes the sparse gradient of
    table.weight, got Adam (Adam does not support sparse gradients, please consider SparseAdam instead);
    choose SGD, Adagrad or SparseAdam, or make the embedding with sparse=False
    """
    for kind, names in (("sparse", sparse), ("dense", dense)):
        if not names:
            continue
        try:
            _step(make, sparse=kind == "sparse")
        except (RuntimeError, NotImplementedError) as error:
            wanted = getattr(getattr(make, "func", make), "__name__", "another")
            others = "SGD, Adagrad or SparseAdam" if kind == "sparse" else "SGD or Adagrad" if sparse else "another"
            others += ", or make the embedding with sparse=False" if sparse else ""
            raise ArgumentError(
                f"learner.optimizer: expected one that takes the {kind} gradient of {next(iter(names))}, got {wanted} "
                f"({str(error).splitlines()[0]}); choose {others}"
            ) from error


def _step(make: OptimizerFactory, *, sparse: bool) -> None:
    """One step of a small weight of its own, by an optimiser made for it."""
    if sparse:  # torch does not check unless asked to, but warns until it was told either way
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]
    weight = Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros_like(weight).to_sparse(1) if sparse else torch.zeros_like(weight)
    make([weight]).step()
