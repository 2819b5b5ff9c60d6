"""Nothing that is over fewer than `privacy.min_rows` rows is told, and no row is lost by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import Message

from federated._client_failures import FAILURE
from federated._held_back import HeldBack
from federated._known_tensors import tensors_of
from federated._message_records import ORDER, WORK
from federated._records import told
from incr_core.data.encoding import Slices
from incr_core.data.timeline import Tick
from incr_core.registry import RunDirectory
from incr_core.rounds import Arrival
from tests.support import federations
from tests.support.federated_runs import finish
from tests.support.federations import OWNERS, all_rows, deployed, federation, ledgers
from tests.support.heard_anchors import HeardAnchors
from tests.support.hostile_server import asks, orders, reviews
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower

SECRET = 431.4159
"""A height that only one person has."""


def learned(folder: Path, files: list[Path], *settings: str, **habits: Any) -> dict[str, Any]:
    """Run it; returns what the summary tells of the clients."""
    with OwnersGrid(files, **habits) as grid:
        finish(deployed(*settings), folder / "run", grid.engine)
    clients: dict[str, Any] = grid.engines[0].told()["clients"]
    return clients


def windows_of_ten(folder: Path) -> list[Path]:
    """Three owners whose windows of half an hour have some ten rows each; one cell of red's is a secret, one is bad."""
    files = federation(folder, rows=400)
    place = folder / "red" / "rows" / "1.parquet"
    table = pq.read_table(place)
    heights = table["height"].to_pylist()
    heights[40], heights[50] = SECRET, float("nan")
    pq.write_table(table.set_column(table.column_names.index("height"), "height", pa.array(heights)), place)
    return files


SETTINGS = ("stream.every='30m'", "features.on_bad_row='quarantine'")


def test_what_is_told_is_over_enough_rows_and_every_row_is_told_of_in_the_end(tmp_path: Path) -> None:
    files = windows_of_ten(tmp_path)
    counts = dict.fromkeys(("labelled", "scored", "arriving", "predicted", "bad"), 0)
    heard: list[bytes] = []

    def listens(reply: Message, name: str) -> None:
        heard.extend(bytes(array.data) for record in reply.content.array_records.values() for array in record.values())
        heard.extend(str(dict(record)).encode() for record in reply.content.config_records.values())
        if reply.metadata.message_type == "evaluate.receive" and (arrival := told(reply.content)["arrival"]):
            for key in counts:
                assert arrival[key] == 0 or arrival[key] >= 10
                counts[key] += arrival[key]
            assert bool(arrival["statistics"]) == (arrival["scored"] > 0)
            assert bool(arrival["observed"]) == (arrival["labelled"] > 0)

    clients = learned(tmp_path, files, *SETTINGS, spoils=listens)
    text = b"".join(heard)
    for secret in (np.float32(SECRET).tobytes(), np.float64(SECRET).tobytes(), b"431.4", b".parquet", b"nan"):
        assert secret not in text
    rows = {owner: len(found) for owner, found in all_rows(tmp_path).items()}
    held = {owner: rows[owner] - len(found) for owner, found in ledgers(tmp_path).items()}
    assert all(0 <= count < 10 + 1 for count in held.values()), "the last ones, and one that is bad"
    assert any(held.values())
    assert counts["bad"] == 0
    assert counts["labelled"] == sum(client["rows_learned"] for client in clients.values())
    assert {owner: client["rows_pending"] for owner, client in clients.items()} == {
        owner: count > 0 for owner, count in held.items()
    }

    for owner in OWNERS:  # more come, and with them those that were held
        place = next((tmp_path / owner / "rows").iterdir())
        table = pq.read_table(place)
        at = "their_at" if owner == "green" else "at"
        later = [when.replace(year=2021) for when in table[at].to_pylist()]
        place_of_at = table.column_names.index(at)
        more = table.set_column(place_of_at, at, pa.array(later, table.schema.field(at).type)).slice(0, 30)
        pq.write_table(more, place.with_name("9.parquet"))
    learned(tmp_path, files, *SETTINGS, "stream.every='30m'")
    for owner, found in ledgers(tmp_path).items():
        assert len(found) == len(set(found))
        assert len(all_rows(tmp_path)[owner]) - len(found) <= 10
        assert set(found) >= {row for row in all_rows(tmp_path)[owner] if row[0] != "9.parquet"} - {("1.parquet", 50)}


