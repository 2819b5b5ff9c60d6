"""`incr serve --on cluster`: replicas of Ray Serve answer as the server of one host does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray.serve")
pytest.importorskip("httptools")

from incr_core.commands.cli import main
from incr_core.registry import RunDirectory
from tests.support.asked import ROW, learned
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.served import ask, serving

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.flower]


def test_replicas_answer_swap_and_share_a_journal(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    from tests.support.postgres import postgres

    out, data = learned(tmp_path, every=20), tmp_path / "labelled"
    with serving(out) as url:
        expected = ask(f"{url}/predict", {"rows": [ROW, {**ROW, "at": "soon"}]})
        schema = ask(f"{url}/openapi.json")
    with postgres() as database:
        options = ["--on", "cluster", "--workers", "2", "--port", str(free_port())]
        options += ["--journal", database.url, "--labelled", str(data), "--join-every", "0.2"]
        with serving(out, *options) as url:
            answers = [ask(f"{url}/predict", {"rows": [ROW, {**ROW, "at": "soon"}]}) for _ in range(10)]
            ids = [answer.pop("ids")[0] for answer in answers]
            assert answers == [expected] * 10
            assert len(set(ids)) == 10
            for name in ids:  # at whichever replica
                assert ask(f"{url}/feedback", {"id": name, "label": 1}) == {"accepted": 1, "refused": []}
            assert ask(f"{url}/feedback", {"id": ids[0], "label": 1})[0] == 409
            assert ask(f"{url}/predict", {"rows": []})[0] == 422
            assert set(ask(f"{url}/openapi.json")["paths"]) == {*schema["paths"], "/feedback"}
            RunDirectory.open(out).promote(1)
            wait_until(lambda: all(ask(f"{url}/version")["version"] == 1 for _ in range(8)))
        # The files are written when the replicas end, too.
        assert _labels(data) == 10
        assert database.query("SELECT count(*) FROM incr.labels") == [(10,)]


def _labels(data: Path) -> int:
    return sum(pq.read_table(path).num_rows for path in data.glob("*.parquet"))


def test_what_cannot_be_served_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused: dict[str, list[Any]] = {
        "expected postgresql:// with --on cluster": ["--on", "cluster", "--journal", str(tmp_path)],
        "got federated, which serves nothing": ["--on", "federated"],
        "expected a run directory, found none": ["--on", "cluster"],
    }
    for told, options in refused.items():
        assert main(["serve", str(tmp_path / "run"), *options]) == 2
        assert told in capsys.readouterr().err
