"""Clients that hide what they learn: the server hears noise, and nothing once a budget is spent."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from federated._client_file import ClientFile
from federated._message_records import ORDER
from federated._privacy_budget import PrivacyBudget
from federated._records import told, unpack
from incr_core.errors import IncrError, JobError
from incr_core.job import ClientPrivacy
from incr_core.registry import RunDirectory
from tests.support.federated_runs import events, finish
from tests.support.federations import OWNERS, all_rows, deployed, ledgers, simulated
from tests.support.heard_anchors import HeardAnchors, carrying
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower

RANGES = "features.ranges={height=[140,210],weight=[40,120]}"
PRIVATE = (RANGES, "strategy=[]", "stream.every='1h'")


def promises(files: list[Path], text: str, *owners: str) -> None:
    """Write a promise into the files of these owners, or of all."""
    for file in files:
        if not owners or file.stem in owners:
            file.write_text(file.read_text().partition("\n[privacy]")[0] + f"\n[privacy]\nmin_rows = 1\n{text}\n")


def account(folder: Path, owner: str) -> list[dict[str, Any]]:
    path = folder / owner / f"{owner}-state" / "privacy.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(one: Path, other: Path) -> bool:
    first, second = (RunDirectory.open(folder).load()[0] for folder in (one, other))
    return all(torch.equal(first[name], value) for name, value in second.items())


@pytest.mark.parametrize("unit", ["rows", "client"])
def test_a_client_whose_budget_is_spent_learns_no_more_and_keeps_its_rows(
    unit: str, files: list[Path], grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    promises(files, "")
    promises(files, f'epsilon = 6.0\nnoise = 2.0\nclip = 0.02\nunit = "{unit}"', "red")
    lent = grid()
    finish(deployed(*PRIVATE), tmp_path / "run", lent.engine)
    rows, have = ledgers(tmp_path), all_rows(tmp_path)
    assert 0 < len(rows["red"]) < len(have["red"])
    assert all(sorted(rows[owner]) == have[owner] for owner in ("blue", "green"))
    clients = lent.engines[0].told()["clients"]
    assert clients["red"]["rows_pending"]
    assert not clients["blue"]["rows_pending"]
    assert clients["red"]["epsilon"] == pytest.approx(5.979, abs=0.01)  # six steps: the warm start has two passes
    assert "epsilon" not in clients["blue"]
    spent = [what for kind, what in events(tmp_path / "run") if kind == "budget spent"]
    assert spent == [f"client red: epsilon {clients['red']['epsilon']:.3g} of 6"]
    assert sum(line["times"] for line in account(tmp_path, "red")) == 6

    # With more to spend it goes on where it was.
    lent.close()
    promises(files, f'epsilon = 1000.0\nnoise = 2.0\nclip = 0.02\nunit = "{unit}"', "red")
    finish(deployed(*PRIVATE), tmp_path / "run", lent.engine)
    assert {owner: sorted(found) for owner, found in ledgers(tmp_path).items()} == have


@pytest.mark.chaos
def test_a_client_that_is_killed_at_any_message_and_a_server_that_goes_back_pay_once_to_the_same_bits(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "secrets.token_hex", lambda count: "5" * (2 * count)
    )  # one secret, so that bits can be compared
    promises(files, "epsilon = 12.0\nnoise = 2.0")
    job, found = deployed(*PRIVATE, "federated.rounds=2", "publish.every=2"), list[Any]()
    for name in ("whole", "killed"):
        with OwnersGrid(files, forgetful=name == "killed") as grid:
            if name == "killed":
                with monkeypatch.context() as patch:
                    patch.setattr("federated._owners.Owners.settle", _dies_at_the(5))
                    with pytest.raises(KeyboardInterrupt):
                        finish(job, tmp_path / name, grid.engine)
                assert [account(tmp_path, owner) for owner in OWNERS] != found[0]
            finish(job, tmp_path / name, grid.engine)
        found.append([account(tmp_path, owner) for owner in OWNERS])
        for file in files:
            (file.parent / f"{file.stem}-state").rename(file.parent / f"state-of-{name}")
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert found[0] == found[1]
    assert all(found[0])


def _dies_at_the(number: int) -> Callable[..., None]:
    from federated._owners import Owners

    settle, seen = Owners.settle, []

    def dies(self: Owners, arrivals: Any, *, learned: bool = True) -> None:
        seen.append(1)
        if len(seen) == number:
            raise KeyboardInterrupt
        settle(self, arrivals, learned=learned)

    return dies


def test_a_server_that_asks_otherwise_hears_other_noise_and_the_budget_pays(
    files: list[Path], grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    """From two anchors, of one state: the same noise on both would tell the difference without any."""
    promises(files, "epsilon = 30.0\nnoise = 2.0", "red")
    job, answers = deployed(*PRIVATE), list[Any]()
    lent, asked = grid(), list[Any]()

    def again(reply: Message, name: str) -> None:
        if name == "red" and reply.metadata.message_type == "train.learn" and len(answers) < 3:
            answers.append(unpack(reply.content.array_records["weights"]))
            if len(answers) == 1:
                for change in (0.0, 1e-3):
                    _ask_again(lent, *asked[-1], change)

    heard = HeardAnchors()

    def hears(message: Message, name: str) -> None:
        anchor = heard.hear(message)
        if name == "red" and message.metadata.message_type == "train.learn" and not answers:
            asked.append((message, anchor))

    lent.spoils, lent.lost = again, hears
    finish(job, tmp_path / "run", lent.engine)
    first, same_again, other = answers
    assert all(torch.equal(first[name], value) for name, value in same_again.items())
    difference = torch.cat([(first[name] - value).flatten() for name, value in other.items() if "sums" not in name])
    assert float(difference.abs().mean()) > 1e-3
    lines = account(tmp_path, "red")
    assert lines[0]["generation"] == lines[1]["generation"]
    assert len({line["question"] for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("unit", "changed"), [("rows", "noise = 3.0"), ("client", "noise = 2.0\nclip = 0.5")], ids=["noise", "clip"]
)
def test_the_same_question_under_another_promise_is_another_one(
    unit: str, changed: str, files: list[Path], grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    """The same numbers in two sizes: of both answers together somebody could tell the update without any noise."""
    promises(files, f'epsilon = 60.0\nnoise = 2.0\nunit = "{unit}"', "red")
    lent, asked, answers = grid(forgetful=True), list[Any](), list[Any]()

    def again(reply: Message, name: str) -> None:
        if name == "red" and reply.metadata.message_type == "train.learn" and len(answers) < 2:
            answers.append(unpack(reply.content.array_records["weights"], copy=True))
            if len(answers) == 1:
                promises(files, f'epsilon = 60.0\n{changed}\nunit = "{unit}"', "red")
                _ask_again(lent, *asked[-1])

    heard = HeardAnchors()

    def hears(message: Message, name: str) -> None:
        anchor = heard.hear(message)
        if name == "red" and message.metadata.message_type == "train.learn" and not answers:
            asked.append((message, anchor))

    lent.spoils, lent.lost = again, hears
    finish(deployed(*PRIVATE), tmp_path / "run", lent.engine, stop_after=1)
    first, second = account(tmp_path, "red")[:2]
    assert first["generation"] == second["generation"]
    assert first["question"] != second["question"]


@pytest.mark.parametrize("setting", ["publish.every=1", "federated.personal=['layers.3']"])
def test_a_client_that_has_learned_tells_of_the_model_without_its_weights(
    setting: str, files: list[Path], grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    """They are as the steps have left them: without the noise on an update, and with those that are its own."""
    promises(files, 'epsilon = 60.0\nnoise = 2.0\nunit = "client"')
    lent, found = grid(), list[tuple[bool, bool]]()

    def listens(reply: Message, name: str) -> None:
        action = reply.metadata.message_type
        if action == "query.open":
            generation = int(str(reply.content.config_records["work"]["generation"]))
            weights = bool(told(reply.content)["weights"])
            assert not (weights and generation), f"weights after message {generation}"
            found.append((weights, bool(generation)))
        elif action in ("evaluate.receive", "train.learn"):
            order = dict(orders[name]) | {"generation": reply.content.config_records["work"]["generation"]}
            content = RecordDict({ORDER: ConfigRecord({**order, "describe": True})})
            lent.push_messages([Message(content, reply.metadata.src_node_id, "query.open")])

    orders: dict[str, Any] = {}

    def hears(message: Message, name: str) -> None:
        if message.metadata.message_type == "query.open":
            orders[name] = message.content.config_records[ORDER]

    lent.spoils, lent.lost = listens, hears
    job = deployed(*PRIVATE, setting)
    finish(job, tmp_path / "run", lent.engine, stop_after=2)
    assert (True, False) in found
    assert (False, True) in found
    finish(job, tmp_path / "run", lent.engine)
    assert {owner: sorted(rows) for owner, rows in ledgers(tmp_path).items()} == all_rows(tmp_path)


def _ask_again(grid: OwnersGrid, message: Message, anchor: dict[str, torch.Tensor], change: float = 0.0) -> None:
    anchor["model.layers.0.bias"] += change
    asked = Message(RecordDict({**message.content, **carrying(anchor)}), message.metadata.dst_node_id, "train.learn")
    grid.push_messages([asked])


def test_nothing_but_counts_and_noisy_weights_is_told(
    files: list[Path], grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    promises(files, "epsilon = 50.0\nnoise = 1.0")
    heard = 0

    def listens(reply: Message, name: str) -> None:
        nonlocal heard
        kind = reply.metadata.message_type
        if kind == "evaluate.receive" and (arrival := told(reply.content)["arrival"]) is not None:
            heard += 1
            assert not arrival["statistics"]
            assert not arrival["probed"]
            assert arrival["scored"] == 0
            sums = arrival["observed"]["model.moments.sums"]
            assert torch.allclose(sums[1] / sums[0], torch.tensor([175.0, 80.0]).double())  # of the ranges
        if kind == "train.learn":
            assert told(reply.content)["losses"] == {}

    finish(deployed(*PRIVATE, "drift={watch='loss'}"), tmp_path / "run", grid(spoils=listens).engine)
    assert heard


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("epsilon = 9.0", ("strategy=[]",), r"client red: features\.ranges: expected a range of every numeric column"),
        ("epsilon = 9.0", (RANGES,), "strategy Replay keeps rows"),
        ("epsilon = 9.0", (*PRIVATE, "learner.validation=0.2"), r"learner\.validation: expected none"),
        (
            'epsilon = 9.0\nunit = "client"',
            (RANGES, "strategy=[{name='ewc'}]"),
            "strategy EWC: expected strategies that tell nothing beside the update",
        ),
    ],
)
def test_a_job_that_does_not_fit_the_promise_is_refused_by_its_owner(
    text: str, settings: tuple[str, ...], said: str, files: list[Path], grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    promises(files, text, "red")
    job = deployed(*settings, "federated.min_clients=2")
    finish(job, tmp_path / "run", grid().engine)
    refused = [what for kind, what in events(tmp_path / "run") if kind == "client refused"]
    assert len(refused) == 1
    assert re.search(said, refused[0])
    assert not ledgers(tmp_path).get("red")


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"noise": 2.0}, r"privacy\.?\S*: .*noise: expected epsilon too"),
        ({"epsilon": -1.0}, r"privacy\.epsilon: expected more than 0, got -1"),
        ({"epsilon": 1.0, "noise": 1.0}, "expected enough for one step within epsilon = 1, got 1.*at least 4.046"),
        ({"epsilon": 1.0, "unit": "person"}, r"privacy\.unit"),
        ({"epsilon": 1.0, "delta": 1.0}, r"privacy\.delta: expected less than 1"),
        ({"sigma": 1.0}, r"privacy\.sigma: unknown key"),
    ],
)
def test_promises_that_cannot_be_are_refused(privacy: dict[str, Any], said: str) -> None:
    document = {"name": "red", "data": {"path": "x"}, "columns": ["a"], "privacy": privacy}
    with pytest.raises(JobError, match=said):
        ClientFile.from_document(document, ".")


def test_rows_by_themselves_have_a_budget_each(
    files: list[Path], grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    """An increment's rows cost nothing of the next one's: all are learned, and in another run no more."""
    promises(files, 'epsilon = 5.0\nnoise = 2.0\nunit = "row"')
    lent = grid()
    finish(deployed(*PRIVATE), tmp_path / "run", lent.engine)
    assert {owner: sorted(found) for owner, found in ledgers(tmp_path).items()} == all_rows(tmp_path)
    lent.close()
    promises(files, 'epsilon = 4.5\nnoise = 2.0\nunit = "row"')
    again = deployed(*PRIVATE, "learner.seed=1", "learner.warm_epochs=1", "learner.epochs=3")
    finish(again, tmp_path / "again", lent.engine)
    assert sorted(events(tmp_path / "again")[-3:]) == [
        ("budget spent", f"client {owner}: epsilon 4.01 of 4.5") for owner in OWNERS
    ]


def test_simulated_clients_keep_the_same_promise_and_go_on_to_the_bit(tmp_path: Path, files: list[Path]) -> None:
    promise = "federated.client_privacy={epsilon=6.0,noise=2.0}"
    job = simulated(tmp_path, *PRIVATE, promise, "publish.every=2").resolved()
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3)))
    finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=4)
    parts = finish(job, tmp_path / "parts", on(InProcessGrid(3)))
    assert whole.sha256 == parts.sha256
    assert whole.learned == parts.learned
    assert [kind for kind, _ in events(tmp_path / "whole")].count("budget spent") == 3
    assert events(tmp_path / "whole") == events(tmp_path / "parts")
    assert len(whole.learned) < sum(map(len, all_rows(tmp_path).values()))
    open_job = simulated(tmp_path, *PRIVATE).resolved()
    assert finish(open_job, tmp_path / "open", on(InProcessGrid(3))).sha256 != whole.sha256


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_account_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = tmp_path / "privacy.jsonl", ClientPrivacy(epsilon=30.0)
    budget = PrivacyBudget(path, wanted)
    assert budget.pay("first", 1, {}, run="r", generation=1)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(IncrError, match="No space left"):
            budget.pay("second", 1, {}, run="r", generation=2)
    assert path.read_bytes() == before
    assert budget.pay("third", 1, {}, run="r", generation=2)
    assert [line["question"] for line in PrivacyBudget(path, wanted).lines] == ["first", "third"]
