"""What is wrong with an answer is found before anything is made of it: each kind alone, and all of them in one run."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import Error, Message, RecordDict

from federated._arrival_checks import _check_ids, check_sums
from federated._asked import Asked, Known, Refused, sums_of
from federated._cohort import ClientCohort, Terms
from federated._records import told
from federated._replies import checked, named
from federated._roster import Roster
from incr_core.errors import CheckpointError
from incr_core.metrics import FINE, TRIVIAL
from incr_core.models import IdTable, merge_rules
from incr_core.objectives import Binary, Multiclass, Multilabel, NextToken, Objective, Ranking, Regression
from incr_core.rounds import AGGREGATIONS, OUTERS, TrivialPredictors
from incr_core.storage import packing
from incr_core.update import Update
from tests.support.federated_runs import finish
from tests.support.federations import deployed, each_row_once, federation
from tests.support.heard_anchors import HeardAnchors
from tests.support.hostile_client import HOSTILE, tells
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Asked, Message]]:
    """A question of each kind, and what an honest client has answered."""
    folder = tmp_path_factory.mktemp("honest")
    asked: dict[str, dict[str, torch.Tensor]] = {}
    found: dict[str, tuple[Asked, Message]] = {}
    job = deployed("strategy=[{name='ewc'}]", "federated.min_clients=1")
    objective = job.objective()
    trivial = TrivialPredictors(objective).shape
    probes = [max(1, len(probe.columns)) for probe in job.probes()]
    known = Known(sums_of(objective), probes, timed=True, step=16, passes=2, trivial=trivial)

    anchors = HeardAnchors()

    def hears(message: Message, name: str) -> None:
        asked[message.metadata.message_type] = anchors.hear(message)

    def listens(reply: Message, name: str) -> None:
        action = reply.metadata.message_type
        if action in found or action == "query.hello" or (action, name) == ("evaluate.receive", "green"):
            return
        if action == "evaluate.receive" and not told(reply.content)["arrival"]["scored"]:
            return
        if action == "query.open" and not told(reply.content)["weights"]:
            return
        shared = told(found["query.open"][1].content)["shared"] if "query.open" in found else {}
        work = reply.content.config_records["work"]
        found[action] = Asked(action, asked[action], shared, 1000, int(str(work["generation"])) - 1, known), reply

    with OwnersGrid(federation(folder)[:1], lost=hears, spoils=listens) as grid:
        finish(job, folder / "run", grid.engine)
    return found


def test_what_honest_clients_answer_is_accepted(honest: dict[str, tuple[Asked, Message]]) -> None:
    assert {"query.open", "evaluate.receive", "train.learn", "train.consolidate", "query.save"} <= honest.keys()
    for asked, answer in honest.values():
        assert checked(asked, answer) is answer.content


def test_few_steps_for_many_rows_are_refused(honest: dict[str, tuple[Asked, Message]]) -> None:
    """FedNova divides by them: a client that tells of one step would weigh as much as six of its kind."""
    asked, answer = honest["train.learn"]
    spoiled = copy.deepcopy(answer)
    tells("rows", value=100)(spoiled.content)
    for steps, fits in ((1, False), (5, False), (6, True), (8, True), (9, False)):
        tells("steps", value=steps)(spoiled.content)
        if fits:
            assert checked(asked, spoiled) is spoiled.content
        else:
            with pytest.raises(Refused, match=f"an update of {steps} steps, where 100 rows take 6 to 8"):
                checked(asked, spoiled)
    once = dataclasses.replace(asked, known=dataclasses.replace(asked.known, once=True))
    checked(once, spoiled)  # 9 steps: passes that stop early are many, of which each row is told once
    tells("steps", value=16)(spoiled.content)
    with pytest.raises(Refused, match="an update of 16 steps, where 100 rows take 6 to 15"):
        checked(once, spoiled)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_honest_client_answers_is_refused(honest: dict[str, tuple[Asked, Message]], kind: str) -> None:
    action, spoil, why = HOSTILE[kind]
    if kind == "weights far away":
        pytest.skip("told by the other clients' weights alone")
    asked, answer = honest[action]
    content = RecordDict(dict(answer.content))
    spoil(content)
    with pytest.raises(Refused) as refused:
        checked(asked, with_content(answer, content))
    assert why in str(refused.value)
    assert not refused.value.silent
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("sums", [np.zeros((3, 2)), np.full((2, 2), np.nan), np.zeros((2, 3, 8)), 1.0])
def test_sums_of_trivial_predictions_have_the_jobs_shape(
    honest: dict[str, tuple[Asked, Message]], sums: object
) -> None:
    known = honest["evaluate.receive"][0].known
    assert known.trivial == (2, 2)
    check_sums({TRIVIAL: np.ones((2, 2))}, known)
    with pytest.raises(Refused, match="sums for"):
        check_sums({TRIVIAL: sums}, known)


@pytest.mark.parametrize(
    "objective",
    [Binary(), Multiclass(4), Regression(), Multilabel(3), Ranking(2), NextToken(5)],
    ids=lambda it: type(it).__name__,
)
def test_every_objectives_sums_are_known_beforehand(objective: Objective) -> None:
    assert sums_of(objective)


@pytest.mark.parametrize(
    "objective",
    [Binary(), Multiclass(4), Regression(), Multilabel(3), Ranking(2), NextToken(5)],
    ids=lambda it: type(it).__name__,
)
def test_coarse_sums_of_a_slice_are_those_of_the_job_and_no_others(objective: Objective) -> None:
    whole = {name: np.zeros((1,) * dimensions) for name, dimensions in sums_of(objective).items()}
    coarse = {name: value for name, value in whole.items() if name not in FINE}
    known = Known(sums_of(objective))
    check_sums(whole, known)
    check_sums(coarse, known, coarse=True)
    for wrong in ({**coarse, TRIVIAL: np.zeros((2, 2))}, {**coarse, "more": np.zeros(1)}):
        with pytest.raises(Refused, match="sums for other metrics"):
            check_sums(wrong, known, coarse=True)


def with_content(answer: Message, content: RecordDict) -> Message:
    other = copy.copy(answer)
    other.content = content
    return other


def test_no_answer_and_an_error_are_silence(honest: dict[str, tuple[Asked, Message]]) -> None:
    asked, answer = honest["train.learn"]
    for nothing in (None, Message(Error(2, "x" * 10_000), reply_to=answer)):
        with pytest.raises(Refused) as refused:
            checked(asked, nothing)
        assert refused.value.silent
        assert len(str(refused.value)) <= 1000


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "../north",
        "/etc/passwd",
        "north\n",
        "\x1b[2Jnorth",
        "nor\u202eth",
        "C:\\north",
        "x" * 1_000_000,
        7,
        None,
    ],
)
def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(Refused) as refused:
        named({"name": name, "identity": "0" * 32})
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("identity", ["", "0" * 31, "G" * 32, "0" * 1_000_000, 7, None])
def test_what_is_no_secret_is_refused(identity: object) -> None:
    with pytest.raises(Refused, match=r"where 32 hexadecimal digits were expected|no client's file"):
        named({"name": "north", "identity": identity})


def test_bytes_are_never_taken_for_addresses() -> None:
    """numpy makes objects of bytes, if told that they are: whatever lies there would be called."""
    bomb = {"$array": "0:x", "dtype": "O", "shape": [2]}
    with pytest.raises(CheckpointError, match="expected an array of plain values, got one of type object"):
        packing.unpack({"0:x": torch.full((16,), 65, dtype=torch.uint8)}, bomb)


@pytest.mark.chaos
def test_hostile_answers_between_good_ones_cost_no_row(tmp_path: Path) -> None:
    """Every second answer of red's is one of them: left out with a reason, and its rows come with the next one."""
    turns = {
        action: deque(kind for kind, (its, _, _) in HOSTILE.items() if its == action)
        for action in ("evaluate.receive", "train.learn")
    }
    done, good = list[str](), False

    def spoils(reply: Message, name: str) -> None:
        nonlocal good
        action = reply.metadata.message_type
        if name != "red" or action not in turns:
            return
        if good and turns[action]:
            done.append(turns[action].popleft())
            HOSTILE[done[-1]][1](reply.content)
            good = False
        elif action == "train.learn":
            good = True

    files = federation(tmp_path, rows=1500)
    for file in files:
        file.write_text(file.read_text() + "\n[privacy]\nmin_rows = 1\n")
    with OwnersGrid(files, spoils=spoils) as grid:
        finish(deployed("stream.every='30m'", "federated.min_clients=1"), tmp_path / "run", grid.engine)
    events = [row["what"] for row in pq.read_table(tmp_path / "run" / "events").to_pylist()]
    refused = [what for what in events if what.startswith("client red: ")]
    assert len(done) > 25
    for kind, what in zip(done, refused, strict=True):
        assert HOSTILE[kind][2] in what
    each_row_once(tmp_path, tmp_path / "run")


