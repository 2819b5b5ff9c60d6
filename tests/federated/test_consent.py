"""What an owner agrees to: of all that is not incr's own, its file says what there is."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from federated._client_file import ClientFile
from federated._consent import agreed, offered
from incr_core.errors import JobError
from incr_core.job import Job
from tests.support.federations import document

pytestmark = pytest.mark.flower


def own_file(**allow: Any) -> ClientFile:
    columns = ["at", "height", "weight", "tall"]
    return ClientFile.from_document(
        {"name": "north", "data": {"path": "rows"}, "columns": columns, "allow": allow}, "/srv/north"
    )


def asked(**changes: Any) -> str:
    """A job as a server tells it that says what it likes."""
    job = json.loads(offered(Job.from_document({**document(), "federated": {"superlink": "x:1"}})))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            job[section][name] = value
        else:
            job[section] = value
    return json.dumps(job)


def test_paths_are_the_owners(tmp_path: Path) -> None:
    job = agreed(own_file(), asked(stream__path="/etc/passwd", root="/etc", cluster={"address": "elsewhere"}))
    assert (job.stream.path, job.root) == ("/srv/north/rows", "/srv/north")
    assert job.cluster.address is None
    assert job.federated.superlink is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"features__numeric": ["height", "income"]}, "the column income"),
        ({"features__ids": ["weight"], "features__numeric": ["height"]}, "the ids in the column weight"),
        ({"features__label": "ill"}, "the column ill"),
        ({"stream__label_at": "known"}, "the column known"),
        ({"features__rate": [{"by": ["street"], "window": "1h"}]}, "the column street"),
        ({"model": {"factory": "os:system"}}, "the code os:system"),
        ({"learner__objective": "subprocess:run"}, "the code subprocess:run"),
        ({"features__prepare": "own:rows"}, "the code own:rows"),
        ({"model": {"encoder": "/etc"}}, r"the encoder /etc .allow\.encoders."),
        ({"strategy": [{"name": "replay", "memory": "shutil:rmtree"}]}, "the code shutil:rmtree"),
        ({"learner__optimizer": {"name": "theirs.optim:Sgd"}}, "the code theirs.optim:Sgd"),
        ({"learner__schedule": {"name": "os.path:join"}}, r"the code os\.path:join"),
        (
            {"strategy": [{"name": ["subprocess:run", "os:system"]}]},
            "the code os:system .allow.modules.; the code subprocess:run",
        ),
        ({"model": {"groups": {"deep": [{"name": "os:system"}]}}}, "the code os:system"),
        ({"review": {"rows": "os:system"}}, "the code os:system"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_offered_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(JobError, match=f"client north: expected a job that its file allows, .* asks for {what}"):
        agreed(own_file(), asked(**changes))


def test_columns_of_an_allowed_function_are_not_the_owners() -> None:
    told = asked(features__prepare="tests.support.prepared:with_bmi", features__numeric=["bmi"])
    job = agreed(own_file(modules=["tests.support"]), told)
    assert (job.features.prepare, job.features.numeric) == ("tests.support.prepared:with_bmi", ["bmi"])


def test_an_allowed_encoder_is_that_of_the_owners_folder() -> None:
    told = asked(model={"encoder": "small"}, features__text=["tall"])
    assert agreed(own_file(encoders={"small": "models/small"}), told).model.encoder == "models/small"


def test_code_of_allowed_packages_may_be_named() -> None:
    told = asked(learner__optimizer={"name": "torch.optim:SGD", "lr": 0.1})
    assert agreed(own_file(modules=["torch.optim"]), told).learner.optimizer.name == "torch.optim:SGD"
    with pytest.raises(JobError, match=r"the code torch\.optim:SGD"):
        agreed(own_file(modules=["torch.opt"]), told)


@pytest.mark.parametrize("name", ["os:path:join", " os:system", "os:system ", "os..path:join", ":system", "os:"])
def test_what_is_nearly_a_name_of_code_is_never_imported(name: str) -> None:
    with pytest.raises(JobError, match=r'expected "module:name", got'):
        agreed(own_file(), asked(strategy=[{"name": name}])).strategies()


@pytest.mark.parametrize("asked_for", ["theirs", "THEIRS", "Theirs", "TheirsLR"])
def test_a_plugin_is_what_it_names(monkeypatch: pytest.MonkeyPatch, asked_for: str) -> None:
    """However it is spelled: schedules and optimisers are found in any case."""
    plugin = EntryPoint("theirs", "their_package:Part", "incr.schedules")
    monkeypatch.setattr("federated._consent.entry_points", lambda group: [plugin] if group == "incr.schedules" else [])
    with pytest.raises(JobError, match="the code their_package:Part"):
        agreed(own_file(), asked(learner__schedule={"name": asked_for}))


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"stream": 3, "features": {}, "learner": {}}', "nothing at all"])
def test_what_is_no_job_is_refused(told: str) -> None:
    with pytest.raises(JobError, match="client north: "):
        agreed(own_file(), told)


def test_the_server_must_say_what_the_data_would_decide() -> None:
    job = document()
    del job["features"]["classes"], job["features"]["numeric"]
    with pytest.raises(JobError, match=r"features\.numeric and .*; features\.classes: the classes; expected by"):
        Job.from_document({**job, "federated": {"superlink": "x:1"}}).resolved()


def test_a_job_says_where_its_rows_are_or_who_has_them() -> None:
    with pytest.raises(JobError, match=r"stream\.path: expected where the rows are, got nothing"):
        Job.from_document(document())
