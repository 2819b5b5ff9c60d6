"""Turns: the readers of one stream, in several processes, each make a share of what all of them need.

Whoever's turn it is makes a thing (a chunk encoded, the rates of a block) and hands it to the others. Whose turn it is
follows from where the thing stands in the stream, and from who reads, alone. What cannot be had from others in time, a
reader makes by itself, to the same bits: so nobody depends on anybody, and a reader may come, go, or lag behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor

__all__ = ["Item", "Sharing", "Transfer", "Turns"]

T = TypeVar("T")

Item = tuple[int, int, int, int]
"""What is made, in the order in which a reader comes to it: the place in the stream of the first row of what is loaded,
how many loads began at that place before (of files without rows), and two numbers within the load.
"""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one reader passes to others: tensors, and JSON besides."""

    tensors: dict[str, Tensor]
    told: dict[str, Any] = field(default_factory=dict)


class Turns(Protocol):
    """Readers of one stream who hand to one another what they make.

    index, count: which reader this is, and how many there are.
    """

    index: int
    count: int

    def reach(self, item: Item) -> None:
        """This reader has come to an item: those before it, if they are let go, cannot be had from it any more."""

    def offer(self, item: Item, made: Transfer | None) -> None:
        """Hand out what was made; None where it cannot be: whoever wants it finds out by itself."""

    def ask(self, item: Item, whose: int) -> Transfer | None:
        """What another reader has made, as soon as it has; None where it is not to be had."""


@dataclass(slots=True)
class Sharing:
    """Where a reader stands, and what it shares with others there.

    turns: with whom; None: with nobody. name: what is loaded; who asks makes sure that others mean the same.
    """

    turns: Turns | None = None
    place: int = 0
    loads: int = 0
    name: str = ""

    def load(self, place: int) -> None:
        """Begin to load, at this place in the stream."""
        self.loads = self.loads + 1 if place == self.place else 0
        self.place = place

    def owner(self, turn: int) -> int:
        """The reader whose turn it is."""
        return 0 if self.turns is None else turn % self.turns.count

    def is_mine(self, turn: int) -> bool:
        """Whether it is this reader's turn."""
        return self.turns is None or self.owner(turn) == self.turns.index

    def item(self, part: int, place: int | None = None) -> Item:
        """What is made here, or further on in what is loaded."""
        return self.place if place is None else place, self.loads, part, 0

    def ask(self, item: Item, turn: int) -> Transfer | None:
        """What the others have made of it, if it is the same thing."""
        assert self.turns is not None
        handed = self.turns.ask(item, self.owner(turn))
        return handed if handed is not None and handed.told.get("name") == self.name else None

    def offer(self, item: Item, made: Transfer) -> None:
        """Hand out what was made."""
        assert self.turns is not None
        made.told["name"] = self.name
        self.turns.offer(item, made)

    def offering(self, item: Item, make: Callable[[], T], pack: Callable[[T], Transfer]) -> T:
        """Make something and hand it out."""
        assert self.turns is not None
        try:
            made = make()
            packed = pack(made)
        except Exception:
            self.turns.offer(item, None)
            raise
        self.offer(item, packed)
        return made

    def once(
        self,
        part: int,
        turn: int,
        make: Callable[[], T],
        pack: Callable[[T], Transfer],
        unpack: Callable[[Transfer], T],
    ) -> T:
        """Something that is made once by all readers together.

        >>> Sharing().once(0, 3, lambda: 7, lambda made: Transfer({}, {"made": made}), lambda sent: sent.told["made"])
        7
        """
        if self.turns is None:
            return make()
        item = self.item(part)
        self.turns.reach(item)
        if self.is_mine(turn):
            return self.offering(item, make, pack)
        handed = self.ask(item, turn)
        return make() if handed is None else unpack(handed)
