"""What an owner of rows does on its own host: take part in runs, look at what its client keeps, and erase it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from federated import _client_node as client_node
from federated import _kept_at_owner as kept_at_owner
from incr_core.data.timeline import Standing
from incr_core.registry import RowStates

__all__ = ["ClientsAtOwner"]


class ClientsAtOwner:
    """The clients of owners (`engines.AtOwner`): nodes of a SuperLink, each with a folder of its own."""

    def serve(self, file: str, superlink: str, certificates: str | None, key: str | None) -> None:
        """Serve the owner until asked to stop."""
        client_node.serve(file, superlink, certificates, key)

    def described(self, file: str) -> str:
        """The runs that it has taken part in, a line each."""
        return client_node.described(file)

    def erase(self, file: str, where: str | None, rows: str | None) -> dict[str, dict[str, Any]]:
        """Delete rows from what its client keeps of them."""
        return kept_at_owner.erase(file, where, rows)

    def row_states(self, file: str) -> dict[str, tuple[Standing, RowStates, list[str]]]:
        """In which state its rows are, by run."""
        return kept_at_owner.states(file)

    def own_weights(self, file: str, run: str | None) -> dict[str, Tensor]:
        """Weights of its own, to predict its rows with."""
        return kept_at_owner.own_weights(file, run)
