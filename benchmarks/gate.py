"""The gate's decisions on poisoned and on healthy streams.

    python -m benchmarks.gate                                 every run not made yet, and the tables
    python -m benchmarks.gate --parts poisoned --poisons flipped

healthy: a year of `examples/flights/job.toml`, a version a week or a day; stationary: a stream of one constant concept,
60 days of 300 rows, by seeds. No version should be held.

poisoned: January to May, a version a day, with one poisoned week in April: its labels flipped; a column in another unit
(`duration` in seconds); or a column frozen (`minute_of_day`). `gate off` learns the week. `go_on` holds the versions
that have learned it. `rollback` sets the rows aside and goes back. The twin is a run over the same files without that
week. Clean days begin with the second one after it, because labels of the week's last flights arrive on the first. AUC
is the mean of the clean days, weighted by rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.scores import Scores
from examples.flights.prepare import main as prepare
from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import Run, open_run

RESULTS = Path(__file__).parent / "results" / "gate.json"
FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"
BEGINS, ENDS, UNTIL = "2013-04-08", "2013-04-14", "2013-06-01"
"""The week that is poisoned, by its first day and its last, and the end of the stream."""
CLEAN = "2013-04-16"
GATES: dict[str, list[str]] = {
    "gate off": ["publish.gate=false"],
    "go_on": ["publish.gate=true"],
    "rollback": ["publish.gate=true", "publish.on_hold=rollback"],
}


def flipped(day: pa.Table) -> pa.Table:
    return _with(day, "late", pc.subtract(1, day["late"]))


def in_another_unit(day: pa.Table) -> pa.Table:
    return _with(day, "duration", pc.multiply(pc.cast(day["duration"], pa.int32()), 60))


def frozen(day: pa.Table) -> pa.Table:
    return _with(day, "minute_of_day", pa.array(np.full(len(day), 600), pa.int16()))


POISONS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "flipped": flipped,
    "in another unit": in_another_unit,
    "frozen": frozen,
}


def _with(day: pa.Table, name: str, values: Any) -> pa.Table:
    return day.set_column(day.column_names.index(name), name, values)


def flights(folder: Path, poison: str | None) -> None:
    """The days up to UNTIL in a folder, with the week poisoned, or without it (None)."""
    for file in sorted((FLIGHTS / "data").glob("2013-??-??.parquet")):
        if file.stem >= UNTIL or (poison is None and BEGINS <= file.stem <= ENDS):
            continue
        day = pq.read_table(file)
        if poison is not None and BEGINS <= file.stem <= ENDS:
            day = POISONS[poison](day)
        pq.write_table(day, folder / file.name)


def run_flights(data: Path, settings: Sequence[str], out: Path) -> dict[str, Any]:
    """Learn flights; what came out of it, and the CPU seconds that it took."""
    job = Job.read(FLIGHTS / "job.toml", [f"stream.path={data}/*.parquet", "baselines={}", *settings])
    begun = time.process_time()
    Run(out, job.resolved()).run()
    return {"cpu_seconds": round(time.process_time() - begun, 1), **told(out)}


def told(out: Path) -> dict[str, Any]:
    """How many versions there are, which were held, and the AUC over all rows."""
    directory = RunDirectory.open(out)
    versions = directory.versions()
    held = [str(found["name"]) for found in versions if not found.get("gate", {"promoted": True})["promoted"]]
    events = directory.table("events")
    aside = events.filter(pc.equal(events["kind"], "held"))["name"].to_pylist() if events.num_rows else []
    auc = [row["total.auc"] for row in directory.table("metrics").to_pylist()][-1]
    return {"versions": len(versions), "held": sorted({*held, *aside}), "auc": round(auc, 4)}


def auc_of_clean_days(out: Path) -> float:
    rows = RunDirectory.open(out).table("metrics").to_pylist()
    rows = [row for row in rows if not row["warm"] and row["name"] >= CLEAN and row["metric.auc"] is not None]
    scored = [row["rows_scored"] for row in rows]
    return float(np.average([row["metric.auc"] for row in rows], weights=scored))


def stationary(seed: int, out: Path) -> dict[str, Any]:
    """60 days of 300 rows of one concept, with noise and a column that tells nothing."""
    draw = np.random.default_rng(seed)
    weights, days = draw.normal(size=6), []
    for _ in range(60):
        x = draw.normal(size=(300, 6))
        late = x[:, :5] @ weights[:5] + draw.logistic(size=300) > 0
        days.append({**{f"x{column}": x[:, column] for column in range(6)}, "late": late.astype(np.int64)})
    open_run(out, stream=days, label="late", classes=[0, 1], seed=seed, publish={"gate": True}).run()
    return told(out)


def poisoned(kept: Scores, poisons: Sequence[str], gates: Sequence[str]) -> None:
    twin = _kept(kept, {"part": "poisoned", "poison": "none", "gate": "twin"}, lambda: _poisoned(None, []))
    print(f"\n{'poisoned week':<18}{'gate':<10}{'AUC of clean days':>18}{'twin':>8}{'held from':>12}{'to':>12}")
    for poison in poisons:
        for gate in gates:
            run = {"part": "poisoned", "poison": poison, "gate": gate}
            found = _kept(kept, run, partial(_poisoned, poison, GATES[gate]))
            first, last = (found["held"][0], found["held"][-1]) if found["held"] else ("-", "-")
            print(f"{poison:<18}{gate:<10}{found['clean_auc']:>18.4f}{twin['clean_auc']:>8.4f}{first:>12}{last:>12}")


def _poisoned(poison: str | None, settings: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        data, out = Path(place) / "data", Path(place) / "run"
        data.mkdir()
        flights(data, poison)
        found = run_flights(data, ["publish.every=1", *settings], out)
        return {**found, "clean_auc": round(auc_of_clean_days(out), 4)}


def _kept(kept: Scores, run: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The scores of a run, made now where they were not made before."""
    found: dict[str, Any] | None = kept.find(dict(run))
    if found is None:
        found = make()
        kept.add(dict(run), found)
    return found


