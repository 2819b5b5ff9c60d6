"""Optimisers by name, and the gradients they support: of complex weights, and sparse ones of embeddings."""

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
"""The optimisers of torch.optim, by their lower-case names."""


def factory_of(optimizer: OptimizerFactory | str | Mapping[str, Any], *, fused: bool = True) -> OptimizerFactory:
    """Return a function that creates the optimiser: the given one, or one by the name and arguments of a job.

    Example:
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
    """Return an optimiser of `OPTIMIZERS` by its name, ignoring case; the fused form if it has one.

    Args:
        name: The name.
        arguments: Its arguments besides the parameters.
        fused: False if the fused form does not support the parameters (`fusable`).
        root: A further folder to search for modules.

    Raises:
        ArgumentError: There is no such optimiser, or it does not accept the arguments.

    Example:
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
    """Return the optimiser of a model's trainable weights, and whether some of their gradients will be sparse.

    Args:
        model: The model.
        optimizer: See `factory_of`.
        groups: Name patterns of weights, and the optimiser's arguments for them.
        sharded: Whether the model is sharded.
        edited: Whether strategies edit gradients, which must then be dense.

    Raises:
        ArgumentError: The optimiser does not support the weights or their gradients.

    Example:
        >>> optimizer_for(nn.Embedding(2, 2, sparse=True), torch.optim.SGD)[1]
        True
    """
    make = factory_of(optimizer, fused=not sharded and fusable(model))
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trainable:  # an optimiser of nothing: it has no state, and its step is never taken
        return torch.optim.SGD([Parameter(torch.zeros(0))]), False
    if sparse := sparse_weights(model):
        if edited:
            sparse = keep_dense(sparse)
        check_gradients(make, sparse, [name for name in trainable if name not in sparse])
    parts = grouped(trainable, groups)
    try:
        made = make(parts)
    except ValueError as error:  # it does not support these weights; Muon, for example, needs matrices
        raise ArgumentError(f"learner.optimizer: {error}; choose another optimizer, or freeze such weights") from error
    if not sparse and isinstance(made, torch.optim.SparseAdam):  # the only one that needs sparse gradients
        check_gradients(make, (), trainable)
    return made, bool(sparse)


def fusable(model: nn.Module) -> bool:
    """Whether fused optimisers support the model: none supports complex weights or sparse gradients.

    Example:
        >>> fusable(nn.Linear(1, 1)), fusable(nn.Embedding(2, 2, sparse=True))
        (True, False)
    """
    complex_weights = any(weight.is_complex() for weight in model.parameters() if weight.requires_grad)
    return not complex_weights and not sparse_weights(model)


def sparse_weights(model: nn.Module) -> dict[str, Parameter]:
    """Return the weights of embeddings with `sparse=True`, by name: their gradients hold only the rows looked up.

    Example:
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
    """Make the gradients of these weights dense when they are computed; return the weights that stay sparse: none.

    Example:
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
    """Raise an ArgumentError if an optimiser does not support the gradients, tested on a small weight.

    Args:
        make: Creates the optimiser.
        sparse: Names of weights with sparse gradients.
        dense: Names of weights with dense gradients.

    Example:
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
    """Make an optimiser for a small weight and take one step."""
    if sparse:  # The checks are off by default, but torch warns until they are set explicitly.
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]
    weight = Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros_like(weight).to_sparse(1) if sparse else torch.zeros_like(weight)
    make([weight]).step()
