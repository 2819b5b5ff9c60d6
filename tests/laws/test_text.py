"""Laws 2 and 3 for texts and times, which have no vocabulary to disagree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.engines import LocalEngine
from incr_core.job import Job
from tests.support.cluster_runs import farthest, learned_locally, learned_on_cluster
from tests.support.federated_runs import finish

pytest.importorskip("flwr.app")

from federated.engine import FederatedEngine
from tests.support.in_process_grid import InProcessGrid


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews of which a word decides whether they are good, and "not" before it the opposite."""
    draw = np.random.default_rng(0)
    others = np.array(["the", "a", "very", "it", "was", "and", "came", "again", "box", "slow", "quick", "item"])
    good = draw.random(500) < 0.5
    turned = draw.random(500) < 0.5
    texts = [
        " ".join([*draw.choice(others, 4), *["not"] * int(t), "great" if g != t else "awful", *draw.choice(others, 3)])
        for g, t in zip(good, turned, strict=True)
    ]
    at = np.datetime64("2026-01-01", "s") + np.arange(500) * np.timedelta64(600, "s")
    path = tmp_path_factory.mktemp("reviews") / "reviews.parquet"
    pq.write_table(pa.table({"at": at, "body": texts, "stars": draw.normal(size=500), "good": good}), path)
    return path


def job(path: Path, *settings: str) -> Job:
    document = {
        "stream": {"path": str(path), "every": 100},
        "features": {"label": "good", "numeric": ["stars"], "date": ["at"], "text": ["body"], "text_buckets": 500},
        "model": {"hidden": [8], "embedding": 4},
        "learner": {"objective": "binary", "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.02}},
        "strategy": [{"name": "replay", "capacity": 60}],
        "cluster": {"timeout": 600},
    }
    return Job.from_document(document, settings).resolved()


@pytest.mark.flower
@pytest.mark.parametrize("strategy", ["replay", "ewc"])
def test_law_3_one_client_equals_local_bit_for_bit(reviews: Path, tmp_path: Path, strategy: str) -> None:
    text = job(reviews, "federated.clients=blocks:1", f"strategy=[{{name='{strategy}'}}]")
    local = finish(text, tmp_path / "local", LocalEngine)
    federated = finish(text, tmp_path / "federated", lambda job, out: FederatedEngine(job, out, InProcessGrid(1)))
    assert (federated.sha256, federated.score) == (local.sha256, local.score)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_law_2_two_replicas_averaging_every_step_equal_two_micro_batches(reviews: Path, tmp_path: Path) -> None:
    plain = ["learner.shuffle=false", "strategy=[]"]
    cluster = learned_on_cluster(job(reviews, *plain, "cluster.average_every=1"), tmp_path)
    local = learned_locally(job(reviews, *plain, "learner.accumulate=2"), tmp_path)
    assert farthest(cluster, local) < 1e-5
    assert farthest(cluster, learned_locally(job(reviews, *plain), tmp_path)) > 1e-3
