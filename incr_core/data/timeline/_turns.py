"""Turns: the readers of one stream, in several processes, each create a share of the items that all of them need.

The reader whose turn it is creates an item (an encoded chunk, the rates of a block) and sends it to the others. The
turn depends only on the item's place in the stream and on the set of readers. A reader creates an item by itself, with
identical bits, if the others do not provide it in time, so readers may join, leave or lag behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor

__all__ = ["Item", "Sharing", "Transfer", "Turns"]

T = TypeVar("T")

Item = tuple[int, int, int, int]
"""An item, in the order in which a reader needs it: the place in the stream of the first row being loaded, the number
of
earlier loads at that place (of files without rows), and two numbers within the load.
"""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Data sent from one reader to others: tensors and JSON."""

    tensors: dict[str, Tensor]
    told: dict[str, Any] = field(default_factory=dict)


class Turns(Protocol):
    """Readers of one stream that send each other the items they create.

    Attributes:
        index: The number of this reader.
        count: The number of readers.
    """

    index: int
    count: int

    def reach(self, item: Item) -> None:
        """Report that this reader has come to an item; earlier items, once released, are not available from it."""

    def offer(self, item: Item, made: Transfer | None) -> None:
        """Provide an item; None if it cannot be created, which readers that need it find out by themselves."""

    def ask(self, item: Item, whose: int) -> Transfer | None:
        """Wait for an item from another reader and return it; None if it is not available."""


@dataclass(slots=True)
class Sharing:
    """The position of a reader, and the items it shares with others there.

    Attributes:
        turns: The readers to share with; None for no sharing.
        name: The name of the fragments being loaded, used to check that other readers load the same.
    """

    turns: Turns | None = None
    place: int = 0
    loads: int = 0
    name: str = ""

    def load(self, place: int) -> None:
        """Begin a load at this place in the stream."""
        self.loads = self.loads + 1 if place == self.place else 0
        self.place = place

    def owner(self, turn: int) -> int:
        """Return the reader whose turn it is."""
        return 0 if self.turns is None else turn % self.turns.count

    def is_mine(self, turn: int) -> bool:
        """Whether it is this reader's turn."""
        return self.turns is None or self.owner(turn) == self.turns.index

    def item(self, part: int, place: int | None = None) -> Item:
        """Return the item created at this position, or later in the load."""
        return self.place if place is None else place, self.loads, part, 0

    def ask(self, item: Item, turn: int) -> Transfer | None:
        """Return the item from another reader, if it is the same item."""
        assert self.turns is not None
        handed = self.turns.ask(item, self.owner(turn))
        return handed if handed is not None and handed.told.get("name") == self.name else None

    def offer(self, item: Item, made: Transfer) -> None:
        """Provide an item to the others."""
        assert self.turns is not None
        made.told["name"] = self.name
        self.turns.offer(item, made)

    def offering(self, item: Item, make: Callable[[], T], pack: Callable[[T], Transfer]) -> T:
        """Create an item and provide it to the others."""
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
        """Return an item that all readers together create once.

        Example:
            >>> def pack(made: int) -> Transfer:
            ...     return Transfer({}, {"made": made})
            >>> Sharing().once(0, 3, lambda: 7, pack, lambda sent: sent.told["made"])
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
