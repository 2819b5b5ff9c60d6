"""Trackers of a run in a store: what they keep is in the store, for the next process."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from incr_core.trackers import Commit, Tracker
from tests.support.made_up import made_up
from tests.support.processes import begin


class Versions(Tracker):
    """Writes the number of each version to a file that the environment names."""

    def follow(self, commit: Commit) -> None:
        with open(os.environ["INCR_TEST_VERSIONS"], "a") as file:
            print(commit.version, self.run.place, file=file)


def test_another_process_delivers_what_is_new(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("INCR_TEST_VERSIONS", str(tmp_path / "versions"))
    data, command = tmp_path / "data", ["run", str(tmp_path / "job.toml"), "--out", f"{place}/people", "--quiet"]
    data.mkdir()
    document = {
        "stream": {"path": str(data), "settle": "0s"},
        "features": {"label": "tall", "numeric": ["height", "weight"]},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
        "track": {"callbacks": ["tests.stores.test_trackers:Versions"], "tensorboard": True},
    }
    (tmp_path / "job.toml").write_text(tomli_w.dumps(document))
    for number in (1, 2):
        pq.write_table(made_up(100, seed=number), data / f"{number}.parquet")
        assert begin(command).wait() == 0
    assert (tmp_path / "versions").read_text().splitlines() == [f"1 {place}/people", f"2 {place}/people"]
    system, path = fsspec.core.url_to_fs(f"{place}/people/tensorboard")
    assert system.ls(path)
