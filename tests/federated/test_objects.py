"""Flower clients are told a job in words: what has no name is refused before any is started."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from torch import nn

from federated import Federated
from federated.engine import FederatedEngine
from incr_core import open_run
from incr_core.errors import JobError
from incr_core.runs._engine_choice import engine_chosen
from tests.support.made_up import made_up

pytestmark = pytest.mark.flower


def test_objects_do_not_travel_to_clients(tmp_path: Path) -> None:
    table = made_up(40)
    found = open_run(tmp_path / "run", stream=table, label="tall", model=nn.Linear(2, 1), numeric=["height", "weight"])
    with pytest.raises(
        JobError,
        match=r"on: expected a job whose parts have names that clients can look up, got objects of this process "
        r'\(stream, torch.nn.modules.linear.Linear\); name models and strategies by "module:name" and rows by a path',
    ):
        found.run(on=Federated(clients="colour"))


def test_the_settings_are_those_of_the_section(tmp_path: Path) -> None:
    pq.write_table(made_up(40), tmp_path / "people.parquet")
    job = open_run(tmp_path / "run", stream=tmp_path / "people.parquet", label="tall").job
    kind, changed = engine_chosen(job, Federated(clients="colour", rounds=2, fraction=0.5, backend="flower", workers=1))
    assert kind is FederatedEngine
    wanted = {"clients": "colour", "rounds": 2, "fraction": 0.5, "backend": "flower", "workers": 1}
    found = changed.federated.model_dump()
    assert found == {**job.federated.model_dump(), **wanted}
    assert found.keys() == {field.name: field for field in fields(Federated)}.keys()
    with pytest.raises(JobError, match=r"federated\.fraction: expected at most 1"):
        engine_chosen(job, Federated(fraction=2.0))
