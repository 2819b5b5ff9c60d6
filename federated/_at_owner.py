"""The tasks of an owner of rows on its own host: take part in runs, and show, erase and audit the client's data."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from federated import _client_node as client_node
from federated import _kept_at_owner as kept_at_owner
from incr_core.data.timeline import Standing
from incr_core.registry import RowStates

__all__ = ["ClientsAtOwner"]


class ClientsAtOwner:
    """The clients of owners (`engines.AtOwner`): nodes of a SuperLink, each with a separate folder."""

    def serve(self, file: str, superlink: str, certificates: str | None, key: str | None) -> None:
        """Serve the owner until asked to stop."""
        client_node.serve(file, superlink, certificates, key)

    def described(self, file: str) -> str:
        """Return the runs in which the owner took part, a line each."""
        return client_node.described(file)

    def erase(self, file: str, where: str | None, rows: str | None) -> dict[str, dict[str, Any]]:
        """Delete rows from the client's stored data."""
        return kept_at_owner.erase(file, where, rows)

    def row_states(self, file: str) -> dict[str, tuple[Standing, RowStates, list[str]]]:
        """Return the state of each of the owner's rows, by run."""
        return kept_at_owner.states(file)

    def own_weights(self, file: str, run: str | None) -> dict[str, Tensor]:
        """Return the client's private weights, for predictions of its rows."""
        return kept_at_owner.own_weights(file, run)
