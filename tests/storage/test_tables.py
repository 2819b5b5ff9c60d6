"""Tables are read without leaving work to threads that may outlive the interpreter."""

from __future__ import annotations

import threading

import pyarrow as pa

from incr_core.storage import parquet_bytes, read_table

released = list[int]()
"""Threads that have let go of the content of a file."""


class Content(bytes):
    def __del__(self) -> None:
        released.append(threading.get_ident())


def test_the_content_of_a_file_is_released_by_the_thread_that_read_it() -> None:
    """A thread of Arrow that releases a Python object while Python ends aborts the process."""
    content = parquet_bytes(pa.table({f"column {place}": range(2000) for place in range(12)}))
    before = pa.cpu_count()
    pa.set_cpu_count(4)
    try:
        for _ in range(400):
            assert read_table("rows.parquet", Content(content)).num_rows == 2000
    finally:
        pa.set_cpu_count(before)
    assert released == [threading.get_ident()] * 400
