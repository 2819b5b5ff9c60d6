"""A violation found by an audit: the place, the expected and actual states, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Violation"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation of the laws.

    Example:
        >>> str(Violation("ledger", "every row once", "row 7 of a.csv twice", "go back to a copy"))
        'ledger: expected every row once, got row 7 of a.csv twice; go back to a copy'
    """

    place: str
    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: expected {self.expected}, got {self.got}; {self.remedy}"
