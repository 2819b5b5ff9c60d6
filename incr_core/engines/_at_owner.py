"""What an owner of rows does on its own host, where participants are clients: without a run, by its client's file."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from incr_core.data.timeline import Standing
from incr_core.registry import RowStates

__all__ = ["AtOwner"]


class AtOwner(Protocol):
    """What can be done with what an owner's client keeps. file: the client's, CLIENT.toml."""

    def serve(self, file: str, superlink: str, certificates: str | None, key: str | None) -> None:
        """Take part in runs on the SuperLink at that address until asked to stop.

        certificates, key: files, of its TLS and of the key that the client is known by there.
        """

    def described(self, file: str) -> str:
        """The runs that the owner has taken part in, in words."""

    def erase(self, file: str, where: str | None, rows: str | None) -> dict[str, dict[str, Any]]:
        """Delete rows from what is kept of them; returns counts, by run.

        where: COLUMN=VALUE, of the owner's files. rows: a file of addresses.
        """

    def row_states(self, file: str) -> dict[str, tuple[Standing, RowStates, list[str]]]:
        """In which state the owner's rows are, and what is not proven of that, by run."""

    def own_weights(self, file: str, run: str | None) -> dict[str, Tensor]:
        """Weights of the owner's own, to predict its rows with, in a run by the name that owners know it by.

        run: None: the only one that it has taken part in.
        """
