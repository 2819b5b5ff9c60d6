"""`incr audit` finds each thing that is not as it should be, by name, and changes nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.audit import audit
from incr_core.commands.cli import main
from incr_core.data.sources import file_fingerprint
from incr_core.errors import RunDirectoryError
from incr_core.job import Job
from incr_core.registry import RunDirectory, Segments
from incr_core.runs import run
from tests.support.row_states import counts, entries, mixed, rewrite

pytestmark = pytest.mark.slow

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    run(Job.from_document(mixed(folder / "data")), folder / "run")
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A finished run, to tamper with, and its data: the job names it where it was."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def violations(run: Path) -> list[str]:
    return [str(violation).replace(f"{run}/", "") for violation in audit(run).violations]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_command_prints_counts_that_add_up_and_changes_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(finished)
    assert main(["audit", str(finished / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = counts(finished / "data", 99)
    assert lines[0] == "version 4: 100 rows in 4 files, every one in exactly one state"
    assert [(line.split()[0], line.split()[1]) for line in lines[1:6]] == [
        ("learned", str(expected["learned"])),
        ("quarantined", "1"),
        ("duplicate", str(expected["duplicate"])),
        ("erased", "0"),
        ("pending", str(expected["without a label"])),
    ]
    assert lines[5].endswith(f"{expected['without a label']} without a label")
    assert lines[6] == "  not proven: how many rows there are in files that cannot be read: part-1.parquet"
    assert main(["audit", str(finished / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["holds"], found["rows"], sum(found["states"].values())) == (True, 100, 100)
    assert content(finished) == before


def first_range(rows: Rows) -> dict[str, int]:
    found: dict[str, int] = rows[0]["ranges"][0]
    return found


def longer(rows: Rows) -> None:
    last = max((row for row in rows if row["fragment"] == "part-2.parquet"), key=lambda row: row["ranges"][-1]["stop"])
    last["ranges"].append({"start": 30, "stop": 32})


def renamed(rows: Rows) -> None:
    rows.append({**rows[0], "fragment": "other.parquet", "ranges": [{"start": 0, "stop": 5}]})


def given_twice(rows: Rows) -> None:
    rows.append({**rows[0], "participant": "another", "ranges": [{"start": 1, "stop": 3}]})


def taken_out(rows: Rows) -> None:
    first_range(rows)["start"] += 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            given_twice,
            "row 1 of part-0.parquet, row 2 of part-0.parquet: expected every row learned once, "
            "got learned by all in version 1 and by another in version 1; ",
        ),
        (
            taken_out,
            "row 1 of part-0.parquet: expected a row that is due to be learned, or in another table, "
            "got in no state at all; ",
        ),
        (
            longer,
            "row 30 of part-2.parquet, row 31 of part-2.parquet: expected rows of the stream's files, "
            "got one behind the last row of its file; ",
        ),
        (
            renamed,
            "row 0 of other.parquet, row 1 of other.parquet, row 2 of other.parquet and 2 more: expected rows of the "
            "stream's files, got one of other.parquet, which is none of them; ",
        ),
    ],
)
def test_a_ledger_that_was_rewritten_whole_with_its_hashes_is_found_out(
    folder: Path, change: Callable[[Rows], None], expected: str
) -> None:
    version = 2 if change is longer else 1
    rewrite(folder, version, "ledger", lambda table: entries(table, change))
    found = violations(folder)
    assert [line[: len(expected)] for line in found] == [expected]
    assert audit(folder).states.states.get("in none", 0) == (change is taken_out)
    if change is not given_twice:
        RunDirectory.open(folder)  # whose own checks find nothing
    assert main(["audit", str(folder)]) == 1


def test_a_row_without_a_label_that_was_learned_is_found_out(folder: Path) -> None:
    def unlabelled(rows: Rows) -> None:
        rows[0]["ranges"].insert(0, {"start": 0, "stop": 1})

    rewrite(folder, 1, "ledger", lambda table: entries(table, unlabelled))
    assert violations(folder) == [
        "row 0 of part-0.parquet: expected a row without a label time not to be learned, got learned; go back to a "
        "copy of the run from before, or learn the stream again with another --out"
    ]


def test_rows_missing_from_quarantine_and_duplicates_are_found_out(folder: Path) -> None:
    manifests = RunDirectory.open(folder).versions()
    version = next(found["version"] for found in manifests if "duplicates" in found["tables"])
    rewrite(folder, version, "duplicates", lambda table: table.slice(0, 0))
    for manifest in manifests:
        if "quarantine" in manifest["tables"]:
            rewrite(folder, manifest["version"], "quarantine", lambda table: table.slice(0, 0))
    found = violations(folder)
    assert len(found) == 3
    assert found[0].startswith("quarantine: expected an entry of part-1.parquet (200:")
    assert "of part-3.parquet and " in found[1]
    assert found[2].startswith("row 5 of part-2.parquet: expected a row that cannot be used to be in quarantine, got ")


def test_a_row_in_two_states_at_once_is_found_out(folder: Path) -> None:
    found = RunDirectory.open(folder)
    holder = next(manifest["version"] for manifest in found.versions() if "quarantine" in manifest["tables"])
    learned = found.table("ledger", last=1).to_pylist()[0]

    def also(rows: Rows) -> None:
        offset = learned["ranges"][0]["start"]
        rows.append({**rows[0], "row": offset, "fragment": learned["fragment"], "offset": offset, "fingerprint": None})

    rewrite(folder, holder, "quarantine", lambda table: entries(table, also))
    assert violations(folder) == [
        "row 1 of part-0.parquet: expected every row in one state, got learned and in quarantine at once; go back to a "
        "copy of the run from before, or learn the stream again with another --out"
    ]


@pytest.mark.parametrize("file", ["2/model.safetensors", "2/commit.zip", "2/history.arrow", "4/state.zip"])
def test_a_flipped_byte_in_any_file_of_a_version_is_found_out(folder: Path, file: str) -> None:
    path = folder / "versions" / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    found = audit(folder).violations
    assert found[0].place == str(path)
    assert found[0].expected.endswith("as committed")
    assert found[0].remedy == "restore it from a copy of the run"


def test_a_flipped_byte_in_the_state_of_a_participant_is_found_out(folder: Path) -> None:
    [path] = folder.glob("state/all/4/tensors-*")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert [violation.place for violation in audit(folder).violations] == [str(path)]


def test_a_flipped_byte_in_any_segment_is_found_out(folder: Path) -> None:
    tables = [path.name for path in folder.iterdir() if (path / "x").parent.is_dir() and list(path.glob("0*.parquet"))]
    assert set(tables) >= {"metrics", "ledger", "duplicates", "quarantine", "manifests"}
    for table in tables:
        [path] = (folder / table).iterdir()
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + b"?")
        [violation] = audit(folder).violations
        assert violation.place == str(path)
        assert violation.remedy.startswith("delete segments.json")
        path.unlink()
        assert [violation.got for violation in audit(folder).violations] == ["none"]
        (folder / "segments.json").unlink()  # as the remedy says
        assert main(["versions", str(folder)]) == 0
        assert audit(folder).violations == []


def test_a_segment_that_says_something_else_than_the_versions_is_found_out(folder: Path) -> None:
    segments = Segments(folder)
    segments.read()
    segments.rewrite("ledger", lambda table: (entries(table, taken_out), 1))
    found = audit(folder).violations[0]
    assert found.place.startswith(str(folder / "manifests"))
    assert " rows of ledger, those of version 1" in found.expected
    assert "where the version says version 1" in found.got
    (folder / "segments.json").write_text("{}")
    assert audit(folder).violations[0].place == str(folder / "segments.json")


def test_the_rows_that_manifest_metrics_and_ledger_tell_must_agree(folder: Path) -> None:
    rewrite(folder, 1, "ledger", lambda table: entries(table, taken_out), told=False)
    assert any("rows in the ledger, as metrics of version 1 says, got " in line for line in violations(folder))


def test_files_that_are_gone_or_changed_are_told(tmp_path: Path) -> None:
    out, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    for part in range(2):
        pq.write_table(pa.table({"x": np.arange(10) % 3, "y": np.arange(10) % 2}), data / f"part-{part}.parquet")
    run(plain(data), out)
    file = data / "part-0.parquet"
    raw = file.read_bytes()
    file.unlink()
    found = audit(out)
    assert (found.violations, found.gone, found.states.states["learned"]) == ([], ["part-0.parquet"], 20)
    assert found.unproven == [
        "rows of files that are gone (part-0.parquet): what is known of them is in the run's tables alone"
    ]
    file.write_bytes(raw.replace(b"PAR1", b"PAR2", 1))
    assert [str(violation) for violation in audit(out).violations] == [
        f"part-0.parquet: expected the file that the run has read ({fingerprint_of_bytes(tmp_path, raw)}), got "
        f"{file_fingerprint(file)}; put it back, and add new rows as a new file"
    ]
    file.write_bytes(raw)
    assert audit(out).violations == []


def fingerprint_of_bytes(folder: Path, raw: bytes) -> str:
    (folder / "raw").write_bytes(raw)
    return file_fingerprint(folder / "raw")


def plain(data: Path, *settings: str) -> Job:
    """Files as they lie, five rows an increment."""
    document = {
        "stream": {"path": str(data), "every": 5, "settle": "0s"},
        "features": {"label": "y", "numeric": ["x"], "categorical": [], "classes": [0, 1]},
        "model": {"hidden": []},
        "learner": {"objective": "binary"},
    }
    return Job.from_document(document, settings)


def test_a_csv_that_grew_and_one_row_more_in_it(tmp_path: Path) -> None:
    file = tmp_path / "data/rows.csv"
    file.parent.mkdir()
    file.write_text("x,y\n" + "1,0\n2,1\n" * 10)
    job = plain(file.parent)
    run(job, tmp_path / "run")
    with open(file, "a") as more:
        more.write("3,1\n" * 4)
    found = audit(tmp_path / "run")
    assert (found.violations, found.states.states["learned"], found.states.pending["not reached yet"]) == ([], 20, 4)
    run(job, tmp_path / "run")
    found = audit(tmp_path / "run")
    assert (found.violations, found.states.states["learned"], found.states.states["pending"]) == ([], 24, 0)


def twenty() -> list[dict[str, list[float]]]:
    """The parts of a stream that a function gives."""
    return [{"x": [float(row % 3) for row in range(10)], "y": [float(row % 2) for row in range(10)]} for _ in range(2)]


def test_a_function_has_no_files_but_what_passed_is_counted(tmp_path: Path) -> None:
    job = plain(Path("tests.commands.test_audit:twenty"))
    run(job, tmp_path / "run")
    found = audit(tmp_path / "run")
    assert (found.violations, found.states.states["learned"]) == ([], 20)
    [unproven] = found.unproven
    assert unproven.startswith("that every row of the stream is in the tables, and none that is not: stream.path: ")
    rewrite(tmp_path / "run", 1, "ledger", lambda table: entries(table, taken_out))
    [violation] = audit(tmp_path / "run").violations
    assert (violation.expected, violation.got) == ("the 20 rows that have passed", "19 rows in one of them")


def test_a_run_that_has_committed_nothing_and_its_baselines(tmp_path: Path) -> None:
    job = Job.from_document(mixed(tmp_path / "data") | {"baselines": {"none": ["learner.frozen=true"]}})
    with RunDirectory.create(tmp_path / "begun", job.toml(), "local:f00d"):
        pass
    found = audit(tmp_path / "begun")
    assert (found.version, found.violations, found.states.pending["not reached yet"]) == (None, [], 100)
    run(job, tmp_path / "run")
    found = audit(tmp_path / "run")
    assert found.holds
    [path] = (tmp_path / "run/baselines/none/versions/1").glob("commit.zip")
    path.write_bytes(path.read_bytes() + b" ")
    assert not audit(tmp_path / "run").holds
    with pytest.raises(RunDirectoryError, match="expected a run directory, found none"):
        audit(tmp_path)


def test_a_million_rows_are_proven_without_a_look_at_each(tmp_path: Path) -> None:
    """A line of Python for every row, or for every tenth, would take the audit seconds."""
    draw = np.random.default_rng(0)
    rows = {"x": draw.normal(size=1_000_000), "y": draw.integers(0, 2, 1_000_000)}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "data" / "rows.parquet")
    run(plain(tmp_path / "data", "stream.every=100_000", "learner.batch_size=50_000"), tmp_path / "run")
    lines = 0

    def counting(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += "incr_core" in frame.f_code.co_filename  # what libraries import for the first time is not counted
        return counting

    sys.settrace(counting)
    found = audit(tmp_path / "run")
    sys.settrace(None)
    assert (found.violations, found.states.states["learned"]) == ([], 1_000_000)
    assert 0 < lines < 50_000
