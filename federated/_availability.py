"""Availability of simulated clients: presence and answers in time, from a trace file or drawn by a seed.

The module keeps no state: the fate of a client in an increment is a function of the trace, the seed, its name and the
increment's number. A resumed run, on any number of workers, has the same absences.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.sources import read_table
from incr_core.data.times import SECOND, instants, label
from incr_core.errors import JobError, StreamError
from incr_core.job import AvailabilitySection

__all__ = ["Availability"]

PLACE = "federated.availability.trace"
COLUMNS = ("client", "start", "stop")


class Availability:
    """The availability of clients as `[federated.availability]` defines it.

    Args:
        wanted: The section.
        clients: Names of the clients.
        path: The trace, if there is one.
        timed: Whether the moments of the trace are times in microseconds; otherwise they are numbers of increments.
        timeout: Seconds within which a client must answer.
        seed: The seed, if the section has none.

    Example:
        >>> found = Availability(AvailabilitySection(present=0.5, rows_per_second=10), ["a", "b"], timeout=60.0, seed=0)
        >>> [found.is_there("a", number, number) for number in range(5)]
        [False, True, False, False, True]
        >>> found.why_lost("a", 0, 0, rows=500), found.why_lost("a", 0, 0, rows=700)
        ('', 'too late: 700 rows take it 70 s, longer than federated.round_timeout')
    """

    def __init__(
        self,
        wanted: AvailabilitySection,
        clients: Collection[str],
        *,
        path: Path | None = None,
        timed: bool = False,
        timeout: float = math.inf,
        seed: int = 0,
    ) -> None:
        self._wanted, self._timeout = wanted, timeout
        self._seed = seed if wanted.seed is None else wanted.seed
        self._there: dict[str, list[tuple[int, int]]] | None = None  # client -> spans of its presence; None: no trace
        self._speeds: dict[str, float] = {}
        if path is not None:
            self._there, self._speeds = _read(path, clients, timed=timed)

    def is_there(self, client: str, number: int, moment: int) -> bool:
        """Return whether a client can be asked in the increment `number`, at that moment of the trace."""
        if self._there is not None and not any(start <= moment < stop for start, stop in self._there.get(client, ())):
            return False
        return self._drawn("present", client, number) < self._wanted.present

    def back(self, client: str, moment: int) -> int | None:
        """Return the first moment, from this one on, at which a client may be present; None without one."""
        if not self._wanted.present:
            return None
        if self._there is None:
            return moment
        return min((max(start, moment) for start, stop in self._there.get(client, ()) if stop > moment), default=None)

    def why_lost(self, client: str, number: int, round_: int, rows: int) -> str:
        """Return why a client's answer to an order to learn does not arrive in time; empty if it does.

        Args:
            client: The client.
            number: The increment.
            round_: The round of the increment.
            rows: Number of rows to learn, counted once for each pass.
        """
        if self._drawn(f"dropout {round_}", client, number) < self._wanted.dropout:
            return "dropped out"
        return self.too_late(client, rows)

    def too_late(self, client: str, rows: int) -> str:
        """Return why an answer is too late; empty if it is not."""
        speed = self._speed(client)
        if speed is None or rows <= speed * self._timeout:
            return ""
        return f"too late: {rows:,} rows take it {rows / speed:,.0f} s, longer than federated.round_timeout"

    def may_answer(self, client: str, rows: int) -> bool:
        """Return whether the client could ever answer."""
        return self._wanted.dropout < 1.0 and not self.too_late(client, rows)

    def _speed(self, client: str) -> float | None:
        """Return the rows a second of a client, constant over the run. None: no limit."""
        median = self._wanted.rows_per_second
        if client in self._speeds or median is None:
            return self._speeds.get(client)
        drawn = min(max(self._drawn("speed", client, 0), 1e-12), 1 - 1e-12)
        return median * math.exp(self._wanted.spread * NormalDist().inv_cdf(drawn))

    def _drawn(self, what: str, client: str, number: int) -> float:
        """Return a uniform number in [0, 1), a hash of the arguments and the seed."""
        told = f"{self._seed}\n{what}\n{number}\n{client}".encode()
        return float(int.from_bytes(blake2b(told, digest_size=7).digest()) >> 3) / (1 << 53)


def _read(
    path: Path, clients: Collection[str], *, timed: bool
) -> tuple[dict[str, list[tuple[int, int]]], dict[str, float]]:
    """Return the spans of presence of each client in a trace, and the speeds that the trace defines."""
    try:
        table = read_table(path, None, None, PLACE)
    except (OSError, StreamError) as error:
        raise JobError(f"{PLACE}: expected a file of {', '.join(COLUMNS)}, got: {error}") from error
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise JobError(
            f"{PLACE}: expected the columns {', '.join(COLUMNS)} (and rows_per_second) in {path}, got none named "
            f"{', '.join(missing)}"
        )
    names = [str(name) for name in table["client"].to_pylist()]
    known = set(clients)
    if unknown := sorted(set(names) - known):
        raise JobError(
            f"{PLACE}: expected names of clients of the run, such as {min(known)!r}, got {unknown[0]!r} in {path}"
        )
    starts, stops = (_moments(table[name], f"{PLACE}: {name} in {path}", timed=timed) for name in ("start", "stop"))
    there: dict[str, list[tuple[int, int]]] = {}
    for name, start, stop in zip(names, starts, stops, strict=True):
        if start >= stop:
            told = f"{label(start, SECOND)} and {label(stop, SECOND)}" if timed else f"{start} and {stop}"
            raise JobError(f"{PLACE}: expected a start before its stop, got {told} of {name} in {path}")
        there.setdefault(name, []).append((start, stop))
    speeds = table["rows_per_second"].to_pylist() if "rows_per_second" in table.column_names else [None] * len(names)
    found = {name: float(speed) for name, speed in zip(names, speeds, strict=True) if speed is not None}
    if slow := next((name for name, speed in found.items() if not speed > 0), None):
        raise JobError(f"{PLACE}: expected rows_per_second above 0, got {found[slow]:g} of {slow} in {path}")
    return there, found


def _moments(column: pa.ChunkedArray, place: str, *, timed: bool) -> Sequence[int]:
    """Return times in microseconds, or numbers of increments."""
    if timed:
        read = instants(column, place)
        if not np.asarray(read.known).all():
            raise JobError(f"{place}: expected times, since stream.every is a duration, got a value that is none")
        return [int(value) for value in read.values]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise JobError(
            f"{place}: expected whole numbers of increments, since stream.every is no duration, got {column.type}"
        )
    return [int(value) for value in pc.cast(column, pa.int64()).to_pylist()]
