"""Assignment of rows to simulated clients by a partitioner of another library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from incr_core.data import OFFSET_BITS
from incr_core.data.sources import open_source
from incr_core.errors import ArgumentError, JobError
from incr_core.job import Job

__all__ = ["Partitioner", "deal"]

ROW = "__row__"
"""The column of row ids that the partitioner sees beside the data's own."""


class Partitioner(Protocol):
    """The interface of a partitioner of `flwr-datasets` that `deal` uses."""

    dataset: Any

    @property
    def num_partitions(self) -> int:
        """The number of partitions."""

    def load_partition(self, partition_id: int) -> Any:
        """The rows of a partition, as a `datasets.Dataset`."""


def deal(job: Job, partitioner: Partitioner, out: str | Path, *, columns: Sequence[str] | None = None) -> list[int]:
    """Deal the rows of a job's stream with a partitioner of `flwr-datasets`, and write the list of their clients.

    The partitioner sees the numbers of the rows and the columns that it partitions by. No other column is read, and no
    row is copied. A job with `federated.clients = "list:OUT"` then has client i for partition i.

    Args:
        job: The job. Its stream has files, all of which are there.
        partitioner: For example `flwr_datasets.partitioner.DirichletPartitioner(10, "label", 0.5)`.
        out: The file to write (Parquet, columns `row` and `client`).
        columns: The columns that the partitioner needs. None: the job's labels.

    Returns:
        The number of rows of each client.

    Raises:
        ArgumentError: A row is in no partition or in two, or the package `datasets`, with which `flwr-datasets` holds
            rows, is not installed.
        JobError: The stream is a Python function.

    Example:
        A job whose clients are those of a partitioner::

            from flwr_datasets.partitioner import PathologicalPartitioner

            deal(job, PathologicalPartitioner(10, "label", num_classes_per_partition=2), "clients.parquet")
            run(job.with_settings(["federated.clients=list:clients.parquet"]), on="federated")
    """
    try:
        from datasets import Dataset
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"partitioner: expected the package {missing.name}, got none; pip install flwr-datasets"
        ) from missing

    source = job.source()
    if not isinstance(source, str):
        raise JobError("stream.path: expected files, whose rows keep their places, got a Python function")
    wanted = list(job.features.labels if columns is None else columns)
    tables = []
    for number, fragment in enumerate(open_source(source, job.stream.file_format).fragments()):
        table = fragment.load(wanted)
        ids = np.arange(len(table), dtype=np.int64) + (number << OFFSET_BITS)
        tables.append(pa.table({**{name: table[name] for name in wanted}, ROW: ids}))
    everything = pa.concat_tables(tables)
    partitioner.dataset = Dataset(everything)
    rows = [
        np.asarray(partitioner.load_partition(client).with_format("numpy")[ROW][:], dtype=np.int64)
        for client in range(partitioner.num_partitions)
    ]
    ids, clients = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    if len(ids) != len(everything) or len(np.unique(ids)) != len(ids):
        raise ArgumentError(
            f"partitioner: expected each of {len(everything):,} rows in one partition, got {len(ids):,} rows, "
            f"{len(np.unique(ids)):,} of them different; choose a partitioner that deals every row once"
        )
    pq.write_table(pa.table({"row": ids, "client": clients.astype(np.int32)}), out)
    return [len(part) for part in rows]