def healthy(kept: Scores, every: Sequence[int]) -> None:
    print(f"\n{'flights, a year':<28}{'versions':>9}{'held':>6}{'AUC':>8}{'CPU s':>8}")
    for days in every:
        for gate in ("gate off", "go_on"):
            settings = (f"publish.every={days}", *GATES[gate])
            found = _kept(kept, {"part": "healthy", "every": days, "gate": gate}, partial(_healthy, settings))
            shown = f"every {days} days, {'gate off' if gate == 'gate off' else 'gate on'}"
            print(
                f"{shown:<28}{found['versions']:>9}{len(found['held']):>6}{found['auc']:>8.4f}{found['cpu_seconds']:>8}"
            )


def _healthy(settings: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        return run_flights(FLIGHTS / "data", settings, Path(place) / "run")


def stationary_streams(kept: Scores, seeds: Sequence[int]) -> None:
    found = [_kept(kept, {"part": "stationary", "seed": seed}, partial(_stationary, seed)) for seed in seeds]
    versions, held = sum(one["versions"] for one in found), sum(len(one["held"]) for one in found)
    print(f"\nstationary: {len(found)} seeds, {versions} versions, {held} held")


def _stationary(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        return stationary(seed, Path(place) / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["stationary", "poisoned", "healthy"]
    parser.add_argument("--parts", nargs="*", default=parts, choices=parts)
    parser.add_argument("--poisons", nargs="*", default=list(POISONS), choices=list(POISONS))
    parser.add_argument("--gates", nargs="*", default=list(GATES), choices=list(GATES))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(20)))
    parser.add_argument("--every", nargs="*", type=int, default=[7, 1])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kept = Scores(arguments.out, {})
    if "stationary" in arguments.parts:
        stationary_streams(kept, arguments.seeds)
    if {"poisoned", "healthy"} & {*arguments.parts}:
        prepare(["--out", str(FLIGHTS / "data")])
    if "poisoned" in arguments.parts:
        poisoned(kept, arguments.poisons, arguments.gates)
    if "healthy" in arguments.parts:
        healthy(kept, arguments.every)


if __name__ == "__main__":
    main()
