"""What a server knows of the owners that take part in a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from incr_core.shown import shown

__all__ = ["FAILURES", "NAMED", "Member", "is_name"]

FAILURES = 3
"""Failures in a row after which a client is asked no more; the same command, given again, asks it once more."""

PASSING = ("node", "opened", "coming", "offered", "failures", "empty")
"""What is found out anew whenever a run starts."""


NAMED = "up to 100 characters that can be printed, without / and \\"
"""What a client may be called."""


def is_name(text: str) -> bool:
    """Whether a client may be called so.

    >>> is_name("Klinik Süd 2"), is_name("../north"), is_name(" "), is_name("red\x1b[2J")
    (True, False, False, False)
    """
    return re.fullmatch(r"(?!\s)[^/\\]{1,100}(?<!\s)", text) is not None and shown(text) == text


@dataclass(slots=True)
class Member:
    """One owner's client.

    name, index, identity: who it is, its place in every sum, and the secret by which it is known again.
    generation: after how many messages that changed it the server believes it to be.
    told: how many rows it has told of, which have numbers since. learned: how many of them are in the model.
    ledger: the hash of its own ledger then. held: whether it holds rows that it has offered in vain. holds: whether it
    has rows, or what is to be told of them, that are too few to be told of (its owner's `privacy.min_rows`).
    back: whether it has rows left that it holds back from learning until its next increment (`publish.holdout`).
    erased: how many rows its owner has erased since.
    epsilon: what it has spent of its privacy, as it says; limit: of how much. spent: whether it learns no more.
    node: where it is, None while it is away. opened: whether it knows of this start of the run.
    coming: when its next increment ends, by its clock; None where there is none.
    offered: the rows that it has offered for the increment at hand. failures: how many since
    it learned last. empty: increments in a row in which it has told of nothing.

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
        """What is kept with a commit."""
        return {key: value for key, value in asdict(self).items() if key not in PASSING}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Member:
        """As it was at a commit."""
        return cls(**document)
