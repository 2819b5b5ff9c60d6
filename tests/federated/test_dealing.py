"""Rows that another library's partitioner deals to clients, and lists of rows that cannot be dealt so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from federated._client_names import clients_of
from incr_core.data import row_ids
from incr_core.errors import ArgumentError, JobError, StreamError
from incr_core.job import Job
from tests.support.federated_runs import failing, finish, people
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.made_up import made_up

pytestmark = pytest.mark.flower

ROWS = 600


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Two files, so that row numbers are not offsets alone."""
    table = made_up(ROWS)
    (tmp_path / "rows").mkdir()
    pq.write_table(table.slice(0, 250), tmp_path / "rows/1.parquet")
    pq.write_table(table.slice(250), tmp_path / "rows/2.parquet")
    return tmp_path / "rows"


def listing(folder: Path, clients: Any) -> Path:
    """A list of the clients of the stream's rows, in their order."""
    ids = np.concatenate([row_ids(0, 0, 250).numpy(), row_ids(1, 0, ROWS - 250).numpy()])[: len(clients)]
    pq.write_table(pa.table({"row": ids, "client": np.asarray(clients, np.int32)}), folder / "clients.parquet")
    return folder / "clients.parquet"


def job_of(stream: Path, file: Path, *settings: str) -> Job:
    return people(stream, f"federated.clients=list:{file}", "stream.warm_start=100", *settings)


def learned_by(folder: Path) -> dict[str, set[tuple[int, int]]]:
    found: dict[str, set[tuple[int, int]]] = {}
    for entry in pq.read_table(folder / "ledger").to_pylist():
        fragment = int(entry["fragment"].removesuffix(".parquet")[-1]) - 1
        for part in entry["ranges"]:
            rows = {(fragment, row) for row in range(part["start"], part["stop"])}
            found.setdefault(entry["participant"], set()).update(rows)
    return found


def test_each_client_learns_the_rows_that_are_listed_for_it(stream: Path, tmp_path: Path) -> None:
    clients = np.random.default_rng(1).integers(0, 4, ROWS)
    job = job_of(stream, listing(tmp_path, clients))
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(4)))
    places = [(0, row) for row in range(250)] + [(1, row) for row in range(ROWS - 250)]
    wanted = {f"client-{one}": {p for p, who in zip(places, clients, strict=True) if who == one} for one in range(4)}
    assert learned_by(tmp_path / "whole") == wanted
    finish(job, tmp_path / "parts", on(InProcessGrid(4, workers=2)), stop_after=1)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(4))) == whole


def test_a_row_without_a_client_is_named(stream: Path, tmp_path: Path) -> None:
    error = failing(job_of(stream, listing(tmp_path, [0, 1] * 200)), tmp_path / "run", on(InProcessGrid(2)))
    assert type(error) is StreamError
    assert "expected a client for every row, got none for row 150 of file 1" in str(error)


@pytest.mark.parametrize(
    ("clients", "said"), [([0, 2, 0], "got none for client 1"), ([0, -1], "got none for client 0")]
)
def test_a_list_of_clients_without_rows_is_refused(stream: Path, tmp_path: Path, clients: list[int], said: str) -> None:
    with pytest.raises(JobError, match=said):
        clients_of(job_of(stream, listing(tmp_path, clients)))


def test_what_is_no_list_is_refused(stream: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="expected a Parquet file with the columns row and client"):
        clients_of(job_of(stream, stream / "1.parquet"))


def test_the_partitioners_of_flwr_datasets_deal_rows(stream: Path, tmp_path: Path) -> None:
    """`pip install flwr-datasets` is not in the lock of the tests: it requires an older fsspec."""
    partitioners = pytest.importorskip("flwr_datasets.partitioner")
    from federated import deal

    job = people(
        stream, "features.label='size'", "learner.objective='multiclass'", 'features.classes=["small","medium","large"]'
    )
    rows = deal(job, partitioners.PathologicalPartitioner(3, "size", num_classes_per_partition=1), tmp_path / "one")
    sizes = pa.concat_tables([pq.read_table(path, columns=["size"]) for path in sorted(stream.iterdir())])["size"]
    assert sorted(rows) == sorted(np.unique(sizes.to_numpy(zero_copy_only=False), return_counts=True)[1].tolist())
    deal(job, partitioners.DirichletPartitioner(4, "size", alpha=0.5, min_partition_size=5), tmp_path / "four")
    found = finish(
        job.with_settings([f"federated.clients=list:{tmp_path}/four"]), tmp_path / "run", on(InProcessGrid(4))
    )
    assert len(found.learned) == ROWS


def test_the_package_that_is_needed_to_deal_is_named(
    stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    from federated import deal

    with pytest.raises(ArgumentError, match="expected the package datasets, got none; pip install flwr-datasets"):
        deal(people(stream), None, tmp_path / "one")  # type: ignore[arg-type]
    assert not (tmp_path / "one").exists()


def test_a_partitioner_that_leaves_rows_out_is_refused(stream: Path, tmp_path: Path) -> None:
    partitioners = pytest.importorskip("flwr_datasets.partitioner")
    from federated import deal

    class Half(partitioners.IidPartitioner):  # type: ignore[misc, name-defined]
        @property
        def num_partitions(self) -> int:
            return 1

    with pytest.raises(ArgumentError, match="expected each of 600 rows in one partition, got 300 rows"):
        deal(people(stream), Half(2), tmp_path / "list")