def test_counts_of_ids_must_fit_the_rows() -> None:
    anchor = {"model.ids.keys": torch.zeros(3, dtype=torch.int64)}
    right = torch.tensor([[0, 5], [7, 3], [-9, 1]])
    _check_ids("model.ids.admitted", right, 5, anchor)
    wrong = {
        "no table": ("model.other.admitted", right, 5),
        "another number of rows": ("model.ids.admitted", right, 4),
        "more occurrences than rows": ("model.ids.admitted", torch.tensor([[0, 5], [7, 3], [9, 3]]), 5),
        "an id twice": ("model.ids.admitted", torch.tensor([[0, 5], [7, 1], [7, 1]]), 5),
        "less than none": ("model.ids.admitted", torch.tensor([[0, 5], [7, -3]]), 5),
        "no rows": ("model.ids.admitted", torch.tensor([[7, 3]]), 5),
        "floats": ("model.ids.admitted", right.double(), 5),
        "another shape": ("model.ids.admitted", right[:, :1], 5),
    }
    for name, counts, rows in wrong.values():
        with pytest.raises(Refused, match="counts of ids"):
            _check_ids(name, counts, rows, anchor)


def test_what_a_client_says_of_the_bookkeeping_of_ids_is_ignored() -> None:
    table = IdTable(3, 2)
    weights = {f"model.ids.{name}": value.clone() for name, value in table.state_dict().items()}
    rules = {f"model.ids.{name}": rule for name, rule in merge_rules(table).items()}
    cohort = ClientCohort(cast("Roster", None), OUTERS.find("mean", "here")(), AGGREGATIONS.find("mean", "here")())
    cohort.terms = Terms(rules, {}, consolidates=False, spans=False, shares=False, remakes=False)
    cohort.weights = weights
    cohort.absorb({"model.ids.admitted": table.count(torch.tensor([5, 6, 5]))})
    anchor = cohort.anchor()
    theirs = {name: value + 1 for name, value in anchor.items()}
    for updates in ([Update(theirs, 3)], [Update(theirs, 3), Update(dict(anchor), 3)]):
        merged, _ = cohort.merge(updates, anchor, exactly=True)
        assert not merged["model.ids.weight"].equal(anchor["model.ids.weight"])
        assert all(merged[name].equal(anchor[name]) for name in anchor if name != "model.ids.weight")
    assert weights["model.ids.keys"].sum() == 0  # what was committed stays as it was
