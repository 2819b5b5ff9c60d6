"""Jobs with ids, as a person runs them: learned, recommended from, and refused by name where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.commands.cli import main
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.metrics import catalogue_metrics, catalogue_statistics
from incr_core.runs import Version, run

ROWS, USERS, ITEMS = 4000, 60, 40


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Even users choose even items and rate them high, odd users odd ones; small numbers are chosen most."""
    draw = np.random.default_rng(0)
    user = draw.integers(0, USERS, ROWS)
    item = np.minimum(draw.geometric(0.15, ROWS) - 1, ITEMS // 2 - 1) * 2 + user % 2
    rating = 3 + 0.5 * draw.normal(size=USERS)[user] + 0.3 * draw.normal(size=ROWS) + np.where(item % 4 < 2, 1.0, -1.0)
    table = pa.table({"user": user, "item": [f"i{one}" for one in item], "chosen": np.ones(ROWS), "rating": rating})
    path = tmp_path_factory.mktemp("choices") / "choices.parquet"
    pq.write_table(table, path)
    return path


def document(path: Path, **model: Any) -> dict[str, Any]:
    return {
        "stream": {"path": str(path), "every": 200},
        "features": {"label": "rating", "ids": ["user", "item"], "item": ["item"], "id_rows": 100},
        "model": {"kind": "factorisation", **model},
        "learner": {"objective": "regression"},
    }


def ranking(path: Path) -> dict[str, Any]:
    asked = document(path, kind="two_towers", hidden=[], dimension=8)
    asked["features"]["label"] = "chosen"
    asked["learner"] = {"objective": "ranking", "batch_size": 64}
    return asked


@pytest.fixture(scope="module")
def ranked(choices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranked") / "run"
    run(Job.from_document(ranking(choices)).resolved(), out)
    return out


@pytest.fixture(scope="module")
def rated(choices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rated") / "run"
    run(Job.from_document(document(choices)).resolved(), out)
    return out


def test_items_are_ranked_among_all_and_better_than_by_popularity(choices: Path, tmp_path: Path) -> None:
    found = run(Job.from_document(ranking(choices)).resolved(), tmp_path / "run").summary.prequential
    assert 20 < found["items"] <= ITEMS
    assert found["recall@5"] > found["popularity recall@5"] + 0.15
    assert found["ndcg@5"] > found["popularity ndcg@5"] + 0.1


def test_standing_is_that_of_a_full_sort(ranked: Path) -> None:
    version = Version.load(ranked)
    table = version.learner.id_tables["item.tables.0"]
    rows = version.encoded(pa.table({"user": [3, 4], "item": ["i1", "strange"]}), "here").batch
    first, strange = version.learner.predict(rows.inputs).tolist()
    names = [f"i{one}" for one in range(ITEMS)]
    scores = version.predict(pa.table({"user": [3] * ITEMS, "item": names}))["score"].to_numpy()
    keys = version.job.encoder.keys({"item": pa.chunked_array([names])}, "here")[:, 0]
    known = (table.rows_of(keys) > 0).numpy()
    assert first[0] == pytest.approx(scores[1], abs=1e-5)
    assert first[1] == (scores[known] > scores[1]).sum()
    assert first[5] == strange[5] == known.sum()
    seen = table.seen[table.rows_of(keys)].numpy()
    assert first[3] == (seen[known] > seen[1]).sum()
    assert strange[1:3] == [known.sum(), 0]


def test_metrics_of_a_catalogue_in_closed_form() -> None:
    standing = torch.tensor([[0.0, 0, 4, 0, 30], [4, 1, 0, 0, 30], [30, 0, 30, 0, 30]])
    found = catalogue_metrics(catalogue_statistics(standing))
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@5"] == pytest.approx(1.5 / 3)
    fifth, sixth = 1 / np.log2(6), 1 / np.log2(7)
    assert found["ndcg@5"] == pytest.approx((1 + 0.5 * fifth) / 3)
    assert found["ndcg@10"] == pytest.approx((1 + 0.5 * (fifth + sixth)) / 3)
    assert found["popularity ndcg@10"] == pytest.approx((fifth + 1) / 3)
    halves = [catalogue_statistics(part)["sums"] for part in (standing[:1], standing[1:])]
    assert np.array_equal(sum(halves), catalogue_statistics(standing)["sums"])


def test_recommended_are_the_best_that_the_user_has_not_seen(
    ranked: Path, choices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(ranked), "--user", "3", "-k", "5", "--with-seen"]) == 0
    every = capsys.readouterr().out.splitlines()
    assert every[0] == '"item","score"'
    items = [line.split(",")[0].strip('"') for line in every[1:]]
    assert len(items) == 5
    assert all(int(item[1:]) % 2 == 1 for item in items)
    scores = [float(line.split(",")[1]) for line in every[1:]]
    assert scores == sorted(scores, reverse=True)
    rows = pq.read_table(choices)
    seen = {row["item"] for row in rows.to_pylist() if row["user"] == 3}
    assert set(items) <= seen | {f"i{one}" for one in range(ITEMS)}
    assert main(["recommend", str(ranked), "--user", "3", "-k", "40"]) == 0
    printed = capsys.readouterr()
    others = [line.split(",")[0].strip('"') for line in printed.out.splitlines()[1:]]
    assert not seen.intersection(others)
    assert f"{len(others)} items that the user has not seen" in printed.err


def test_ratings_are_recommended_by_what_is_predicted(rated: Path, choices: Path) -> None:
    version = Version.load(rated)
    best = version.recommend(4, 6, with_seen=True)
    assert best.column_names == ["item", "value"]
    told = version.predict(pa.table({"user": [4] * 6, "item": best["item"]}))["value"].to_pylist()
    assert best["value"].to_pylist() == pytest.approx(told)
    assert sum(int(item[1:]) % 4 < 2 for item in best["item"].to_pylist()) == 6
    assert version.recommend("nobody", 3).num_rows == 3
    elsewhere = choices.with_name("few.parquet")
    pq.write_table(pq.read_table(choices).slice(0, 1), elsewhere)
    assert version.recommend("nobody", 3, rows=elsewhere).num_rows == 1


def test_ids_are_predicted_evaluated_and_erased(rated: Path, choices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = Version.load(rated)
    mixed = pa.table({"user": ["3", "3", None], "item": ["i1", "new", "i1"]})
    assert version.predict(mixed)["value"].null_count == 0
    assert version.evaluate(choices)["mae"] < 0.5
    with pytest.raises(JobError, match=r"features\.ids: expected a model without tables of ids to export"):
        version.export(str(rated.parent / "exported"))
    assert main(["forget", str(rated), "--where", "user=3"]) == 0
    assert main(["audit", str(rated)]) == 0
    capsys.readouterr()


REFUSED = {
    "model.kind=auto": r'features\.ids: expected a model that looks ids up, got model\.kind = "auto"',
    "cluster.shards=2": r"features\.ids: expected cluster\.shards = 1",
    "learner.objective=ranking": r'model\.kind = "factorisation": expected learner\.objective = "regression"',
    "features.ids=[]": r'model\.kind = "factorisation": expected features\.ids',
    "model.kind=two_towers": r'model\.kind = "two_towers": expected learner\.objective = "ranking", got "regression"',
    "federated.privacy={epsilon=8.0}": r"features\.ids: expected neither federated\.privacy nor",
    "learner.head=ridge": r"features\.ids: expected no learner\.head|model.kind",
    "features.numeric=['item']": r"expected every column once, got item twice",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_cannot_be_is_refused_by_name(choices: Path, setting: str) -> None:
    asked = document(choices)
    asked["features"]["item"] = []
    with pytest.raises(JobError, match=REFUSED[setting]):
        Job.from_document(asked, [setting]).resolved().learner_for(0)


def test_no_part_of_a_table_is_a_participants_own(choices: Path) -> None:
    job = Job.from_document(document(choices)).resolved()
    with pytest.raises(
        JobError, match=r"personal: expected patterns .* got 'tables\.\*', which means none; there are bias"
    ):
        job.participant(personal=["tables.*"])
    assert job.participant(personal=["bias"]).personal == {"model.bias"}


def test_a_job_that_names_no_item_cannot_recommend(choices: Path, tmp_path: Path) -> None:
    asked = document(choices)
    asked["features"]["item"] = []
    run(Job.from_document(asked, ["stream.every=2000"]).resolved(), tmp_path / "run")
    with pytest.raises(JobError, match=r"recommend: expected a job that names one id as the item and one as the user"):
        Version.load(tmp_path / "run").recommend(3)


def test_ids_have_another_default_optimiser(choices: Path) -> None:
    job = Job.from_document(document(choices))
    assert (job.learner.optimizer.name, job.learner.optimizer.arguments) == ("adagrad", {"lr": 0.15})
    assert Job.from_document(document(choices), ["learner.optimizer=adam"]).learner.optimizer.name == "adam"


def test_a_user_without_a_row_is_ranked_as_new_and_said_to_be(ranked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(ranked), "--user", "zzz", "-k", "3"]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 4
    assert told.err == "incr: no row has user=zzz; ranked as for a new user\n"
    assert main(["recommend", str(ranked), "--user", "4", "-k", "3"]) == 0
    assert capsys.readouterr().err == ""
