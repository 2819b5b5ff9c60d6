"""What can be named, of every kind: one of ours, an entry point, or "module:attribute"; or refused in one form."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from incr_core._util import Catalogue
from incr_core.data.sources import SOURCES, open_source
from incr_core.engines import ENGINES
from incr_core.errors import ArgumentError, EngineError, JobError, StreamError
from incr_core.job import PREPARES
from incr_core.learner import OPTIMIZERS, SCHEDULES
from incr_core.memories import MEMORIES, memory_named
from incr_core.models import MODELS
from incr_core.models.adapt import ADAPTATIONS
from incr_core.objectives import OBJECTIVES
from incr_core.rounds import OUTERS
from incr_core.strategies import STRATEGIES
from incr_core.trackers import TRACKERS
from tests.support.repository import ROOT

CATALOGUES: dict[str, tuple[str, Catalogue[Any]]] = {
    "strategies": ("strategy.name", STRATEGIES),
    "memories": ("replay.memory", MEMORIES),
    "objectives": ("learner.objective", OBJECTIVES),
    "optimizers": ("learner.optimizer.name", OPTIMIZERS),
    "schedules": ("learner.schedule.name", SCHEDULES),
    "models": ("model.factory", MODELS),
    "adaptations": ("model.adapt.name", ADAPTATIONS),
    "outer_steps": ("outer.name", OUTERS),
    "sources": ("stream.path", SOURCES),
    "prepares": ("features.prepare", PREPARES),
    "trackers": ("track.callbacks", TRACKERS),
    "engines": ("on", ENGINES),
}
"""By the end of the group's name: a place that names one, and the catalogue."""

ERRORS = {"engines": ArgumentError, "memories": ArgumentError, "optimizers": ArgumentError, "sources": StreamError}

KINDS = pytest.mark.parametrize("kind", CATALOGUES)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody else's that declares an entry point `theirs` of every group, and one that breaks."""
    folder = tmp_path / "their_things-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-things\nVersion: 1.0\nProvides-Extra: lacks\n")
    (folder / "entry_points.txt").write_text(
        "\n".join(
            f"[incr.{kind}]\ntheirs = their_things:make\nbreaks = their_broken:make\nlacks = their_lack:make\n"
            "ewc = their_things:make\n"
            for kind in CATALOGUES
        )
    )
    (tmp_path / "their_things.py").write_text("def make():\n    return 7\n")
    (tmp_path / "their_broken.py").write_text("raise ValueError('no such setting')\n")
    (tmp_path / "their_lack.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


@KINDS
def test_a_catalogue_finds_ours_entry_points_and_attributes_of_modules(kind: str, installed: Path) -> None:
    place, catalogue = CATALOGUES[kind]
    assert catalogue.group == f"incr.{kind}"
    for name, ours in catalogue.items():
        assert catalogue.find(name, place) is ours
    for name in ("theirs", "their_things:make"):
        assert catalogue.fault(name) == ""
        assert catalogue.find(name, place)() == 7


@KINDS
def test_a_name_that_is_not_known_is_refused_with_what_may_have_been_meant(kind: str, installed: Path) -> None:
    place, catalogue = CATALOGUES[kind]
    with pytest.raises(ERRORS.get(kind, JobError)) as caught:
        catalogue.find("their", place)
    assert str(caught.value) == f"{place}: expected {catalogue.what}, got 'their'; did you mean 'theirs'?"
    assert catalogue.fault("their") == str(caught.value).removeprefix(f"{place}: ")
    with pytest.raises(ERRORS.get(kind, JobError)) as caught:
        catalogue.find("their_things:mak", place)
    told = f"{place} \"their_things:mak\": expected a function mak in their_things, got none; did you mean 'make'?"
    assert str(caught.value) == told


@KINDS
def test_a_plugin_that_cannot_be_imported_is_told(kind: str, installed: Path) -> None:
    place, catalogue = CATALOGUES[kind]
    with pytest.raises(EngineError if kind == "engines" else ERRORS.get(kind, JobError)) as caught:
        catalogue.find("breaks", place)
    assert str(caught.value) == (
        f'{place} "breaks": expected their_broken:make to be imported, got ValueError: no such setting; '
        "mend its installation or its settings in the environment"
    )
    with pytest.raises(ERRORS.get(kind, JobError)) as caught:
        catalogue.find("lacks", place)
    assert str(caught.value) == (
        f"{place} \"lacks\": expected the package no_such_package, got none; pip install 'their-things[lacks]'"
    )


@KINDS
def test_a_missing_module_or_function_is_named_with_a_remedy(kind: str, installed: Path) -> None:
    place, catalogue = CATALOGUES[kind]
    with pytest.raises(
        ERRORS.get(kind, JobError), match="no_such_module, got none; write it beside the job file, or in"
    ):
        catalogue.find("no_such_module:make", place)
    with pytest.raises(ERRORS.get(kind, JobError), match=r"got none; known: make$"):
        catalogue.find("their_things:other", place)


@KINDS
def test_what_cannot_be_called_is_refused(kind: str) -> None:
    place, catalogue = CATALOGUES[kind]
    with pytest.raises(ERRORS.get(kind, JobError)) as caught:
        catalogue.find("math:pi", place)
    assert str(caught.value) == f'{place} "math:pi": expected a function, got float; name one that makes it'


@KINDS
def test_every_group_is_documented(kind: str) -> None:
    page = (ROOT / "docs" / "plugins.md").read_text()
    assert f"| `incr.{kind}` |" in page


def test_ours_are_hidden_by_nobody(installed: Path) -> None:
    assert STRATEGIES.find("ewc", "strategy.name") is STRATEGIES["ewc"]
    assert "ewc" not in STRATEGIES.plugins()


def test_a_catalogue_without_names_says_how_to_write_one() -> None:
    assert MODELS.fault("resnet") == "expected a model, got 'resnet'; write \"module:name\""


def test_a_memory_by_an_entry_point_must_be_one(installed: Path) -> None:
    (installed / "their_memory.py").write_text("from incr_core.memories import Reservoir as Theirs\n")
    assert memory_named("replay.memory", "their_memory:Theirs", 10).capacity == 10
    with pytest.raises(ArgumentError, match=r"replay.memory: expected builtins:max to make a Memory, got int; name a"):
        memory_named("replay.memory", "builtins:max", 10, 20)


def test_a_source_by_an_entry_point_is_read(installed: Path) -> None:
    (installed / "their_things.py").write_text("def make():\n    yield {'x': [1, 2]}\n")
    assert open_source("theirs") is not None


def test_a_module_beside_the_job_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    (tmp_path / "beside_the_job.py").write_text("def seven():\n    return 7\n")
    assert MODELS.find("beside_the_job:seven", "model.factory", str(tmp_path))() == 7


def test_a_module_that_is_there_but_fails_is_told_from_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    with pytest.raises(JobError, match=r"Python module needs_more, got one that .*No module named 'no_such_package'"):
        MODELS.find("needs_more:model", "model.factory")
    with pytest.raises(JobError, match=r"Python module no_such_package.inner, got none"):
        MODELS.find("no_such_package.inner:model", "model.factory")


def test_a_stream_that_names_no_function_is_refused() -> None:
    with pytest.raises(StreamError, match=r'stream.path "math:pi": expected a function, got float'):
        open_source("math:pi")
