"""The notebook of the first steps runs, cell by cell, up to a prediction over HTTP."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT

NOTEBOOK = ROOT / "examples/notebook/first_steps.ipynb"


def cells() -> list[str]:
    """The code cells of the notebook, in order."""
    document = json.loads(NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that cells define, in an empty folder. A server that a cell leaves behind is ended."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"__name__": "__main__"}
    yield found
    if "server" in found:
        found["server"].kill()
        found["server"].communicate()


def test_the_notebook_gets_from_a_table_to_a_served_champion(names: dict[str, Any]) -> None:
    for cell in cells():
        exec(compile(ast.parse(cell), NOTEBOOK.name, "exec"), names)
    assert names["run"].summary.prequential["auc"] > 0.95
    assert names["answer"]["version"] == names["run"].champion.number == 20
    light, heavy = [one["probability"] for one in names["answer"]["predictions"]]
    assert light < 0.1
    assert heavy > 0.9
    assert names["server"].returncode is not None


def test_the_notebook_is_stored_without_outputs() -> None:
    """Outputs hold paths and figures of one machine."""
    document = json.loads(NOTEBOOK.read_text())
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in document["cells"])
