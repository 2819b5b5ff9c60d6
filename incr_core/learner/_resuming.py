"""State of a learner besides its weights, from which it resumes exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from incr_core.batch import Steps
from incr_core.errors import CheckpointError
from incr_core.learner._division import Division
from incr_core.learner._optimizer_step import Descent
from incr_core.learner._signature import check_signature, signature_of
from incr_core.models import Entries, ExtraState, OwnGenerators, id_tables_of
from incr_core.numerics import GlobalRandomState
from incr_core.strategies import Context

__all__ = ["Resuming"]


class Resuming:
    """The part of a learner that saves and loads its state.

    strategies, context, descent, steps, division, random_state, own_generators, entries, extra, device, model:
    those of the learner.
    """

    strategies: nn.ModuleList
    context: Context
    descent: Descent
    steps: Steps
    division: Division
    random_state: GlobalRandomState
    own_generators: OwnGenerators
    entries: Entries
    extra: ExtraState
    device: torch.device
    model: nn.Module

    def state_dict(self) -> dict[str, Any]:
        """Return all state on which further learning depends, except the weights; tensors are the live ones.

        It may be called after any `advance`: if steps remain, `begin` (or `again`) with the same rows continues.
        """
        self.entries.check_names()
        return {
            **self.descent.state_dict(),
            "strategies": self.strategies.state_dict(),
            "generator": self.context.generator.get_state(),
            "steps": self.steps.state_dict(),
            "random": self.random_state.state_dict() | self._own_generators(),
            "increment": self.context.increment,
            "step": self.context.step,
            "rows_independent": self.division.independent,
            "made_of": self._signature(),
            "extra": self.extra.state_dict(),
            # Whose rows the optimiser's moments are: an anchor that gives a row to another id clears them.
            "ids": {name: table.keys for name, table in id_tables_of(self.model).items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state, for the same model and strategies.

        Raises:
            CheckpointError: The state belongs to another model or other strategies; the message names the difference.
        """
        if "made_of" in state:
            with_state = {int(key.partition(".")[0]) for key in {**self.strategies.state_dict(), **state["strategies"]}}
            check_signature(self._signature(), state["made_of"], with_state)
        try:
            self.descent.load_state_dict(state)
            self.strategies.load_state_dict(state["strategies"])
        except (RuntimeError, ValueError) as error:  # torch names each leaf, with both shapes
            told = " ".join(str(error).split())
            raise CheckpointError(
                f"learner: the saved state belongs to another model, optimiser or list of strategies: {told}; "
                "use the same ones, or start a new run"
            ) from error
        self.strategies.to(self.device)
        self.context.generator.set_state(state["generator"].cpu())
        self.steps.load_state_dict(state["steps"])
        self.random_state.load_state_dict(state["random"])
        self.own_generators.load_state_dict(state["random"].get("modules", {}))
        self.extra.load_state_dict(state.get("extra", {}))
        for name, keys in state.get("ids", {}).items():
            id_tables_of(self.model)[name].keys.copy_(keys)
        self.context.increment = state["increment"]
        self.context.step = state["step"]
        self.division.settle(state.get("rows_independent"))

    def _own_generators(self) -> dict[str, Any]:
        return {"modules": self.own_generators.state_dict()} if self.own_generators else {}

    def _signature(self) -> dict[str, Any]:
        return signature_of(self.strategies, zip(self.context.names, self.context.parameters, strict=True))
