"""Tensors travel once: what a client has is not sent to it, and what it has not changed is not sent back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from torch import Tensor

from federated._known_tensors import LACKS, digest_of, version_of
from federated._message_records import ANCHOR, SHARED
from federated._owner import Owner
from federated._records import unpack
from tests.support.federated_runs import finish, people
from tests.support.federations import deployed, each_row_once, federation, simulated
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import AFTER, BEFORE, OwnersGrid

pytestmark = pytest.mark.flower


class Listening(InProcessGrid):
    """Notes which bits each client has heard, and every tensor that it hears, or says, in vain.

    vain: by kind of message. rounds: of each question to learn, the versions of each message: before, after. versions:
    of each node, the hashes of the anchor of a version. bytes: by kind of message, direction and record.
    """

    def __init__(self, clients: int) -> None:
        super().__init__(clients)
        self.known: dict[int, dict[str, str]] = {}
        self.anchors: dict[int, dict[str, Tensor]] = {}
        self.vain: list[tuple[str, str]] = []
        self.rounds: list[dict[int, tuple[str, str]]] = []
        self.versions: dict[tuple[int, str], dict[str, str]] = {}
        self.bytes: Counter[tuple[str, str, str]] = Counter()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        asked = list(messages)
        for message in asked:
            self._hears(message)
        if asked[0].metadata.message_type == "train.learn":
            records = {one.metadata.dst_node_id: one.content.config_records[version_of(ANCHOR)] for one in asked}
            self.rounds.append({node: (str(one["since"]), str(one["version"])) for node, one in records.items()})
        replies = super().send_and_receive(asked, timeout=timeout)
        for reply in replies:
            self._says(reply, asked[0].metadata.message_type)
        return replies

    def _hears(self, message: Message) -> None:
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        known = self.known.setdefault(node, {})
        for key in (ANCHOR, SHARED):
            tensors = unpack(message.content.array_records[key]) if key in message.content else {}
            anchor = {digest for name, digest in known.items() if name.startswith(ANCHOR)} if key == SHARED else set()
            if key == SHARED and key in message.content:
                equal = json.loads(str(message.content.config_records[version_of(key)]["equal"]))
                known |= {key + name: known[ANCHOR + other] for name, other in equal.items()}
            for name, value in tensors.items():
                digest = digest_of(value)
                if known.get(key + name) == digest or digest in anchor:
                    self.vain.append((kind, name))
                known[key + name] = digest
                if key == ANCHOR:
                    self.anchors.setdefault(node, {})[name] = value.clone()
            self.bytes[kind, "down", key] += sum(value.nbytes for value in tensors.values())
        if ANCHOR in message.content:
            version = str(message.content.config_records[version_of(ANCHOR)]["version"])
            self.versions[node, version] = {name: digest_of(value) for name, value in self.anchors[node].items()}

    def _says(self, reply: Message, kind: str) -> None:
        anchor = {digest_of(value) for value in self.anchors.get(reply.metadata.src_node_id, {}).values()}
        for key in ("weights", SHARED):
            tensors = unpack(reply.content.array_records[key]) if key in reply.content else {}
            for name, value in tensors.items():
                self.bytes[kind, "up", key] += value.nbytes
                if digest_of(value) in anchor:
                    self.vain.append((f"answer to {kind}", name))


STRATEGIES = {
    "none": [],
    "fedprox": ["strategy=[{name='fedprox', strength=0.1}]"],
    "l2sp": ["strategy=[{name='l2sp', strength=0.01}]"],
    "ewc": ["strategy=[{name='ewc', strength=10.0}]"],
    "lwf": ["strategy=[{name='lwf', strength=1.0}]"],
    "packnet": ["strategy=[{name='packnet', every=2, tasks=3}]"],
    "frozen layers": ["model.adapt=[{name='freeze', names='layers.0.*'}]"],
    "a coded wire": ["federated.wire=int8"],
    "some clients a round": ["federated.fraction=0.4"],
    "on order": ["strategy=[{name='ewc', strength=10.0}]", "learner.consolidate=3"],
}


@pytest.mark.parametrize("kind", STRATEGIES)
def test_nothing_travels_twice_and_a_resume_changes_neither_bits_nor_bytes(
    table: Path, tmp_path: Path, kind: str
) -> None:
    job = people(table, "federated.rounds=3", *STRATEGIES[kind])
    listening = Listening(3)
    whole = finish(job, tmp_path / "whole", on(listening))
    assert listening.vain == []
    for asked in listening.rounds:
        assert len({version for _, version in asked.values()}) == 1
    for stop in (2, 3, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3, forgetful=True))) == whole


def test_a_client_that_misses_the_first_round_is_sent_what_changed_since(table: Path, tmp_path: Path) -> None:
    """It then stands where the others do, whose messages are changes of a later version."""
    listening = Listening(3)
    finish(people(table, "federated.rounds=4", "federated.fraction=0.4"), tmp_path / "run", on(listening))
    late = 0
    for asked in listening.rounds:
        late += len({since for since, _ in asked.values()}) > 1
        first, *others = (listening.versions[node, version] for node, (_, version) in asked.items())
        assert all(digests == first for digests in others)
    assert late


def test_bytes_of_an_increment_by_hand(table: Path, tmp_path: Path) -> None:
    """One copy of the weights down for each round, and one up; of EWC the Fisher information, up and down."""
    found = {}
    for kind in ("none", "ewc"):
        for rounds in (1, 4):
            listening = Listening(3)
            settings = [f"federated.rounds={rounds}", "publish.gate=false", "publish.every=1000"]
            result = finish(people(table, *STRATEGIES[kind], *settings), tmp_path / f"{kind}{rounds}", on(listening))
            found[kind, rounds] = listening.bytes, result.increments * 3
    anchor, statistics = (
        sum(value.nbytes for name, value in listening.anchors[11].items() if ("sums" in name) == is_sum)
        for is_sum in (False, True)
    )
    for (kind, rounds), (bytes_of, times) in found.items():
        down = sum(count for (_, direction, _), count in bytes_of.items() if direction == "down")
        up = sum(count for (_, direction, _), count in bytes_of.items() if direction == "up")
        fisher = anchor if kind == "ewc" else 0
        assert down <= (rounds * anchor + statistics + fisher) * (times + 3)
        assert up <= (rounds * anchor + fisher) * times


# -- owners ------------------------------------------------------------------------------------------------------------


class Counting:
    """The versions that messages to each owner are changes of, and who asked for everything."""

    def __init__(self) -> None:
        self.since: list[tuple[str, str, str]] = []
        self.lacked: list[str] = []

    def hears(self, message: Message, name: str) -> None:
        if version_of(ANCHOR) in message.content:
            version = message.content.config_records[version_of(ANCHOR)]
            self.since.append((name, message.metadata.message_type, str(version["since"])))

    def listens(self, reply: Message, name: str) -> None:
        if LACKS in reply.content:
            self.lacked.append(name)

    @property
    def whole(self) -> Counter[str]:
        """How often each owner was sent a whole anchor."""
        return Counter(name for name, _, since in self.since if not since)


JOB = ("federated.rounds=3", "strategy=[{name='ewc', strength=10.0}]")


def test_an_owner_that_is_killed_after_each_message_needs_nothing_again(tmp_path: Path) -> None:
    counting = Counting()
    files = federation(tmp_path)
    with OwnersGrid(files, forgetful=True, lost=counting.hears, spoils=counting.listens) as grid:
        found = finish(deployed(*JOB), tmp_path / "run", grid.engine)
    assert counting.whole == {"blue": 1, "green": 1, "red": 1}
    assert not counting.lacked
    assert found.sha256 == finish(simulated(tmp_path, *JOB), tmp_path / "simulated", on(InProcessGrid(3))).sha256
    each_row_once(tmp_path, tmp_path / "run")


@pytest.mark.parametrize("fate", [BEFORE, AFTER])
def test_an_owner_whose_message_is_lost_between_rounds_goes_on_from_what_it_held(tmp_path: Path, fate: str) -> None:
    counting, asked = Counting(), list[str]()

    def lost(message: Message, name: str) -> str | None:
        counting.hears(message, name)
        if name == "red" and message.metadata.message_type == "train.learn":
            asked.append(name)
            return fate if len(asked) == 5 else None
        return None

    with OwnersGrid(federation(tmp_path), lost=lost, spoils=counting.listens) as grid:
        finish(deployed(*JOB, "federated.accept_failures=true"), tmp_path / "run", grid.engine)
    assert counting.whole == {"blue": 1, "green": 1, "red": 1}
    assert not counting.lacked
    each_row_once(tmp_path, tmp_path / "run")


def test_an_owner_that_lost_what_it_held_asks_for_all_of_it(tmp_path: Path) -> None:
    counting, asked = Counting(), list[str]()
    files = federation(tmp_path)

    def lost(message: Message, name: str) -> None:
        counting.hears(message, name)
        if name == "red" and message.metadata.message_type == "train.learn":
            asked.append(name)
            if len(asked) == 5:
                for run in Owner._owners[str(files[2])]._runs.values():
                    assert run._participant is not None
                    run._participant.held.clear()

    with OwnersGrid(files, lost=lost, spoils=counting.listens) as grid:
        found = finish(deployed(*JOB), tmp_path / "run", grid.engine)
    assert counting.lacked == ["red"]
    assert counting.whole == {"blue": 1, "green": 1, "red": 2}
    assert found.sha256 == finish(simulated(tmp_path, *JOB), tmp_path / "simulated", on(InProcessGrid(3))).sha256
    each_row_once(tmp_path, tmp_path / "run")


def test_a_server_that_resumes_sends_all_once_and_counts_what_one_that_goes_on_sends(tmp_path: Path) -> None:
    found, counting = [], Counting()
    for name, stops in (("whole", ()), ("parts", (1, 2))):
        home = tmp_path / name
        home.mkdir()
        counting = Counting()
        with OwnersGrid(federation(home), lost=counting.hears, spoils=counting.listens) as grid:
            for stop in stops:
                finish(deployed(*JOB), home / "run", grid.engine, stop_after=stop)
            found.append(finish(deployed(*JOB), home / "run", grid.engine))
        each_row_once(home, home / "run")
    assert counting.whole == {"blue": 3, "green": 3, "red": 3}
    assert not counting.lacked
    assert found[0] == found[1]


def test_an_owner_that_comes_late_is_sent_all_of_it(tmp_path: Path) -> None:
    counting = Counting()
    files = federation(tmp_path)

    def lost(message: Message, name: str) -> None:
        counting.hears(message, name)
        if name == "blue" and len(counting.since) == 12:
            grid.joins(files[2])

    with OwnersGrid(files[:2], lost=lost, spoils=counting.listens) as grid:
        finish(deployed(*JOB, "federated.min_clients=2"), tmp_path / "run", grid.engine)
    assert counting.whole == {"blue": 1, "green": 1, "red": 1}
    assert next(kind for name, kind, _ in counting.since if name == "red") == "evaluate.receive"
    each_row_once(tmp_path, tmp_path / "run")
