"""Local time: the meaning of times without a zone, if a job sets `stream.time_zone`."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.times import NAIVE

__all__ = ["LocalTime", "in_zone"]


@dataclass(frozen=True, slots=True)
class LocalTime:
    """The zone of times without one, in some columns.

    An hour that occurs twice, when clocks are set back, is read as the first in the columns `early`, and as the second
    in the columns `late`: a prediction must not be dated later, nor a label earlier, than it was.

    Attributes:
        zone: Name of the time zone.
        early: Columns read as the earlier of two times.
        late: Columns read as the later of two times.

    Example:
        >>> times = LocalTime("Europe/Berlin", early=frozenset({"at"}), late=frozenset({"known"}))
        >>> zoned = times.in_zone(pa.table({"at": ["2013-10-27 02:30"], "known": ["2013-10-27 02:30"], "x": [1]}))
        >>> zoned["at"].to_pylist(), zoned["known"].to_pylist()
        (['2013-10-27 00:30:00.000000Z'], ['2013-10-27 01:30:00.000000Z'])
    """

    zone: str
    early: frozenset[str]
    late: frozenset[str]

    def in_zone(self, table: pa.Table) -> pa.Table:
        """Return the table with a zone in all times of these columns."""
        for place, name in enumerate(table.column_names):
            if name in self.early or name in self.late:
                column = in_zone(table.column(place), self.zone, late=name in self.late)
                table = table.set_column(place, name, column)
        return table


def in_zone(column: pa.ChunkedArray, zone: str, *, late: bool) -> pa.ChunkedArray:
    """Interpret a column's times without a zone as local times of `zone`; others stay unchanged.

    Args:
        column: The column.
        zone: Name of the time zone.
        late: Use the later time if clocks were set back, and the later edge if they were set forward.

    Example:
        >>> column = pa.chunked_array([["2013-07-01 02:00", "2013-07-01T02:00Z"]])
        >>> in_zone(column, "Europe/Berlin", late=False).to_pylist()
        ['2013-07-01 00:00:00.000000Z', '2013-07-01T02:00Z']
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    if pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None):
        return _utc(pc.cast(column, pa.timestamp("us"), safe=False), zone, late)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        naive = pc.fill_null(pc.match_substring_regex(column, NAIVE + "$"), False)
        try:
            local = pc.cast(pc.if_else(naive, column, pa.scalar(None, kind)), pa.timestamp("us"))
        except pa.ArrowInvalid:  # an impossible date: reading the column reports it
            return column
        return pc.if_else(naive, pc.cast(_utc(local, zone, late), kind), column)
    return column


def _utc(local: pa.ChunkedArray, zone: str, late: bool) -> pa.ChunkedArray:
    which = "latest" if late else "earliest"
    return pc.cast(pc.assume_timezone(local, zone, ambiguous=which, nonexistent=which), pa.timestamp("us", "UTC"))
