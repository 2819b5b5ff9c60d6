"""The server's record of the owners in a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from incr_core.shown import shown

__all__ = ["FAILURES", "NAMED", "Member", "is_name"]

FAILURES = 3
"""Failures in a row after which a client is no longer asked. A restart of the command asks it again."""

PASSING = ("node", "opened", "coming", "offered", "failures", "empty")
"""Fields that are determined again at each start of a run."""


NAMED = "up to 100 characters that can be printed, without / and \\"
"""Description of valid client names."""


def is_name(text: str) -> bool:
    """Return whether a name of a client is valid.

    Example:
        >>> is_name("Klinik Süd 2"), is_name("../north"), is_name(" "), is_name("red\x1b[2J")
        (True, False, False, False)
    """
    return re.fullmatch(r"(?!\s)[^/\\]{1,100}(?<!\s)", text) is not None and shown(text) == text


@dataclass(slots=True)
class Member:
    """The client of one owner.

    Attributes:
        name: Its name.
        index: Its place in every sum.
        identity: The secret that identifies it.
        generation: Number of messages that have changed it, as far as the server knows.
        told: Number of rows that it has reported. They have the numbers below.
        learned: Number of these rows that are in the model.
        ledger: Hash of its ledger at the last answer.
        held: Whether it has rows that it has offered and that were not learned.
        holds: Whether it has rows, or data to report, that are too few for `privacy.min_rows`.
        back: Whether it has rows that it holds back until its next increment (`publish.holdout`).
        erased: Number of rows that its owner has erased.
        epsilon: Its own report of the privacy that it has spent.
        limit: Its privacy budget.
        spent: Whether it has stopped learning because the budget is spent.
        node: Its node; None while it is away.
        opened: Whether it has been opened since this start of the run.
        coming: End of its next increment, by its clock; None without one.
        offered: Number of rows that it has offered for the current increment.
        failures: Number of failures since it last learned.
        empty: Number of increments in a row in which it has reported nothing.

    Example:
        >>> member = Member("north", 0, "5ec3e7", generation=7, told=120, learned=118, node=11)
        >>> Member.from_document(member.document()).node is None
        True
    """

    name: str
    index: int
    identity: str
    generation: int = -1
    told: int = 0
    learned: int = 0
    ledger: str = ""
    held: bool = False
    holds: bool = False
    back: bool = False
    erased: int = 0
    epsilon: float = 0.0
    limit: float = 0.0
    spent: bool = False
    node: int | None = None
    opened: bool = False
    coming: int | None = None
    offered: int = 0
    failures: int = 0
    empty: int = 0

    @property
    def there(self) -> bool:
        """Whether it can be asked."""
        return self.node is not None and self.opened and self.failures < FAILURES

    def document(self) -> dict[str, Any]:
        """Return the fields that a commit saves."""
        return {key: value for key, value in asdict(self).items() if key not in PASSING}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Member:
        """Return the member as it was at a commit."""
        return cls(**document)