def test_one_row_is_told_of_where_the_owner_says_so(tmp_path: Path) -> None:
    files = federation(tmp_path, rows=200)
    for file in files:
        file.write_text(file.read_text() + "\n[privacy]\nmin_rows = 1\n")
    clients = learned(tmp_path, files, "stream.every='10m'")
    assert {owner: sorted(rows) for owner, rows in ledgers(tmp_path).items()} == all_rows(tmp_path)
    assert not any(client["rows_pending"] for client in clients.values())


@pytest.mark.chaos
def test_what_is_held_back_survives_the_process(tmp_path: Path) -> None:
    """Where every message meets another one: to the same bits."""
    found = []
    for forgetful in (False, True):
        folder = tmp_path / str(forgetful)
        folder.mkdir()
        learned(folder, windows_of_ten(folder), *SETTINGS, forgetful=forgetful)
        found.append(RunDirectory.open(folder / "run").load()[0])
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


@pytest.mark.parametrize("own", [(), ("federated.personal=['layers.3']", "strategy=[]")])
def test_a_server_that_asks_about_fewer_rows_hears_nothing(own: tuple[str, ...], tmp_path: Path) -> None:
    """Learning, reviewing, skipping and consolidating rows that are too few."""
    files = windows_of_ten(tmp_path)
    asked: dict[str, Any] = {}
    updates: list[int] = []
    anchors = HeardAnchors()

    def hears(message: Message, name: str) -> None:
        asked[name] = message.content, anchors.hear(message)

    def listens(reply: Message, name: str) -> None:
        if reply.metadata.message_type != "evaluate.receive" or name != "red" or told(reply.content)["arrival"] is None:
            return
        if told(reply.content)["arrival"]["labelled"] or not told(reply.content)["holds"]:
            return
        content, anchor = asked[name]
        order = dict(content.config_records[ORDER])
        order["generation"] = reply.content.config_records[WORK]["generation"]
        for action in ("train.learn", "train.skip"):
            answer = asks(files[2], orders(action), order, anchor)
            assert answer is not None
            assert "privacy.min_rows" in str(answer.content.config_records[FAILURE]["message"])
        answer = asks(files[2], reviews([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]), order, anchor)
        assert answer is not None
        updates.append(told(answer.content)["rows"])
        learned_nothing = tensors_of(answer.content, "weights", anchor)
        assert all(torch.equal(learned_nothing[name], value) for name, value in anchor.items())
        answer = asks(files[2], orders("train.consolidate"), order, anchor)
        assert answer is not None
        assert FAILURE not in answer.content

    learned(tmp_path, files, *SETTINGS, *own, lost=hears, spoils=listens)
    assert updates
    assert not any(updates)


def test_probes_are_over_enough_rows() -> None:
    """Of a probe over single rows, each sum is over ten; of a column with few finite values, none."""
    held, tick = HeldBack(10), Tick(0, "first")
    rows = torch.stack([torch.tensor([[float(n), 1.0], [1.0, 1.0 if n == 3 else 0.0]]) for n in range(7)])
    assert held.told(Arrival(tick, probed=[rows]))["probed"][0].shape == (0, 2, 2)
    (blocks,) = held.told(Arrival(tick, probed=[rows]))["probed"]
    assert blocks.tolist() == [[[21.0 + 3.0, 0.0], [10.0, 0.0]]]
    (blocks,) = held.told(Arrival(tick, probed=[rows]))["probed"]
    assert blocks[0, 1, 0] == 10.0


