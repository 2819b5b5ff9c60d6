"""Base class of the memories: bounded sets of seen rows that are learned again.

A memory holds raw rows. It stays with its participant unless the job shares it (`cluster.memory_scope`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from incr_core._util import byte_count
from incr_core.errors import ArgumentError, CheckpointError
from incr_core.memories._columns import Columns
from incr_core.memories._others import Others
from incr_core.numerics import in_any_order, own_buffers

__all__ = ["Memory"]

NAMES = {"onlineherding": "herding", "herding": "exemplars (of icarl)"}
"""Names in job files of the kinds of memory that saved states name differently."""


class Memory(nn.Module):
    """Rows in preallocated columns; subclasses decide in `insert` which rows stay.

    Args:
        capacity: Maximum number of rows, or maximum number of bytes of their columns, such as "64MB". The first rows
            then determine how many rows fit.
        ttl: Rows are removed once this many later rows were inserted. None keeps them. It must be above the capacity;
            otherwise the memory would equal `RecentRows`.

    Attributes:
        size: Number of rows held.
        seen: Number of rows inserted so far.
        others: Rows of the other replicas' memories to draw from beside the own rows during an increment, where
            remembered rows are drawn from all memories (`cluster.memory_scope`); otherwise None.
    """

    others: Others | None = None

    def __init__(self, capacity: int | str, ttl: int | None = None) -> None:
        super().__init__()
        if not isinstance(capacity, int | str) or isinstance(capacity, bool):
            raise ArgumentError(
                f'memory.capacity: expected a number of rows, or a size such as "64MB", got {capacity!r}; '
                "write a whole number"
            )
        rows = "a number of rows"
        self.budget = byte_count("memory.capacity", capacity, instead=rows) if isinstance(capacity, str) else None
        self.capacity = 0 if isinstance(capacity, str) else capacity
        if self.budget is None and self.capacity < 1:
            raise ArgumentError(
                f"memory.capacity: expected at least 1 row, got {capacity}; leave the memory out instead"
            )
        self.ttl = ttl
        self._check_ttl()
        self._made_for = self.capacity
        self.size = 0
        self.seen = 0

    @property
    def _kind(self) -> str:
        return type(self).__name__.lower()

    def insert(self, columns: Columns, generator: torch.Generator) -> None:
        """Insert new rows (n, ...), in order of arrival."""
        raise NotImplementedError

    @property
    def available(self) -> int:
        """Number of rows to draw from: the rows held and those of the others."""
        return self.size if self.others is None else self.size + self.others.size

    def sample(self, count: int, generator: torch.Generator) -> Columns:
        """Draw `count` of the available rows uniformly; rows held here are drawn with replacement."""
        if self.others is None:
            return self.sample_held(count, generator)
        return self.others.beside(lambda own: self.sample_held(own, generator), self.size, count)

    def sample_held(self, count: int, generator: torch.Generator) -> Columns:
        """Draw `count` of the rows held, uniformly and with replacement. Subclasses may override it."""
        index = torch.randint(self.size, (count,), generator=generator, device=generator.device)
        return {name: column.index_select(0, index) for name, column in own_buffers(self).items() if column is not None}

    def rows_held(self) -> Columns:
        """Return all rows held, as views."""
        return {name: column[: self.size] for name, column in own_buffers(self).items() if column is not None}

    def drop(self, rows: Tensor) -> int:
        """Delete the rows with these ids (a request for erasure).

        The remaining rows are the sample of the remaining stream. Freed slots are refilled only as fast as new rows are
        drawn into them.

        Args:
            rows: Row ids, (n,).

        Returns:
            Number of rows that were held and are deleted.

        Raises:
            ArgumentError: The rows held carry no ids.

        Example:
            >>> from incr_core.memories._reservoir import Reservoir
            >>> memory = Reservoir(4)
            >>> columns = {"targets": torch.arange(4.0), "rows": torch.arange(4)}
            >>> memory.insert(columns, torch.Generator())
            >>> memory.drop(torch.tensor([1, 9])), memory.rows_held()["targets"].tolist()
            (1, [0.0, 2.0, 3.0])
        """
        if self.size == 0:
            return 0
        if "rows" not in own_buffers(self):
            raise ArgumentError("memory.drop: the rows held carry no row ids, so none can be found")
        return self._drop(lambda held: torch.isin(held["rows"], rows.to(held["rows"].device)))

    def _drop(self, which: Callable[[Columns], Tensor]) -> int:
        """Delete the rows held for which `which` is true, (size,); return their number."""
        held = self.rows_held()
        keep = (~which(held)).nonzero().flatten()
        removed = self.size - len(keep)
        if removed:
            for column in held.values():
                column[: len(keep)] = column[keep]
                column[len(keep) :] = 0
            self.size = len(keep)
        return removed

    def _dated(self, columns: Columns) -> Columns:
        """Add the time of insertion to new rows if the memory has a ttl."""
        if self.ttl is None:
            return columns
        count = len(columns["targets"])
        return {**columns, "born": torch.arange(self.seen, self.seen + count, device=columns["targets"].device)}

    def _expire(self) -> None:
        """Remove rows older than the ttl; called after rows were inserted."""
        if self.ttl is not None:
            self._drop(self._expired)

    def _expired(self, held: Columns) -> Tensor:
        assert self.ttl is not None
        return held["born"] < self.seen - self.ttl

    def _check_ttl(self) -> None:
        if self.ttl is None:
            return
        if not isinstance(self.ttl, int):
            raise ArgumentError(
                f"memory.ttl: expected a whole number of rows, got {self.ttl!r}; write one without a point"
            )
        if self.ttl <= self.capacity:
            raise ArgumentError(
                f"memory.ttl: expected more than the {self.capacity} rows of the capacity, got {self.ttl}; "
                "use the memory window, which holds the last rows"
            )

    def clear(self) -> None:
        """Remove all rows, as if none had been inserted.

        Example:
            >>> from incr_core.memories._reservoir import Reservoir
            >>> memory = Reservoir(4)
            >>> memory.insert({"targets": torch.arange(9.0)}, torch.Generator()); memory.clear()
            >>> memory.size, memory.seen
            (0, 0)
        """
        for column in self.rows_held().values():
            column.zero_()
        self.size = self.seen = 0

    def deal(self, parts: Collection[int], of: int) -> None:
        """Keep only the rows of these parts, where row i is in part i % of.

        The memory of a replica is divided this way among replicas that join or remain (`join` merges the parts). Each
        part equals a sample of its part of the rows.

        Args:
            parts: Numbers of the parts to keep, each below `of`.
            of: Number of parts.

        Example:
            >>> from incr_core.memories._reservoir import Reservoir
            >>> memory = Reservoir(8)
            >>> memory.insert({"targets": torch.arange(7.0)}, torch.Generator()); memory.deal([0, 2], of=3)
            >>> memory.rows_held()["targets"].tolist(), memory.seen
            ([0.0, 2.0, 3.0, 5.0, 6.0], 5)
        """
        before = self.seen
        mine = torch.isin(torch.arange(self.size) % of, torch.tensor(list(parts), dtype=torch.int64))
        if self.size:
            self._drop(lambda held: ~mine.to(next(iter(held.values())).device))
        self.seen = sum(before // of + (part < before % of) for part in parts)
        if "born" in (held := self.rows_held()):
            held["born"] -= before - self.seen  # ages stay the same

    def join(self, other: Memory) -> None:
        """Merge another memory of this kind, as if its rows had been inserted here too.

        If the rows do not all fit, each memory keeps a part in proportion to the number of rows it has seen.

        Example:
            >>> from incr_core.memories._reservoir import Reservoir
            >>> one, other = Reservoir(4), Reservoir(4)
            >>> one.insert({"targets": torch.arange(4.0)}, torch.Generator())
            >>> other.insert({"targets": torch.arange(10.0, 12.0)}, torch.Generator()); one.join(other)
            >>> one.rows_held()["targets"].tolist(), one.seen
            ([0.0, 1.0, 2.0, 10.0], 6)
        """
        room, both = self._room(other), self._beside(other)
        theirs = min(other.size, max(room - self.size, room * other.seen // max(1, self.seen + other.seen)))
        mine = min(self.size, room - theirs)
        self._hold(both, torch.cat([_evenly(self.size, mine), self.size + _evenly(other.size, theirs)]))
        self.seen += other.seen

    def _room(self, other: Memory) -> int:
        """Return the capacity; take the other memory's if the own one is in bytes and no row has fixed it yet."""
        if self.budget is not None and not own_buffers(self):
            self.capacity = other.capacity
        return self.capacity

    def _beside(self, other: Memory) -> Columns:
        """Return the own rows followed by those of the other memory; ages are counted in rows seen by both."""
        mine, theirs = self.rows_held(), other.rows_held()
        both = {name: torch.cat([held[name] for held in (mine, theirs) if held]) for name in mine or theirs}
        if "born" in both:
            both["born"][: self.size] += other.seen
            both["born"][self.size :] += self.seen
        return both

    def _hold(self, columns: Columns, places: Tensor) -> None:
        """Hold these rows of the columns and nothing else."""
        own_buffers(self).clear()
        self._room_for({name: column[places.to(column.device)] for name, column in columns.items()})
        self.size = len(places)

    def enlarge(self, times: float) -> None:
        """Multiply the capacity by `times`. Rows held stay, and new rows fill the free slots.

        A memory bounded by bytes keeps its capacity.

        Example:
            >>> from incr_core.memories._reservoir import Reservoir
            >>> memory = Reservoir(4)
            >>> memory.insert({"targets": torch.arange(9.0)}, torch.Generator()); memory.enlarge(2.5)
            >>> memory.capacity, memory.size, len(memory.targets)
            (10, 4, 10)
        """
        if times < 1:
            raise ArgumentError(f"memory.enlarge: expected at least 1 times as many rows, got {times}")
        if self.budget is not None:
            return
        held = {name: column.clone() for name, column in self.rows_held().items()}
        most = round(self.capacity * times)
        self.capacity = most if self.ttl is None else min(most, self.ttl - 1)
        own_buffers(self).clear()
        self._room_for(held)

    def _room_for(self, held: Columns) -> None:
        """Allocate columns of the full capacity that begin with these rows."""
        for name, value in held.items():
            column = value.new_zeros((self.capacity, *value.shape[1:]))
            column[: len(value)] = value
            self.register_buffer(name, column)

    def bytes(self) -> int:
        """Return the number of bytes of the columns."""
        return sum(column.nbytes for column in own_buffers(self).values() if column is not None)

    def _allocate(self, columns: Columns) -> None:
        """Allocate the columns at the first insertion; afterwards check that the columns are the same."""
        if not own_buffers(self):
            self._spend(columns)
            for name, column in columns.items():
                self.register_buffer(name, column.new_zeros((self.capacity, *column.shape[1:])))
            return
        if own_buffers(self).keys() != columns.keys():
            raise ArgumentError(
                f"memory: expected the columns {', '.join(sorted(own_buffers(self)))} as before, "
                f"got {', '.join(sorted(columns))}; give every increment the same fields, or start a new run"
            )
        for name, column in columns.items():
            held = own_buffers(self)[name]
            assert held is not None
            if held.shape[1:] != column.shape[1:] or held.dtype != column.dtype:
                raise ArgumentError(
                    f"memory.{name}: expected rows of {held.dtype} {tuple(held.shape[1:])} as before, "
                    f"got {column.dtype} {tuple(column.shape[1:])}; start a new run for another model input"
                )

    def _spend(self, columns: Columns) -> None:
        """Set the capacity to the number of rows that the byte budget allows."""
        if self.budget is None:
            return
        each = sum(column.element_size() * column[:1].numel() for column in columns.values())
        self.capacity = self.budget // max(1, each)
        if self.capacity < 1:
            raise ArgumentError(
                f"memory.capacity: expected room for at least 1 row of {each:,} bytes, got {self.budget:,} bytes; "
                "give it more, or a number of rows"
            )
        self._check_ttl()

    def _write(self, slots: Tensor, columns: Columns, picked: Tensor | None = None) -> None:
        """Write rows, or those `picked` of them, to distinct slots."""
        with in_any_order():
            for name, column in columns.items():
                held = own_buffers(self)[name]
                assert held is not None
                held.index_copy_(0, slots, column if picked is None else column.index_select(0, picked))

    def get_extra_state(self) -> dict[str, Any]:
        """Return the counts as Python numbers, so that reading them never waits for a device."""
        return {
            "size": self.size,
            "seen": self.seen,
            "capacity": self.capacity,
            "budget": self.budget,
            "made_for": self._made_for,
            "kind": self._kind,
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the counts."""
        self.size, self.seen = int(state["size"]), int(state["seen"])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # Save the rows held only, so that a large memory that has seen few rows has a small state.
        for name, column in self.rows_held().items():
            destination[prefix + name] = column
        destination[f"{prefix}_extra_state"] = self.get_extra_state()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        extra = state_dict.get(f"{prefix}_extra_state")
        if extra is None:  # the state contains no memory here
            missing_keys.append(f"{prefix}_extra_state")
            return
        kind = extra.get("kind", self._kind)
        if kind != self._kind:
            raise CheckpointError(
                f"{prefix}kind: expected a saved memory of the kind {NAMES.get(self._kind, self._kind)}, "
                f"got {NAMES.get(kind, kind)}; use the same kind, or start a new run"
            )
        theirs, mine = (
            (b, "bytes") if b else (c, "rows")
            for b, c in ((extra.get("budget"), extra["made_for"]), (self.budget, self._made_for))
        )
        if theirs != mine:
            raise CheckpointError(
                f"{prefix}capacity: the saved memory holds {theirs[0]} {theirs[1]}, this one {mine[0]}"
                f"{'' if mine[1] == theirs[1] else f' {mine[1]}'}; use the same capacity, or start a new run"
            )
        self.capacity = extra["capacity"]
        # Use the columns of the loaded state: this memory may hold none yet, or more rows than were saved.
        device = next((column.device for column in own_buffers(self).values() if column is not None), None)
        own_buffers(self).clear()
        found = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        names = [name for name in found if "." not in name and name != "_extra_state"]
        self._room_for({name: found[name].to(device or found[name].device) for name in names})
        self.set_extra_state(extra)


def _evenly(size: int, count: int) -> Tensor:
    """Return `count` of `size` places, spread as evenly as possible.

    Example:
        >>> _evenly(10, 4).tolist()
        [0, 2, 5, 7]
    """
    return torch.arange(count) * size // max(1, count)
