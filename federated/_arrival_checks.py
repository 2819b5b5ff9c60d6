"""Checks of what a client reports of an increment: counts of rows, statistics and sums for metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from federated._asked import Asked, Known, Refused
from federated._values import LATEST, MOST, MOST_NAMES, check_finite, is_time
from incr_core.metrics import FINE, TRIVIAL
from incr_core.models import ADMITTED, is_id_count
from incr_core.shown import shown

__all__ = ["COUNTS", "check_arrival", "check_sums", "unusual"]

COUNTS = ("labelled", "duplicates", "bad", "arriving", "predicted", "scored")
"""What a client tells of an increment, in rows."""

MOST_DIMENSIONS = 8
"""Of a sum."""

MOST_BAD = 1 << 18
"""Rows in an increment of which it may say that they cannot be used: each has an entry."""

UNUSUAL = 100.0
"""How many times as large as the others' a client's statistics of a row may be: units and kinds of rows differ."""


def unusual(observed: Mapping[int, Mapping[str, Tensor]], rows: Mapping[int, int]) -> dict[int, str]:
    """The clients whose running statistics are too large to be believed, and why; nobody can tell of fewer than three.

    >>> sums = {client: {"model.sums": torch.tensor([10.0, value])} for client, value in enumerate((1.0, 2.0, 1e9))}
    >>> unusual(sums, {0: 10, 1: 20, 2: 10})
    {2: 'statistics of model.sums of 1e+08 a row, where the median is 1; at most 100 is believed'}
    """
    found: dict[int, str] = {}
    tell = [client for client, sums in observed.items() if sums and rows[client]]
    if len(tell) < 3:
        return found
    for name in observed[tell[0]]:
        if is_id_count(name):  # as many rows as the client has told of, which is checked
            continue
        sizes = {
            client: float(sums.double().norm()) / rows[client]
            for client in tell
            if (sums := observed[client].get(name)) is not None
        }
        usual = statistics.median([size for size in sizes.values() if size] or [0.0])
        for client, size in sizes.items():
            if size > UNUSUAL * usual:
                told_of = f"where the median is {usual:.3g}; at most {UNUSUAL * usual:.3g} is believed"
                found.setdefault(client, f"statistics of {name} of {size:.3g} a row, {told_of}")
    return found


def check_arrival(arrival: Any, asked: Asked) -> None:
    """Counts are counts, and sums are finite and of the shapes that the job has."""
    if arrival is None:
        return
    for key in COUNTS:
        most = MOST_BAD if key == "bad" else MOST
        if type(arrival[key]) is not int or not 0 <= arrival[key] < most:
            raise Refused(
                f"{key} = {shown(repr(arrival[key]), 40)}, where a number of rows below {most:,} was expected"
            )
    tick = arrival["tick"]
    if not (is_time(tick["time"]) and isinstance(tick["warm"], bool) and isinstance(tick["name"], str)):
        raise Refused("an increment without a name and a time")
    if not 0 <= float(arrival["seconds"]) < math.inf:
        raise Refused("seconds that are not finite")
    anchor = asked.anchor
    for name, value in arrival["observed"].items():
        if is_id_count(name):
            _check_ids(name, value, arrival["labelled"], anchor)
        elif name not in anchor or (value.shape, value.dtype) != (anchor[name].shape, anchor[name].dtype):
            raise Refused(f"statistics of {shown(name, 40)}, which has none of that shape")
    check_finite(arrival["observed"])
    check_sums(_thick(arrival["statistics"]), asked.known)
    _check_slices(arrival, asked.known)
    probed, probes = arrival["probed"], asked.known.probes
    if probed and [value.shape[1:] for value in probed] != [(2, count) for count in probes]:
        raise Refused(f"probes of other shapes than the {len(probes)} that the job has")
    check_finite(dict(enumerate(probed)))
    tasks = arrival["tasks"]
    if len(tasks) > MOST_NAMES or not all(type(task) is int and abs(task) < LATEST for task in tasks):
        raise Refused("tasks that are no numbers")


def _check_ids(name: str, counts: Tensor, rows: int, anchor: Mapping[str, Tensor]) -> None:
    """Distinct ids, each seen in some of the rows, behind an entry that counts all rows."""
    if name.removesuffix(ADMITTED) + ".keys" not in anchor:
        raise Refused(f"counts of ids of {shown(name, 40)}, which is no table of ids")
    if counts.dtype != torch.int64 or counts.dim() != 2 or counts.shape[1] != 2 or not 1 <= len(counts) <= rows + 1:
        raise Refused("counts of ids that are none")
    keys, times = counts.unbind(1)
    right = int(keys[0]) == 0 and int(times[0]) == rows and bool((times > 0).all())
    if not right or int(times[1:].sum()) > rows or len(torch.unique(keys)) < len(keys):
        raise Refused(f"counts of ids that do not fit {rows} rows")


def _check_slices(arrival: Mapping[str, Any], known: Known) -> None:
    """Slices are of the job, and their counts are counts."""
    for name, (rows, sums) in arrival["sliced"].items():
        if name not in known.slices:
            raise Refused(f"metrics of the slice {shown(name, 40)}, which the job does not name")
        if type(rows) is not int or not 0 < rows <= MOST:
            raise Refused(f"metrics of a slice of {shown(rows, 40)} rows")
        check_sums(sums, known, coarse=True)


def _thick(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Sums, and in place of thinned ones (`_records.thinned`) their values, with as many dimensions, once they fit.

    Nothing of the size that a client states is allocated here.
    """
    found = dict(statistics)
    for name, sums in statistics.items():
        if not isinstance(sums, Mapping):
            continue
        shape, at, values = sums["shape"], sums["at"], sums["values"]
        lengths = isinstance(shape, list) and all(type(length) is int and length > 0 for length in shape)
        size = math.prod(shape) if lengths and 1 <= len(shape) <= MOST_DIMENSIONS else 0
        if not 0 < size <= MOST or not all(isinstance(one, np.ndarray) and one.ndim == 1 for one in (at, values)):
            raise Refused("thinned sums without a shape")
        if len(at) != len(values) or at.dtype != np.int64 or not _ascends(at, size):
            raise Refused("thinned sums at places that are none")
        found[name] = values.reshape(-1, *[1] * (len(shape) - 1))
    return found


