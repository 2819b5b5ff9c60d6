"""Standing of a server, for Prometheus and for its page: sums over its workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from incr_core.errors import StorageError
from incr_core.serving._journal import Kept
from incr_core.serving._metrics import SHOWN, Metric, exposed, histogram, quantile, summed

if TYPE_CHECKING:
    from incr_core.serving._app import App

__all__ = ["counted", "exposition", "standing", "workers_of"]


def counted(app: App) -> dict[str, Any]:
    """Return the counts of this worker as JSON values, including those of the earlier workers at its place."""
    champion, metrics, before = app.champion, app.metrics, app.before
    own: list[Metric] = [*metrics.told(), *_of_champion(app), *_of_feedback(app), *_of_shadow(app)]
    counters = [one for one in own if one[1] == "counter"]
    return {
        "pid": os.getpid(),
        "version": champion.current.version.number,
        "fault": champion.fault,
        "swaps": champion.swaps,
        "counters": summed([counters, *([before["counters"]] if before else [])]),
        "gauges": [one for one in own if one[1] == "gauge"],
        "buckets": _added(metrics.buckets, before["buckets"]) if before else metrics.buckets,
        "seconds": metrics.seconds + (before["seconds"] if before else 0.0),
        "latencies": metrics.latencies(),
        "shown": list(metrics.shown),
    }


def workers_of(app: App) -> dict[int, dict[str, Any]]:
    """Return the counts of each worker: current for this one, up to a second old for the others."""
    own = counted(app)
    if app.board.workers == 1:
        return {app.worker: own}
    app.board.publish(app.worker, own)  # counters never decrease
    published = {place: app.board.published(place) for place in range(app.board.workers)}
    return {place: one for place, one in published.items() if one is not None} | {app.worker: own}


def exposition(app: App) -> bytes:
    """Return all counts in Prometheus's text format: counters summed over workers, gauges of each worker."""
    workers = workers_of(app)
    several = app.board.workers > 1
    counters = summed([one["counters"] for one in workers.values()])
    gauges = [
        [(name, kind, meaning, [({**labels, "worker": place}, value) for labels, value in values])]
        for place, one in workers.items()
        for name, kind, meaning, values in one["gauges"]
    ]
    own = summed(gauges) if several else workers[app.worker]["gauges"]
    lines = exposed([*counters, *own, *_of_server(app)])
    buckets = [sum(counts) for counts in zip(*(one["buckets"] for one in workers.values()), strict=True)]
    lines += histogram(buckets, sum(one["seconds"] for one in workers.values()))
    return ("\n".join(lines) + "\n").encode()


def standing(app: App) -> dict[str, Any]:
    """Return the content of the page."""
    champion, workers = app.champion, workers_of(app)
    counters = {name: values for name, _, _, values in summed([one["counters"] for one in workers.values()])}
    requests = counters["incr_requests_total"]
    latencies = [seconds for one in workers.values() for seconds in one["latencies"]]
    shown = [answer for one in workers.values() for answer in one["shown"]]
    feedback = None
    if app.feedback is not None:
        counts = {str(labels["outcome"]): count for labels, count in counters["incr_feedback_total"]}
        kept = _kept(app)
        feedback = {**({} if kept is None else asdict(kept)), **counts, "fault": app.feedback.fault}
    return {
        "directory": str(champion.directory),
        "champion": champion.describe(),
        "fault": next((one["fault"] for one in workers.values() if one["fault"] is not None), None),
        "swaps": max(one["swaps"] for one in workers.values()),
        "workers": app.board.workers,
        "requests": sum(count for _, count in requests),
        "refusals": sum(count for labels, count in requests if int(str(labels["status"])) >= 400),
        "rows": counters["incr_rows_total"][0][1],
        "seconds": {name: quantile(latencies, share) for name, share in (("p50", 0.5), ("p99", 0.99))},
        "feedback": feedback,
        "shadow": None if app.shadow is None else app.shadow.describe(),
        "recent": sorted(shown, key=lambda answer: -answer["at"])[:SHOWN],
    }


def _added(one: Iterable[int], other: Iterable[int]) -> list[int]:
    return [left + right for left, right in zip(one, other, strict=True)]


def _kept(app: App) -> Kept | None:
    """Return the counts of the journal; None while it cannot be read."""
    assert app.feedback is not None
    with suppress(StorageError):
        return app.feedback.journal.kept()
    return None


def _of_champion(app: App) -> Iterable[Metric]:
    champion = app.champion
    manifest = champion.current.version.manifest
    age = time.time() - datetime.fromisoformat(manifest["created"]).timestamp()
    yield "incr_champion_version", "gauge", "The version that answers.", [({}, champion.current.version.number)]
    yield "incr_champion_age_seconds", "gauge", "Since the version that answers was made.", [({}, age)]
    yield (
        "incr_champion_stale",
        "gauge",
        "1 where the champion cannot be read.",
        [({}, int(champion.fault is not None))],
    )
    yield "incr_swaps_total", "counter", "Changes of the champion.", [({}, champion.swaps)]
    yield "incr_forwards_total", "counter", "Forwards of the model.", [({}, app.batches.forwards)]


def _of_shadow(app: App) -> Iterable[Metric]:
    return () if app.shadow is None else app.shadow.told()


def _of_feedback(app: App) -> Iterable[Metric]:
    if app.feedback is None:
        return
    counts = [({"outcome": outcome}, count) for outcome, count in sorted(app.feedback.counts.items())]
    yield "incr_feedback_total", "counter", "Labels received, by outcome.", counts


def _of_server(app: App) -> Iterable[Metric]:
    """Yield the metrics that all workers share."""
    yield "incr_requests_under_way", "gauge", "Requests that are not answered yet.", [({}, app.board.inside)]
    if app.board.workers > 1:
        yield "incr_workers", "gauge", "Processes that answer.", [({}, app.board.workers)]
        yield "incr_workers_replaced_total", "counter", "Processes that ended.", [({}, app.board.replaced)]
    if app.feedback is None:
        return
    kept = _kept(app)
    yield "incr_journal_failing", "gauge", "1 where the journal cannot be read.", [({}, int(kept is None))]
    if kept is not None:
        yield "incr_journal_predictions_total", "counter", "Predictions journalled, ever.", [({}, kept.predicted)]
        yield "incr_journal_labelled_total", "counter", "Labels joined, ever.", [({}, kept.labelled)]
        yield "incr_journal_waiting", "gauge", "Predictions kept that have no label yet.", [({}, kept.waiting)]
        yield "incr_journal_dropped_total", "counter", "Predictions dropped without a label.", [({}, kept.dropped)]
