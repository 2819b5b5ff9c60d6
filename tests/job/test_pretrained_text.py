"""A frozen pretrained transformer for texts: one path for all who read rows, and the laws."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.data.encoding import Pretrained
from incr_core.engines import LocalEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.runs import Version
from incr_core.serving._asked import Asked, ask
from incr_core.serving._request import rows_in
from tests.support.federated_runs import finish
from tests.support.small_bert import save_small_bert, tickets

pytestmark = [pytest.mark.text, pytest.mark.skipif(find_spec("transformers") is None, reason="needs incr[text]")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    save_small_bert(folder / "small")
    pq.write_table(tickets(), folder / "tickets.parquet")
    return folder


def job(folder: Path, *settings: str) -> Job:
    document: dict[str, Any] = {
        "root": str(folder),
        "stream": {"path": "tickets.parquet", "every": 60},
        "features": {"label": "kind", "numeric": ["hours"], "text": ["body"]},
        "model": {"encoder": "small", "hidden": [16]},
        "learner": {"objective": "multiclass", "epochs": 2},
        "strategy": [{"name": "replay", "capacity": 60}],
    }
    return Job.from_document(document, settings).resolved()


def vectors(encoder: Pretrained, *texts: str | None) -> np.ndarray[Any, Any]:
    return encoder.vectors(pa.chunked_array([list(texts)]), "here")


def test_a_vector_is_the_mean_of_the_last_hidden_states_of_the_text_alone(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = Pretrained(folder / "small")
    found = vectors(encoder, "my parcel is late", None, "dead battery", "")
    tokenizer, body = (kind.from_pretrained(folder / "small") for kind in (AutoTokenizer, AutoModel))
    with torch.no_grad():
        hidden = body.eval()(**tokenizer("my parcel is late", return_tensors="pt")).last_hidden_state
    np.testing.assert_array_equal(found[0], hidden[0].mean(0).numpy())
    assert found.shape == (4, 32)
    assert not found[[1, 3]].any()
    np.testing.assert_array_equal(vectors(encoder, "dead battery")[0], found[2])


def test_the_cache_is_bounded_and_changes_no_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, computed = Pretrained(folder / "small", cache="256B"), list[str]()  # two vectors of 32 numbers
    compute = small._computed

    def counted(text: str) -> Any:
        computed.append(text)
        return compute(text)

    monkeypatch.setattr(small, "_computed", counted)
    texts = ["parcel", "late", "parcel", "van", "parcel", "late"]
    found = vectors(small, *texts)
    assert computed == ["parcel", "late", "van", "late"]
    np.testing.assert_array_equal(found, vectors(Pretrained(folder / "small"), *texts))


def test_law_1_a_run_that_was_stopped_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    whole = finish(job(folder), tmp_path / "whole", LocalEngine)
    finish(job(folder), tmp_path / "parts", LocalEngine, stop_after=2)
    parts = finish(job(folder), tmp_path / "parts", LocalEngine)
    assert (parts.sha256, parts.score) == (whole.sha256, whole.score)


@pytest.mark.flower
def test_law_3_one_client_equals_local_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("flwr.app")
    from federated.engine import FederatedEngine
    from tests.support.in_process_grid import InProcessGrid

    text = job(folder, "federated.clients=blocks:1")
    local = finish(text, tmp_path / "local", LocalEngine)
    federated = finish(text, tmp_path / "federated", lambda job, out: FederatedEngine(job, out, InProcessGrid(1)))
    assert (federated.sha256, federated.score) == (local.sha256, local.score)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_law_3_one_replica_equals_local_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    cluster = pytest.importorskip("cluster.engine")
    local = finish(job(folder), tmp_path / "local", LocalEngine)
    replica = finish(job(folder, "cluster.replicas=1"), tmp_path / "cluster", cluster.ClusterEngine)
    assert (replica.sha256, replica.score) == (local.sha256, local.score)


@pytest.mark.parametrize("settings", [("learner.epochs=6",), ("learner.head.features=200", "learner.epochs=1")])
def test_rows_of_a_file_and_a_request_get_the_same_answers(
    folder: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    more = ["strategy=[]"] if "learner.head.features=200" in settings else []
    finish(job(folder, *settings, *more), tmp_path / "run", LocalEngine)
    version = Version.load(tmp_path / "run")
    new = tickets(30).drop_columns(["kind"])
    pq.write_table(new, tmp_path / "new.parquet")
    answers = version.predict(tmp_path / "new.parquet")
    assert version.evaluate(folder / "tickets.parquet")["accuracy"] > 0.8
    asked = Asked(version)
    [served] = ask([asked.question(rows_in(json.dumps({"rows": new.to_pylist()}).encode(), 100))])
    assert [one["class"] for one in served["predictions"]] == answers["class"].to_pylist()


def test_experts_side_by_side_take_vectors(folder: Path, tmp_path: Path) -> None:
    found = finish(job(folder, "model.kind=auto", "model.hidden=[8]"), tmp_path / "run", LocalEngine)
    assert found.sha256


LORA = 'model.adapt=[{name="peft_lora", rank=4, target=["query", "value"]}]'


@pytest.mark.skipif(find_spec("peft") is None, reason="needs incr[text]")
def test_a_transformer_adapted_by_peft_learns_in_the_model(folder: Path, tmp_path: Path) -> None:
    steps = ["learner.epochs=12", "learner.optimizer={name='adam', lr=0.01}", "model.encoder_tokens=16"]
    adapted = job(folder, LORA, *steps)
    whole = finish(adapted, tmp_path / "whole", LocalEngine)
    finish(adapted, tmp_path / "parts", LocalEngine, stop_after=2)
    parts = finish(adapted, tmp_path / "parts", LocalEngine)
    assert (parts.sha256, parts.score) == (whole.sha256, whole.score)
    version = Version.load(tmp_path / "whole")
    learned = {name for name, weight in version.learner.model.named_parameters() if weight.requires_grad}
    assert learned
    assert all(name.startswith("layers.") or "lora" in name for name in learned)
    moved = [weight for name, weight in version.learner.model.named_parameters() if "lora_B" in name]
    assert any(weight.any() for weight in moved)
    assert version.evaluate(folder / "tickets.parquet")["accuracy"] > 0.7
    asked, new = Asked(version), tickets(20).drop_columns(["kind"])
    [served] = ask([asked.question(rows_in(json.dumps({"rows": new.to_pylist()}).encode(), 100))])
    assert [one["class"] for one in served["predictions"]] == version.predict(new)["class"].to_pylist()


@pytest.mark.flower
@pytest.mark.skipif(find_spec("peft") is None, reason="needs incr[text]")
def test_law_3_holds_for_an_adapted_transformer(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("flwr.app")
    from federated.engine import FederatedEngine
    from tests.support.in_process_grid import InProcessGrid

    text = job(folder, LORA, "federated.clients=blocks:1", "learner.epochs=1")
    local = finish(text, tmp_path / "local", LocalEngine)
    federated = finish(text, tmp_path / "federated", lambda job, out: FederatedEngine(job, out, InProcessGrid(1)))
    assert (federated.sha256, federated.score) == (local.sha256, local.score)


def test_another_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    save_small_bert(tmp_path / "small")
    (tmp_path / "tickets.parquet").write_bytes((folder / "tickets.parquet").read_bytes())
    finish(job(tmp_path), tmp_path / "run", LocalEngine)
    save_small_bert(tmp_path / "small", seed=1)
    with pytest.raises(
        JobError, match=r"model\.encoder: expected the files whose hash is \w+ in .*small, got \w+; put"
    ):
        Version.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "model.encoder=nowhere",
            r"model\.encoder: expected a folder with config\.json, or a name that was downloaded",
        ),
        ("features.text=[]", r"model\.encoder: expected columns in features\.text, got none"),
        ("model.encoder_cache=lots", r"model\.encoder_cache: expected .* size such as"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, settings: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        _ = job(folder, settings).encoder
