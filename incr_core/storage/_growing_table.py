"""Tables in files: as bytes, and one that grows by a part per version."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from incr_core.storage._atomic import write_atomically

__all__ = ["GrowingTable", "arrow_bytes", "parquet_bytes", "read_table"]


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the content of a Parquet file.

    >>> read_table("a.parquet", parquet_bytes(pa.table({"row": [1, 2]}))).num_rows
    2
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def arrow_bytes(table: pa.Table) -> bytes:
    """A table as the content of an Arrow file, with every type Arrow has.

    >>> read_table("a.arrow", arrow_bytes(pa.table({"row": [1, 2]}))).num_rows
    2
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_table(name: str, content: bytes) -> pa.Table:
    """The table in the content of a file called `name`: *.parquet, or else Arrow.

    >>> read_table("a.parquet", b"PAR1 cut")
    Traceback (most recent call last):
    ...
    pyarrow.lib.ArrowInvalid: Parquet ...
    """
    buffer = pa.BufferReader(content)
    return _read_parquet(buffer) if name.endswith(".parquet") else pa.ipc.open_file(buffer).read_all()


def _read_parquet(source: Path | pa.BufferReader) -> pa.Table:
    # Without the scanner of `pq.read_table`, which takes milliseconds to start.
    with pq.ParquetFile(source) as file:
        return file.read()


class GrowingTable:
    """A table in one Parquet file that grows by the versions' parts.

    Parquet cannot be appended to, so the file is written anew; `write_if_cheap` does so only when writing has
    taken less than a twentieth of the time so far, which keeps long runs linear. The file says up to which
    version it goes, and what it lacks after a kill is in the versions.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = GrowingTable(Path(folder, "metrics.parquet"))
    ...     table.add(pa.table({"increment": [0]}), version=1)
    ...     table.add(pa.table({"increment": [1]}), version=2)
    ...     table.write()
    ...     again = GrowingTable(Path(folder, "metrics.parquet"))
    ...     again.read(latest=2)
    >>> again.version, again.table().num_rows
    (2, 2)
    """

    _VERSION = b"incr.version"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._parts: list[pa.Table] = []
        self._is_written = True
        self._due = 0.0

    def table(self) -> pa.Table:
        """All parts, in one."""
        if len(self._parts) > 1:
            self._parts = [pa.concat_tables(self._parts, promote_options="permissive").combine_chunks()]
        return self._parts[0] if self._parts else pa.table({})

    def add(self, part: pa.Table, version: int) -> None:
        """Append the part of a version."""
        self._parts.append(part.replace_schema_metadata(None))
        self.version = version
        self._is_written = False

    def replace(self, table: pa.Table) -> None:
        """Take this table for all parts so far."""
        self._parts, self._is_written = [table.replace_schema_metadata(None)], False

    def read(self, latest: int) -> None:
        """Take the file as the start, unless it is damaged or of another history than the versions."""
        self.version, self._parts, self._is_written = 0, [], True
        found = self.written(self.path)
        if found is not None and found[0] <= latest:
            self.version, self._parts = found[0], [found[1]]

    @classmethod
    def written(cls, path: Path) -> tuple[int, pa.Table] | None:
        """The version that a file goes up to, and the table in it; None where none can be read.

        >>> GrowingTable.written(Path("/nowhere/metrics.parquet"))
        """
        with contextlib.suppress(OSError, pa.ArrowException, KeyError, TypeError):
            found = _read_parquet(path)
            return int(found.schema.metadata[cls._VERSION]), found.replace_schema_metadata(None)
        return None

    def write(self) -> None:
        """Write the file, unless it is up to date."""
        if self._is_written:
            return
        began = time.monotonic()
        labelled = self.table().replace_schema_metadata({self._VERSION: str(self.version)})
        write_atomically(self.path, parquet_bytes(labelled))
        self._is_written = True
        ended = time.monotonic()
        self._due = ended + 20 * (ended - began)

    def write_if_cheap(self) -> None:
        """Write the file, unless doing so would take more than a twentieth of the time so far."""
        if time.monotonic() >= self._due:
            self.write()
