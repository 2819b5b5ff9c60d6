"""Counts of a server's work, for Prometheus."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["SHOWN", "Metric", "Metrics", "exposed", "histogram", "quantile", "summed"]

Metric = tuple[str, str, str, Sequence[tuple[Mapping[str, object], float]]]
"""Name, kind, meaning and values of a metric, each with its labels."""

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the buckets of latencies, in seconds."""

RECENT = 1000
"""Number of latencies that are stored for quantiles."""

SHOWN = 12
"""Number of answers on the page."""


class Metrics:
    """Requests by path and status, latencies of predictions, and rows.

    Example:
        >>> metrics = Metrics()
        >>> metrics.answered("/predict", 200, 0.002)
        >>> metrics.requests["/predict", 200], metrics.buckets[:4], metrics.latencies()
        (1, [0, 0, 1, 0], [0.002])
    """

    def __init__(self) -> None:
        self.began = time.time()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.rows, self.refused = 0, 0
        self.shown: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        """The latest answers: for each request the answer to its first row."""
        self._recent: deque[float] = deque(maxlen=RECENT)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request to a path."""
        self.requests[path, status] += 1
        if path == "/predict":
            self.buckets[bisect_left(BOUNDS, seconds)] += 1
            self.seconds += seconds
            self._recent.append(round(seconds, 6))

    def predicted(self, answer: Mapping[str, Any]) -> None:
        """Count predicted and refused rows."""
        self.rows += len(answer["predictions"])
        self.refused += len(answer["refused"])
        self.shown.appendleft({"at": time.time(), "version": answer["version"], "answer": answer["predictions"][0]})

    def latencies(self) -> list[float]:
        """Return the latencies of the recent predictions, in seconds."""
        return list(self._recent)

    def told(self) -> Iterable[Metric]:
        """Yield name, kind, meaning and values of each metric."""
        requests = [
            ({"path": path, "status": status}, count) for (path, status), count in sorted(self.requests.items())
        ]
        yield "incr_requests_total", "counter", "Requests answered.", requests
        yield "incr_rows_total", "counter", "Rows asked to be predicted.", [({}, self.rows)]
        yield "incr_rows_refused_total", "counter", "Rows of these without an answer.", [({}, self.refused)]
        yield "incr_uptime_seconds", "gauge", "Since the server began.", [({}, time.time() - self.began)]


def quantile(latencies: Sequence[float], share: float) -> float | None:
    """Return the latency below which a share of the latencies is; None without any.

    Example:
        >>> quantile([0.001, 0.004, 0.002], 0.5), quantile([], 0.5)
        (0.002, None)
    """
    ordered = sorted(latencies)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


def histogram(buckets: Sequence[int], seconds: float) -> list[str]:
    """Return the lines of the latencies of predictions: their number below each bound, and their sum.

    Example:
        >>> histogram([1, *[0] * 13], 0.0004)[1]
        'incr_predict_seconds_bucket{le="0.0005"} 1'
    """
    name, below, lines = "incr_predict_seconds", 0, ["# TYPE incr_predict_seconds histogram"]
    for bound, count in zip((*BOUNDS, "+Inf"), buckets, strict=True):
        below += count
        lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
    return [*lines, f"{name}_sum {seconds!r}", f"{name}_count {below}"]


def summed(some: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Return metrics with the values of equal names and labels added.

    Example:
        >>> summed([[("rows_total", "counter", "Rows.", [({}, 3)])], [("rows_total", "counter", "Rows.", [({}, 4)])]])
        [('rows_total', 'counter', 'Rows.', [({}, 7)])]
    """
    found: dict[str, tuple[str, str, dict[tuple[tuple[str, object], ...], float]]] = {}
    for metrics in some:
        for name, kind, meaning, values in metrics:
            _, _, totals = found.setdefault(name, (kind, meaning, {}))
            for labels, value in values:
                key = tuple(labels.items())
                totals[key] = totals.get(key, 0) + value
    return [
        (name, kind, meaning, [(dict(key), value) for key, value in totals.items()])
        for name, (kind, meaning, totals) in found.items()
    ]


def exposed(metrics: Iterable[Metric]) -> list[str]:
    """Return metrics as lines of Prometheus's text format.

    Example:
        >>> exposed([("rows_total", "counter", "Rows.", [({"of": "x"}, 3)])])
        ['# HELP rows_total Rows.', '# TYPE rows_total counter', 'rows_total{of="x"} 3']
    """
    lines = []
    for name, kind, meaning, values in metrics:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        for labels, value in values:
            inside = ",".join(f'{label}="{told}"' for label, told in labels.items())
            lines.append(f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}")
    return lines
