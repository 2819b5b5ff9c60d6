"""Operations of a data owner on its own host, without a run, if participants are clients."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from incr_core.data.timeline import Standing
from incr_core.registry import RowStates

__all__ = ["AtOwner"]


class AtOwner(Protocol):
    """Operations on the data that an owner's client stores. In all of them `file` is the client's CLIENT.toml."""

    def serve(self, file: str, superlink: str, certificates: str | None, key: str | None) -> None:
        """Take part in runs on the SuperLink at that address until asked to stop.

        Args:
            file: The client's CLIENT.toml.
            superlink: Address of the SuperLink.
            certificates: File with its TLS certificates. None connects without TLS.
            key: File with the key that identifies the client there.
        """

    def described(self, file: str) -> str:
        """Describe the runs in which the owner has taken part."""

    def erase(self, file: str, where: str | None, rows: str | None) -> dict[str, dict[str, Any]]:
        """Delete rows from the client's stored data; return counts, by run.

        Args:
            file: The client's CLIENT.toml.
            where: COLUMN=VALUE, for rows of the owner's files.
            rows: A file of row addresses.
        """

    def row_states(self, file: str) -> dict[str, tuple[Standing, RowStates, list[str]]]:
        """Return the state of the owner's rows and the unproven parts of it, by run."""

    def own_weights(self, file: str, run: str | None) -> dict[str, Tensor]:
        """Return the owner's personal weights of a run, for predicting its rows.

        Args:
            file: The client's CLIENT.toml.
            run: The run's name among owners. None selects the only run in which the owner has taken part.
        """