def _ascends(places: np.ndarray[Any, Any], size: int) -> bool:
    return not len(places) or bool(places[0] >= 0 and places[-1] < size and (np.diff(places) > 0).all())


def check_sums(statistics: Mapping[str, Any], known_of: Known, *, coarse: bool = False) -> None:
    """Sums for the job's metrics are finite and of their dimensions; coarse: without those of `metrics.FINE`."""
    told_of, known = dict(statistics), known_of.sums
    if coarse:
        known = {name: dimensions for name, dimensions in known.items() if name not in FINE}
    trivial = told_of.get(TRIVIAL)
    if coarse and trivial is not None:
        raise Refused("sums for other metrics than the job's")
    if isinstance(trivial, np.ndarray) and trivial.dtype.kind == "f" and trivial.shape == known_of.trivial:
        if not np.isfinite(told_of.pop(TRIVIAL)).all():
            raise Refused("sums for metrics that are not finite")
    elif trivial is not None:
        raise Refused("sums for other metrics than the job's")
    for name, sums in told_of.items():
        if not isinstance(sums, np.ndarray) or sums.dtype.kind not in "fiu" or sums.size > MOST:
            raise Refused("sums for metrics that are no numbers")
        if not np.isfinite(sums).all():
            raise Refused("sums for metrics that are not finite")
        if known and known.get(name) != sums.ndim:
            raise Refused("sums for other metrics than the job's")
    if told_of and known and told_of.keys() != known.keys():
        raise Refused("sums for other metrics than the job's")
