"""A small federation: one table of three owners, as one file for a simulation and as three folders of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from incr_core.job import Job
from tests.support.made_up import made_up

OWNERS = ("blue", "green", "red")

COLUMNS = ("at", "height", "weight", "tall")


def federation(folder: Path, rows: int = 700, table: pa.Table | None = None, label: str = "tall") -> list[Path]:
    """Write them; returns the three clients' files. Green calls its columns otherwise, and has two files.

    table: the rows of all; by default so many made-up ones. label: its column beside `at`, `height` and `weight`.
    """
    table = made_up(rows) if table is None else table
    offered = [*(name for name in COLUMNS if name != "tall"), label]
    pq.write_table(table, folder / "all.parquet")
    files = []
    for owner in OWNERS:
        home = folder / owner
        (home / "rows").mkdir(parents=True)
        mine = table.filter(pc.equal(table["colour"], owner)).select(offered)
        write_rows(home / "rows", owner, mine)
        columns = {name: own_name(owner, name) for name in offered}
        told = ", ".join(f"{name} = {json.dumps(own)}" for name, own in columns.items())
        file = home / f"{owner}.toml"
        file.write_text(f'[data]\npath = "rows"\nsettle = "0s"\n\n[columns]\n{told.replace(", ", chr(10))}\n')
        files.append(file)
    return files


def own_name(owner: str, column: str) -> str:
    """What an owner calls a column."""
    return f"their_{column}" if owner == "green" else column


def write_rows(folder: Path, owner: str, table: pa.Table, first: int = 1) -> None:
    """Write an owner's rows below a folder, as that owner does."""
    if owner != "green":
        pq.write_table(table, folder / f"{first}.parquet")
        return
    named = table.rename_columns([own_name(owner, name) for name in table.column_names])
    half = len(named) // 2
    for number, part in enumerate((named.slice(0, half), named.slice(half)), first):
        pq.write_table(part, folder / f"part-{number}.parquet")


def document(**stream: Any) -> dict[str, Any]:
    """A job of ticks of four hours with replay, dropout, Adam and a warm start."""
    return {
        "name": "people",
        "stream": {"predict_at": "at", "every": "4h", "warm_start": "2020-01-01T04:00", **stream},
        "features": {"label": "tall", "numeric": ["height", "weight"], "classes": [0, 1]},
        "model": {"hidden": [16], "dropout": 0.1},
        "learner": {
            "objective": "binary",
            "batch_size": 16,
            "warm_epochs": 2,
            "optimizer": {"name": "adam", "lr": 0.01},
        },
        "strategy": [{"name": "replay", "capacity": 60, "ratio": 1.0}],
        "publish": {"every": 1},
    }


def simulated(folder: Path, *settings: str) -> Job:
    """The job on the one table, with a client for each owner."""
    return Job.from_document(document(path=str(folder / "all.parquet")), ["federated.clients=colour", *settings])


def deployed(*settings: str, superlink: str = "nowhere:1") -> Job:
    """The job of the same owners, of whose rows the server has none."""
    wanted = [f"federated.superlink={superlink}", "federated.min_clients=3", *settings]
    return Job.from_document(document(), wanted).resolved()


def ledgers(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """The rows that each owner's own ledger says are learned, as files and offsets, with repeats."""
    found: dict[str, list[tuple[str, int]]] = {}
    for owner in OWNERS:
        for path in (folder / owner).glob("*-state/runs/*/ledger.jsonl"):
            for line in map(json.loads, path.read_text().splitlines()):
                if line["state"] == "learned":
                    rows = found.setdefault(owner, [])
                    rows += [(line["fragment"], row) for start, stop in line["ranges"] for row in range(start, stop)]
    return found


def all_rows(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Every row of every owner."""
    return {
        owner: sorted(
            (path.name, row)
            for path in (folder / owner / "rows").iterdir()
            for row in range(pq.read_metadata(path).num_rows)
        )
        for owner in OWNERS
    }


def each_row_once(folder: Path, run: Path) -> None:
    """Assert it, in the owners' own ledgers, and as many in the server's, with the owners' hashes."""
    learned = {owner: sorted(rows) for owner, rows in ledgers(folder).items()}
    assert learned == all_rows(folder)
    counted: dict[str, list[int]] = {}
    for entry in pq.read_table(run / "ledger").to_pylist():
        assert entry["participant"] == entry["fragment"]
        for part in entry["ranges"]:
            counted.setdefault(entry["fragment"], []).extend(range(part["start"], part["stop"]))
    assert {owner: sorted(rows) for owner, rows in counted.items()} == {
        owner: list(range(len(rows))) for owner, rows in learned.items()
    }
