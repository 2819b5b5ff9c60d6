"""How a server stands, for Prometheus and for its page."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from incr_core.serving._metrics import Metric, exposed

if TYPE_CHECKING:
    from incr_core.serving._app import App

__all__ = ["exposition", "standing"]


def exposition(app: App) -> bytes:
    """All that a server counts, in Prometheus's text format."""
    lines = [*exposed([*app.metrics.told(), *_of_champion(app), *_of_feedback(app), *_of_shadow(app)])]
    lines += app.metrics.histogram()
    return ("\n".join(lines) + "\n").encode()


def standing(app: App) -> dict[str, Any]:
    """What the page shows."""
    champion, metrics = app.champion, app.metrics
    feedback = None
    if app.feedback is not None:
        feedback = {**asdict(app.feedback.journal.kept()), **app.feedback.counts, "fault": app.feedback.fault}
    return {
        "directory": str(champion.directory),
        "champion": champion.describe(),
        "fault": champion.fault,
        "swaps": champion.swaps,
        "requests": sum(metrics.requests.values()),
        "refusals": sum(count for (_, status), count in metrics.requests.items() if status >= 400),
        "rows": metrics.rows,
        "seconds": {name: metrics.quantile(share) for name, share in (("p50", 0.5), ("p99", 0.99))},
        "feedback": feedback,
        "shadow": None if app.shadow is None else app.shadow.describe(),
        "recent": list(metrics.shown),
    }


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
    yield "incr_swaps_total", "counter", "Champions that took another's place.", [({}, champion.swaps)]
    yield "incr_forwards_total", "counter", "Forwards of the model.", [({}, app.batches.forwards)]
    yield "incr_requests_under_way", "gauge", "Requests that are not answered yet.", [({}, app.guard.inside)]


def _of_shadow(app: App) -> Iterable[Metric]:
    return () if app.shadow is None else app.shadow.told()


def _of_feedback(app: App) -> Iterable[Metric]:
    if app.feedback is None:
        return
    counts = [({"outcome": outcome}, count) for outcome, count in sorted(app.feedback.counts.items())]
    kept = app.feedback.journal.kept()
    yield "incr_feedback_total", "counter", "Labels that were told, by what became of them.", counts
    yield "incr_journal_predictions_total", "counter", "Predictions journalled, ever.", [({}, kept.predicted)]
    yield "incr_journal_labelled_total", "counter", "Labels joined, ever.", [({}, kept.labelled)]
    yield "incr_journal_waiting", "gauge", "Predictions kept that have no label yet.", [({}, kept.waiting)]
    yield "incr_journal_dropped_total", "counter", "Predictions dropped without a label.", [({}, kept.dropped)]