def test_slices_are_told_over_enough_rows_and_so_is_what_is_left_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each slice, and of all rows but those of the slices that were told, sums are over ten rows or none."""
    monkeypatch.setattr(federations, "COLUMNS", (*federations.COLUMNS, "size"))
    files = windows_of_ten(tmp_path)
    scored: dict[str, int] = {}
    heard: dict[str, dict[str, int]] = {}

    def listens(reply: Message, name: str) -> None:
        if reply.metadata.message_type == "evaluate.receive" and (arrival := told(reply.content)["arrival"]):
            assert all(rows >= 10 for rows, _ in arrival["sliced"].values())
            scored[name] = scored.get(name, 0) + arrival["scored"]
            for slice_, (rows, _) in arrival["sliced"].items():
                heard.setdefault(name, {}).setdefault(slice_, 0)
                heard[name][slice_] += rows
            left = scored[name] - sum(heard.get(name, {}).values())
            assert left == 0 or left >= 10

    values = "features.slice_values={size = ['small', 'medium']}"
    learned(tmp_path, files, *SETTINGS, "features.slices=['size']", values, spoils=listens)
    found = [slice_ for of in heard.values() for slice_ in of]
    assert {*found} == {"size=small", "size=medium", "size: others"}
    table = pq.read_table(tmp_path / "run" / "metrics")
    for slice_ in {*found}:
        assert table[f"slice_total_rows.{slice_}"][-1].as_py() == sum(of.get(slice_, 0) for of in heard.values())


def test_slices_of_few_rows_count_as_others_and_wait_where_these_are_few() -> None:
    held, tick = HeldBack(10, Slices({"size": ["small", "large"]})), Tick(0, "first")

    def hears(**rows: int) -> dict[str, int]:
        names = {"small": "size=small", "large": "size=large", "others": "size: others"}
        sliced = {names[name]: (count, {"sums": np.full(1, float(count))}) for name, count in rows.items()}
        found = held.told(Arrival(tick, scored=sum(rows.values()), sliced=sliced))["sliced"]
        assert all(sums["sums"].tolist() == [count] for count, sums in found.values())
        return {name: count for name, (count, _) in found.items()}

    assert hears(small=20, large=12) == {"size=small": 20, "size=large": 12}
    assert hears(small=20, large=4) == {}, "all rows but the small ones would be four"
    assert hears(large=3, others=12) == {}
    other = HeldBack(10, held.slices)
    other.load_state_dict(held.state_dict())  # another process
    held = other
    assert hears(large=3) == {}, "sums are told with those of all rows"
    assert hears(others=20) == {"size=small": 20, "size=large": 10, "size: others": 32}
    assert hears(small=190, others=3) == {}
    assert hears(large=9, others=5) == {"size=small": 190, "size: others": 17}, "what is rare is among the others"
    assert hears(small=199, large=2) == {}, "and waits where these are too few"


def test_what_is_told_in_parts_adds_up_to_all(tmp_path: Path) -> None:
    draw, held = np.random.default_rng(0), HeldBack(10)
    all_of: dict[str, float] = dict.fromkeys(("arriving", "scored", "sums"), 0.0)
    heard = dict(all_of)
    for number in range(200):
        count = int(draw.integers(0, 6))
        arrival = Arrival(Tick(number, ""), arriving=count, scored=count, statistics={"sums": np.ones(2) * count})
        if number == 100:  # another process
            other = HeldBack(10)
            other.load_state_dict(held.state_dict())
            held = other
        found = held.told(arrival)
        for key in ("arriving", "scored"):
            all_of[key] += count
            heard[key] += found[key]
        all_of["sums"] += count
        heard["sums"] += float(found["statistics"]["sums"][0]) if found["statistics"] else 0.0
    assert {key: all_of[key] - value for key, value in heard.items()} == dict.fromkeys(
        heard, all_of["scored"] - heard["scored"]
    )
    assert all_of["scored"] - heard["scored"] < 10
