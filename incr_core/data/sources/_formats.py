"""File formats, and reading of files: whole, in chunks, or selected rows."""

from __future__ import annotations

import codecs
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet as pq

from incr_core.data.sources._csv import CsvFormat, read_csv
from incr_core.data.sources._declared import plain, with_categories
from incr_core.data.sources._mixed_lines import read_mixed_lines
from incr_core.data.sources._remote_file import File, RemoteFile
from incr_core.data.times import readable
from incr_core.errors import StreamError
from incr_core.shown import shown

__all__ = [
    "CHUNK",
    "FORMATS",
    "HEAD",
    "Offsets",
    "check_columns",
    "format_of",
    "kind_of",
    "parquet_head",
    "parts_of",
    "read_chunks",
    "read_rows",
    "read_table",
    "rows_in",
]

Offsets = np.ndarray[Any, np.dtype[np.int64]]

FORMATS = {
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "csv": (".csv", ".csv.gz"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz"),
}
"""Known formats and their file name endings."""

HEAD = 1000
"""Number of rows to inspect if only types matter."""

CHUNK = 65_536
"""Rows of a Parquet file decoded at a time; the next chunk is decoded while one is encoded."""

BUFFER = 1 << 18
"""Bytes of a column read from a file at a time; otherwise the first rows would wait for their whole row group."""

OPENING = 1 << 20
"""Bytes at the beginning of a text file that are inspected for their encoding, after the file could not be read."""


def read_table(path: File, columns: Sequence[str] | None, format: str | None, place: str) -> pa.Table:
    """Read the `columns` of one file (all if None); `place` names the file in errors."""
    return pa.concat_tables(read_chunks(path, columns, format, place))


def read_chunks(
    path: File,
    columns: Sequence[str] | None,
    format: str | None,
    place: str,
    in_bytes: tuple[int, int] | None = None,
    part: int | None = None,
) -> Iterator[pa.Table]:
    """Read as `read_table`, in chunks of rows if the format allows it; yields at least one table.

    Args:
        path: The file.
        columns: The columns; None for all.
        format: Its format; None uses its name.
        place: Names the file in errors.
        in_bytes: For CSV or JSON lines, read only the rows in these bytes [start, stop) of the file.
        part: Read only this one of its `parts_of`.
    """
    kind = format or format_of(path, strict=True) or ""
    try:
        if kind == "parquet":
            yield from _parquet_chunks(path, columns, place, part)
            return
        if kind == "arrow":
            table = _read_ipc(path)
        elif kind == "csv":
            table = read_csv(_stream(path) if in_bytes is None else _bytes_of(path, in_bytes, header=True), kind)
        else:
            table = _read_lines(path, in_bytes)
        names = table.column_names  # Arrow decodes the header of a CSV file here
    except UnicodeDecodeError as error:
        raise _not_utf8(path, place) from error
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        if kind in ("csv", "jsonl") and ("Empty" in str(error) or path.stat().st_size == 0 or in_bytes == (0, 0)):
            yield pa.table({name: pa.nulls(0) for name in columns or ()})
            return
        if kind in ("csv", "jsonl") and not _is_utf8(path):
            raise _not_utf8(path, place) from error
        raise _unreadable(place, kind, error) from error
    check_columns(names, columns, place)
    yield readable(plain(table if columns is None else table.select(list(columns))))


def kind_of(path: File, format: str | None) -> str | None:
    """The format of a file beside a stream, by its ending; where that is of none, or CSV, the stream's.

    >>> kind_of("day.parquet", "csv"), kind_of("day.txt", "csv"), kind_of("day.csv", CsvFormat(";")).delimiter
    ('parquet', 'csv', ';')
    """
    found = format_of(path)
    return format if found is None or (found == "csv" and isinstance(format, CsvFormat)) else found


def parts_of(path: File, format: str | None, place: str) -> list[int | None]:
    """Return the rows of each part of a file that can be read separately.

    For Parquet these are runs of row groups of at least a chunk. Other files are one part, whose number of rows is
    unknown before reading: [None].
    """
    kind = format or format_of(path, strict=True) or ""
    if kind != "parquet":
        return [None]
    try:
        metadata = pq.read_metadata(_seekable(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(place, kind, error) from error
    if metadata.num_rows <= CHUNK:
        return [metadata.num_rows]
    rows = _row_groups(metadata)
    return [sum(rows[index] for index in run) for run in _runs(rows)]


def rows_in(path: File, format: str | None, place: str, in_bytes: tuple[int, int]) -> int:
    """Return the number of rows in bytes [start, stop) of a CSV or JSON lines file; `start` begins a line."""
    kind = format or format_of(path, strict=True) or ""
    try:
        if kind != "csv":
            return int(_read_lines(path, in_bytes).num_rows)
        return int(read_csv(_bytes_of(path, in_bytes, header=True), kind).num_rows)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, place) from error
    except pa.ArrowInvalid as error:
        if "Empty" in str(error) or in_bytes[0] == in_bytes[1]:
            return 0
        raise _unreadable(place, kind, error) from error


def _read_lines(path: File, in_bytes: tuple[int, int] | None) -> pa.Table:
    """Read JSON lines, or some bytes of them; in Python, which is slower, if a column has values of several types."""

    def opened() -> Any:
        return _stream(path) if in_bytes is None else _bytes_of(path, in_bytes, header=False)

    try:
        return pyarrow.json.read_json(opened())
    except pa.ArrowInvalid as error:
        if "changed from" not in str(error):
            raise
        again = opened()
        with again if isinstance(again, pa.NativeFile) else pa.input_stream(again) as file:
            try:
                return read_mixed_lines(file.read())
            except ValueError:  # there is another fault too
                raise error from None


def _bytes_of(path: File, in_bytes: tuple[int, int], header: bool) -> pa.BufferReader:
    """Return some bytes of a file as a separate file, after the header line if there is one."""
    start, stop = in_bytes
    with path.open("rb") as file:
        names = file.readline() if header and start else b""
        file.seek(start)
        # The memory belongs to Arrow. If its threads release a Python object while Python exits, the process aborts.
        owned = pa.BufferOutputStream()
        owned.write(names + file.read(stop - start))
        return pa.BufferReader(owned.getvalue())


def _parquet_chunks(
    path: File, columns: Sequence[str] | None, place: str, part: int | None = None
) -> Iterator[pa.Table]:
    with pq.ParquetFile(_seekable(path)) as file:
        schema, metadata = file.schema_arrow, file.metadata
        check_columns(schema.names, columns, place)
        names = list(schema.names if columns is None else columns)
        # Text stays dictionary-encoded, as in the file, because it is hashed by distinct value.
        words = [name for name in names if pa.types.is_string(schema.field(name).type)]
        if not words and metadata.num_rows <= CHUNK:
            yield readable(plain(file.read(columns=names)))  # reopening would cost more than reading the rows
            return
    reading = {"read_dictionary": words, "buffer_size": BUFFER, "pre_buffer": False}
    with pq.ParquetFile(_seekable(path), metadata=metadata, **reading) as file:
        if metadata.num_rows <= CHUNK:
            yield readable(plain(file.read(columns=names)))
            return
        # With two cores, this thread and the encoding thread use both, and a thread pool would cost more than it gains.
        threads = pa.cpu_count() > 2
        # A dictionary-encoded batch ends with its row group, so runs of whole row groups are read.
        runs = _runs(_row_groups(metadata))
        for run in runs if part is None else [runs[part]]:
            for batch in file.iter_batches(CHUNK, row_groups=run, columns=names, use_threads=threads):
                yield readable(plain(pa.Table.from_batches([batch])))


def read_rows(path: File, columns: Sequence[str] | None, format: str | None, place: str, offsets: Offsets) -> pa.Table:
    """Return the rows at `offsets` (n,) of one file; for Parquet, only their row groups are read."""
    if (format or format_of(path)) != "parquet":
        return read_table(path, columns, format, place).take(pa.array(offsets))
    try:
        with pq.ParquetFile(_seekable(path)) as file:
            check_columns(file.schema_arrow.names, columns, place)
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
            ends = np.cumsum(sizes)
            holders, which = np.unique(np.searchsorted(ends, offsets, side="right"), return_inverse=True)
            kept = np.array(sizes, dtype=np.int64)[holders]
            # Start of each row group in the table read, minus its start in the file.
            shift = np.cumsum(kept) - kept - (ends - sizes)[holders]
            table = file.read_row_groups(holders.tolist(), columns=None if columns is None else list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(place, "parquet", error) from error
    return readable(plain(table)).take(pa.array(offsets + shift[which.reshape(-1)]))


def _row_groups(metadata: Any) -> list[int]:
    """Return the number of rows of each row group of a Parquet file."""
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def _runs(rows: Sequence[int]) -> list[list[int]]:
    """Return runs of consecutive row groups that contain at least a chunk of rows each, except the last."""
    runs, held = list[list[int]](), CHUNK
    for index, count in enumerate(rows):
        if held >= CHUNK:
            runs.append([])
            held = 0
        runs[-1].append(index)
        held += count
    return runs


def parquet_head(path: File, columns: Sequence[str] | None, place: str, typed: bool = False) -> pa.Table:
    """Return the first rows of a Parquet file, in the types in which they were written; no others are read.

    Args:
        path: The file.
        columns: The columns; None for all.
        place: Names the file in errors.
        typed: Skip columns that the file lacks, or that have no type.
    """
    try:
        with pq.ParquetFile(_seekable(path)) as file:
            schema, written = file.schema_arrow, file.metadata.metadata
            names = list(schema.names if columns is None else columns)
            if typed:
                held = set(schema.names)
                names = [name for name in names if name in held and not pa.types.is_null(schema.field(name).type)]
                if not names:
                    return pa.table({})
            check_columns(schema.names, names if typed else columns, place)
            first = next(file.iter_batches(HEAD, columns=names), None)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(place, "parquet", error) from error
    if first is None:
        return pa.table({name: pa.nulls(0) for name in names})
    return with_categories(plain(pa.Table.from_batches([first])), written)


def _unreadable(place: str, kind: str, error: Exception) -> StreamError:
    # Arrow quotes the data that it could not read, which may contain anything.
    reason = shown(error, 200)
    return StreamError(
        f"{place}: expected a whole {kind} file, got one that cannot be read ({reason}); "
        "write it again or take it out of the stream"
    )


def _not_utf8(path: File, place: str) -> StreamError:
    encoding, got = "latin1", "bytes that are not"
    if _opening(path)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding, got = "utf-16", "UTF-16"
    return StreamError(
        f"{place}: expected UTF-8, got {got}; convert the file, such as with iconv -f {encoding} -t utf-8"
    )


def _is_utf8(path: File) -> bool:
    """Whether the first bytes of a text file are UTF-8. True if the file cannot be decompressed."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(_opening(path))
    except UnicodeDecodeError:
        return False
    except (pa.ArrowInvalid, OSError, EOFError):  # damaged in another way
        return True
    return True


def _opening(path: File) -> bytes:
    """Return the first bytes of a text file, decompressed."""
    opened = _stream(path)
    with opened if isinstance(opened, pa.NativeFile) else pa.input_stream(opened) as file:
        return bytes(file.read(OPENING))


def _seekable(path: File) -> Any:
    """Return a file for pyarrow's random access: a file on disk by its name."""
    return path.open() if isinstance(path, RemoteFile) else path


def _stream(path: File) -> Any:
    """Return a file for pyarrow's sequential access, decompressed."""
    if not isinstance(path, RemoteFile):
        return path
    return pa.input_stream(path.open(), compression="gzip" if path.name.lower().endswith(".gz") else None)


def _read_ipc(path: File) -> pa.Table:
    with pa.PythonFile(path.open()) if isinstance(path, RemoteFile) else pa.memory_map(str(path)) as file:
        try:
            return pa.ipc.open_file(file).read_all()
        except pa.ArrowInvalid:  # the streaming format has no footer
            file.seek(0)
            return pa.ipc.open_stream(file).read_all()


def check_columns(names: Sequence[str], columns: Sequence[str] | None, place: str) -> None:
    """Raise a StreamError unless `names` contains each of the `columns` (None: each name in it) exactly once.

    Example:
        >>> check_columns(["distance"], ["distanse"], "day.csv")
        Traceback (most recent call last):
        ...
        incr_core.errors.StreamError: day.csv: expected a column "distanse", got distance; the nearest is "distance";
        rename it here or in the job
    """
    counts = Counter(names)
    for column in names if columns is None else columns:
        if counts[column] > 1:
            raise StreamError(f'{place}: expected column "{column}" once, found it {counts[column]} times; rename one')
        if column not in counts:
            near = difflib.get_close_matches(column, names, 1)
            hint = f'; the nearest is "{near[0]}"' if near else ""
            have = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise StreamError(f'{place}: expected a column "{column}", got {have}{hint}; rename it here or in the job')


def format_of(path: File | str, *, strict: bool = False) -> str | None:
    """Return the format by a file's ending; otherwise None or, if `strict`, raise a StreamError.

    Example:
        >>> format_of("day.csv.gz"), format_of("day.txt")
        ('csv', None)
    """
    for kind, endings in FORMATS.items():
        if str(path).lower().endswith(endings):
            return kind
    if strict:
        known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
        raise StreamError(f"{path}: expected a file ending in one of {known}; set stream.format to say what it is")
    return None
