"""A table that grows by files: each file appears complete, with the positions of all writers in its metadata.

A file and the positions that it stands for become durable in one rename. A writer, or a consumer of a broker, that
repeats what has landed is therefore recognised after a kill at any moment. Positions accumulate, so the newest file is
sufficient, and older files may be removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from incr_core.errors import ArgumentError, StorageError
from incr_core.ingest._schema import difference, in_order, schema_in
from incr_core.storage import storage, write_atomically

__all__ = ["MAX_WRITERS", "LandingTable"]

POSITIONS = b"incr.positions"
"""Key of the positions in the metadata of a file's schema."""

MAX_WRITERS = 10_000
"""Writers whose positions a table keeps; beyond it, the writer that has been silent for longest is dropped."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class LandingTable:
    """The files of one table, `FOLDER/NAME/NAME-000000000001.arrow` and so on.

    Args:
        folder: Folder of all tables.
        name: Name of the table: letters, digits, "_" and "-".
        schema: Columns that the table must have; None takes those of its files, or of the first rows that land.

    Attributes:
        positions: Last durable position of each writer.
        schema: Columns of the next rows; None before the first.
        durable_schema: Columns of the files, or those that were given.

    Raises:
        ArgumentError: The name cannot be one of a folder, or the files have other columns than `schema`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = LandingTable(Path(folder), "people").land([pa.record_batch({"x": [1, 2]})], {"a": "7"})
        ...     file.name, LandingTable(Path(folder), "people").positions
        ('people-000000000001.arrow', {'a': '7'})
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema | None = None) -> None:
        if NAME.fullmatch(name) is None:
            raise ArgumentError(
                f'table: expected a name of at most 100 letters, digits, "_" and "-", got "{name}"; choose another'
            )
        self.name, self.folder = name, folder / name
        self.schema = self.durable_schema = schema
        self.positions: dict[str, str] = {}
        self._number = 0
        with storage(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self.folder.glob(f".tmp-{name}-*.arrow"):
                unfinished.unlink()
        self._resume()

    def _resume(self) -> None:
        files = self.files()
        if files:
            self._number = max(files)
            newest = files[self._number]
            try:
                with pa.memory_map(str(newest)) as file:
                    found = pa.ipc.open_file(file).schema
                self.positions = json.loads((found.metadata or {})[POSITIONS])
            except (pa.ArrowException, KeyError, ValueError) as error:
                raise StorageError(
                    f"{newest}: expected an Arrow file with positions, got another: {error}; put the file back"
                ) from error
        elif any(one.is_file() and not one.name.startswith((".", "_")) for one in self.folder.iterdir()):
            found = schema_in(self.folder)
        else:
            return
        self.check(found)
        self.schema = self.durable_schema = found.remove_metadata()

    def files(self) -> dict[int, Path]:
        """Return the files that have landed and are still there, by number."""
        found = {}
        for path in self.folder.glob(f"{self.name}-*.arrow"):
            number = path.stem.removeprefix(f"{self.name}-")
            if number.isdigit():
                found[int(number)] = path
        return found

    def check(self, schema: pa.Schema) -> None:
        """Raise an ArgumentError if rows with these columns do not belong into the table."""
        if len(schema) == 0:
            raise ArgumentError(f"{self.name}: expected columns, got none; send rows")
        fault = None if self.schema is None else difference(self.schema, schema)
        if fault is not None:
            raise ArgumentError(f"{self.name}: {fault}; send the columns of the table, or name another table")

    def land(self, batches: Sequence[pa.RecordBatch], positions: Mapping[str, str]) -> Path:
        """Write rows and positions as the next file, which is durable on return.

        Raises:
            StorageError: The file cannot be written; rows and positions are as before.
        """
        schema = batches[0].schema.remove_metadata() if self.schema is None else self.schema
        kept = {name: at for name, at in self.positions.items() if name not in positions} | dict(positions)
        kept = dict(list(kept.items())[-MAX_WRITERS:])
        rows = pa.Table.from_batches([in_order(one, schema).replace_schema_metadata(None) for one in batches], schema)
        rows = rows.replace_schema_metadata({POSITIONS: json.dumps(kept).encode()})

        def write(file: BinaryIO) -> None:
            # One file has one dictionary for each column; batches may come with different ones.
            options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
            with pa.ipc.new_file(file, rows.schema, options=options) as writer:
                writer.write_table(rows)

        path = self.folder / f"{self.name}-{self._number + 1:012d}.arrow"
        write_atomically(path, write)
        self._number, self.positions = self._number + 1, kept
        self.schema = self.durable_schema = schema
        return path
