"""State that learners exchange and merge: weights, statistics of the data, and the shared state of strategies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from incr_core.batch import Batch
from incr_core.errors import CheckpointError, StrategyError
from incr_core.learner._forwards import Forwards
from incr_core.learner._judging import judged
from incr_core.models import Entries, IdTable, absorb_ids, id_tables_of, is_id_count
from incr_core.numerics import Precision, like, local, refusal_of
from incr_core.objectives import Blend, Objective
from incr_core.strategies import Context, Hooks, Strategy, derived
from incr_core.update import Weights

__all__ = ["Mergeable"]


class Mergeable:
    """The part of a learner that adopts anchors and provides its contribution.

    The attributes `model`, `objective`, `strategies`, `hooks`, `context`, `device`, `forwards`, `precision` and
    `typical` are those of the learner; `entries` are the tensors that merge.

    Example:
        >>> from incr_core.learner._learner import Learner
        >>> from incr_core.objectives import Binary
        >>> learner = Learner(nn.Linear(1, 1), Binary(), torch.optim.SGD)
        >>> learner.adopt({"model.weight": torch.ones(1, 1), "model.bias": torch.zeros(1)})
        >>> learner.weights()["model.weight"], learner.rules()["model.weight"]
        (tensor([[1.]]), 'mean')
    """

    model: nn.Module
    objective: Objective
    entries: Entries
    strategies: nn.ModuleList
    hooks: Hooks
    context: Context
    device: torch.device
    forwards: Forwards
    precision: Precision
    typical: Batch | None
    optimizer: Optimizer

    def weights(self) -> Weights:
        """Return parameters and buffers of the model, then of the objective, by name; views of the live ones.

        A tensor that is used in several places has one name, the first (`entries`).
        """
        return self.entries.read()

    def rules(self) -> dict[str, str]:
        """Return the merge rule of each weight."""
        return dict(self.entries.rules)

    @torch.no_grad()
    def adopt(self, anchor: Mapping[str, Tensor]) -> None:
        """Start from these weights: copy them into the model and the objective."""
        tables = self.id_tables
        held = {name: table.keys.clone() for name, table in tables.items()}
        for name, mine in self.weights().items():
            found = anchor.get(name)
            if found is None or found.shape not in (mine.shape, local(mine).shape):
                came = "none" if found is None else f"one of shape {tuple(found.shape)}"
                raise CheckpointError(
                    f"{name}: expected a weight of shape {tuple(mine.shape)}, got {came}; "
                    "take the weights of the same model and objective"
                )
            own, theirs = local(mine), like(found, mine)
            if own.data_ptr() != theirs.data_ptr() or own.device != theirs.device:
                own.copy_(theirs)
        self._begin_rows({name: (table.keys != held[name]).nonzero().flatten() for name, table in tables.items()})
        self.adopted()

    def adopted(self) -> None:
        """Notify the strategies that the weights are now an anchor."""
        for hook in self.hooks.adopted:
            hook(self.context)

    def shared_state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return strategy state that may leave the participant, and the merge rule of each entry."""
        state: dict[str, Tensor] = {}
        rules: dict[str, str] = {}
        for index, strategy in enumerate(self.strategies):
            assert isinstance(strategy, Strategy)
            for name, value in strategy.state_dict().items():
                for shared, rule in strategy.traits.shared.items():
                    if isinstance(value, Tensor) and f"{name}.".startswith(f"{shared}."):
                        state[f"{index}.{name}"] = value
                        rules[f"{index}.{name}"] = rule
        return state, rules

    def check_shared(self) -> None:
        """Raise a StrategyError for shared state that cannot be merged."""
        state, rules = self.shared_state()
        for name, value in state.items():
            if (refusal := refusal_of(value.dtype, rules[name])) is not None:
                index, _, entry = name.partition(".")
                raise StrategyError(f"strategy {type(self.strategies[int(index)]).__name__}: {entry}: {refusal}")

    def adopt_shared(self, merged: Mapping[str, Tensor]) -> None:
        """Adopt the merged strategy state."""
        own, _ = self.shared_state()
        for name, value in own.items():
            value.copy_(merged[name])

    @torch.no_grad()
    def derive(self) -> None:
        """Let strategies derive weights from their shared state, which is now the same for all participants."""
        if self.hooks.derive:
            mine, own = self.weights(), self.shared_state()[0]
            strategies = [one for one in self.strategies if isinstance(one, Strategy)]
            for there, found in zip((mine, own), derived(strategies, mine, own), strict=True):
                for name, value in found.items():
                    local(there[name]).copy_(like(value, there[name]))

    @torch.no_grad()
    def observe(self, labelled: Batch) -> Weights:
        """Return the additions of rows about to be learned to running statistics, by the statistic's name in `weights`.

        The additions are summed over participants and added to the anchor before any participant learns. Then all of
        them have the statistics of all rows. Counts of ids are joined (`models.is_id_count`). A learner with `typical`
        rows observes these instead, scaled to the number of rows to learn.
        """
        if self.typical is not None:
            times = len(labelled) / len(self.typical)
            return {name: value * times for name, value in self._observe(self.typical).items()}
        return self._observe(labelled)

    def _observe(self, labelled: Batch) -> Weights:
        measured = {f"objective.{name}": value for name, value in self.objective.observe(labelled.targets).items()}
        observe = getattr(self.model, "observe", None)
        if observe is not None:
            inputs = labelled.to(self.device).inputs
            measured |= {f"model.{name}": value for name, value in observe(inputs).items()}
        if isinstance(self.objective, Blend):
            there = labelled.to(self.device)
            measured |= judged(self.model, self.objective, self.forwards, self.precision, there)
        return measured

    @torch.no_grad()
    def absorb(self, measured: Mapping[str, Tensor]) -> None:
        """Add the observations of all participants."""
        if measured:
            mine = self.weights()
            changed = absorb_ids(mine, measured)
            self._begin_rows(
                {name.removeprefix("model.").removesuffix(".weight"): rows for name, rows in changed.items()}
            )
            for name, value in measured.items():
                if not is_id_count(name):
                    mine[name] += value.to(self.device)

    @property
    def id_tables(self) -> dict[str, IdTable]:
        """The model's tables of ids by name, in the order of the columns; empty if it has none."""
        return id_tables_of(self.model)

    def note_ids(self, labelled: Batch) -> None:
        """Count how often this participant sees each id in the current increment, for `share_ids`."""
        if tables := self.id_tables:
            assert isinstance(labelled.inputs, dict)
            keys = labelled.inputs["ids"].to(self.device)
            for place, table in enumerate(tables.values()):
                table.counted(keys[:, place])

    def share_ids(self, anchor: Mapping[str, Tensor]) -> None:
        """Scale what tables learned since the anchor by this participant's share of each id, before rows merge."""
        for name, table in self.id_tables.items():
            if (start := anchor.get(f"model.{name}.weight")) is not None:  # else it is this participant's own
                table.share(start)

    @torch.no_grad()
    def _begin_rows(self, changed: Mapping[str, Tensor]) -> None:
        """Clear what the optimiser keeps of rows that now belong to another id."""
        start = self.optimizer.defaults.get("initial_accumulator_value", 0.0)
        for name, rows in changed.items():
            weight = self.id_tables[name].weight
            for value in self.optimizer.state.get(weight, {}).values() if len(rows) else ():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value[rows] = start
