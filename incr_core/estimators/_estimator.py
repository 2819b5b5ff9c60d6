"""Common parts of the estimators: parameters, the underlying learner, copies and pickles."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from incr_core._util import build
from incr_core.batch import Batch
from incr_core.errors import ArgumentError, JobError
from incr_core.learner import Learner
from incr_core.models import TableMLP, TableShape
from incr_core.objectives import Objective
from incr_core.strategies import STRATEGIES, Strategy

__all__ = ["Incremental", "Values"]

Values = npt.NDArray[Any]
StrategyLike = str | Mapping[str, Any] | Strategy


class Incremental(BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A multilayer perceptron over normalised numbers (`models.TableMLP`), trained by the update rule (`Learner`).

    Subclasses define the targets and the use of the model's output.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128, 64),
        strategies: Sequence[StrategyLike] = (),
        optimizer: str | Mapping[str, Any] = "adam",
        lr: float = 0.003,
        batch_size: int = 32,
        passes: int = 1,
        max_iter: int = 50,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.strategies = strategies
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.passes = passes
        self.max_iter = max_iter
        self.random_state = random_state

    def _objective(self) -> Objective:
        raise NotImplementedError

    def _outputs(self) -> int:
        raise NotImplementedError

    def _strategies(self) -> list[Strategy]:
        made: list[Strategy] = []
        for index, one in enumerate(self.strategies):
            if isinstance(one, Strategy):
                made.append(copy.deepcopy(one))
                continue
            said = {"name": one} if isinstance(one, str) else dict(one)
            if "name" not in said:
                raise ArgumentError(f"strategies[{index}]: expected a name, got {one!r}; write {{'name': 'replay'}}")
            name = said.pop("name")
            try:
                kind = STRATEGIES.find(name, f"strategies[{index}]")
                made.append(build(kind, said, f"strategies[{index}]"))
            except JobError as error:  # there is no job here
                raise ArgumentError(str(error)) from None
        return made

    def _new_learner(self, seed: int) -> Learner:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # In float64, so that a row's answer does not depend on the other rows: scikit-learn checks 1e-7.
            model = TableMLP(TableShape(self.n_features_in_, 0, 0, self._outputs()), tuple(self.hidden)).double()
            objective = self._objective()
        strategies, named = self._strategies(), self.optimizer
        optimizer = {"name": named, "lr": self.lr} if isinstance(named, str) else dict(named)
        return Learner(model, objective, optimizer, strategies, batch_size=self.batch_size, seed=seed)

    def _begin(self) -> None:
        """Start from scratch, with the columns of the current rows."""
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.learner_ = self._new_learner(self._seed)
        self.n_rows_seen_ = 0

    def _learn(self, inputs: Values, targets: torch.Tensor, passes: int) -> None:
        if passes < 1:
            raise ArgumentError(f"passes and max_iter: expected at least 1, got {passes}")
        learner, first = self.learner_, self.n_rows_seen_
        rows = torch.arange(first, first + len(targets))
        batch = Batch(torch.from_numpy(np.array(inputs, dtype=np.float64)), targets, row_ids=rows)
        learner.absorb(learner.observe(batch))
        learner.begin(batch, passes)
        learner.advance()
        learner.end(batch)
        self.n_rows_seen_ += len(targets)

    def _answers(self, X: Any) -> torch.Tensor:
        check_is_fitted(self, "learner_")
        inputs = validate_data(self, X, reset=False, dtype="numeric", ensure_all_finite="allow-nan")
        return self.learner_.predict(torch.from_numpy(np.array(inputs, dtype=np.float64)))

    def _is_new(self) -> bool:
        return not hasattr(self, "learner_")

    def _inputs_of(self, X: Any, y: Any, *, reset: bool) -> tuple[Values, Values]:
        taken: tuple[Values, Values] = validate_data(
            self, X, y, reset=reset, dtype="numeric", ensure_all_finite="allow-nan"
        )
        return taken

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """State for pickle: parameters and learned values as tensors and plain values, from which the learner is built
        again."""
        state = dict(super().__getstate__())
        if (learner := state.pop("learner_", None)) is not None:
            state["_weights"] = {name: value.clone() for name, value in learner.weights().items()}
            state["_learned"] = copy.deepcopy(learner.state_dict())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the learner again and restore its learned values."""
        state = dict(state)
        weights, learned = state.pop("_weights", None), state.pop("_learned", None)
        super().__setstate__(state)
        if weights is not None:
            self.learner_ = self._new_learner(self._seed)
            self.learner_.adopt(weights)
            self.learner_.load_state_dict(learned)

    def __sklearn_is_fitted__(self) -> bool:
        return not self._is_new()

    def _fit(self, inputs: Values, targets: torch.Tensor) -> Self:
        self._begin()
        self._learn(inputs, targets, self.max_iter)
        self.n_iter_ = self.max_iter
        return self
