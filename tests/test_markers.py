"""`make quick` leaves out what starts Ray or Flower: every such test module carries the marker."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.repository import ROOT

MODULES = sorted(path for path in (ROOT / "tests").rglob("test_*.py"))
IMPORTS = {"ray": {"ray", "cluster.engine", "cluster.session"}, "flower": {"flwr", "federated"}}
"""Marker -> modules of which a test module under it imports one, itself or by a module of the tests."""
COMMANDS = {"ray": ("cluster", "ray"), "flower": ("federated", "flwr", "flower-superlink")}
"""Marker -> words that stand alone in a command line under it: of `incr ... --on ENGINE`, or a program's name."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules that importing a file imports, with the packages they are in."""
    found: set[str] = set()
    for node in tree_of(path).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            found.update(".".join(parts[: count + 1]) for count in range(len(parts)))
    return frozenset(found)


def reached(path: Path) -> set[str]:
    """What a file imports, itself or by modules of the tests."""
    found: set[str] = set()
    todo = [path]
    while todo:
        new = imported(todo.pop()) - found
        found |= new
        files = (ROOT / f"{name.replace('.', '/')}.py" for name in new if name.startswith("tests."))
        todo += [file for file in files if file.exists()]
    return found


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


def words(path: Path) -> set[str]:
    """The string literals of a file that are whole words of commands: items of a list, behind a `/`, or `on="..."`."""
    found: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.keyword) and node.arg == "on" and isinstance(node.value, ast.Constant):
            found |= {"--on", str(node.value.value)}
        items = node.elts if isinstance(node, ast.List) else [node.right] if isinstance(node, ast.BinOp) else []
        found |= {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}
    return found


def marks(path: Path) -> set[str]:
    """The names of the markers that a file mentions."""
    return {
        node.attr
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "mark"
    }


def fixtures(path: Path) -> set[str]:
    """What may be the name of a fixture: arguments, and what stands in a call of its own."""
    nodes = nodes_of(path)
    arguments = {node.arg for node in nodes if isinstance(node, ast.arg)}
    calls = (node for node in nodes if isinstance(node, ast.Call))
    return arguments | {str(one.value) for call in calls for one in call.args if isinstance(one, ast.Constant)}


def needed(path: Path) -> set[str]:
    names, spoken = reached(path), words(path)
    names |= {"ray"} & {name.removesuffix("_session") for name in fixtures(path)}
    by_command = {
        marker
        for marker, (engine, *programs) in COMMANDS.items()
        if {"--on", engine} <= spoken or spoken.intersection(programs)
    }
    return by_command | {marker for marker, modules in IMPORTS.items() if modules & names}


def test_what_needs_ray_or_flower_is_marked() -> None:
    missing = {str(path.relative_to(ROOT)): wrong for path in MODULES if (wrong := needed(path) - marks(path))}
    assert missing == {}, "expected pytestmark = pytest.mark.ray, or flower"


@pytest.mark.parametrize(
    ("text", "markers"),
    [
        ("import ray", {"ray"}),
        ("from cluster.session import Session", {"ray"}),
        ("from tests.support.cluster_runs import run", {"ray"}),
        ("from federated._records import pack", {"flower"}),
        ("from cluster._exchange import Exchange", set()),
        ("from tests.support.federated_runs import finish", set()),
        ('subprocess.run(["incr", "run", "job.toml", "--on", "cluster"])', {"ray"}),
        ('main(["run", job, "--on", "federated"])', {"flower"}),
        ('main(["run", job, "--on", "mars"])', set()),
        ('run(job, out, on="federated")', {"flower"}),
        ("def test_it(ray_session): ...", {"ray"}),
        ('pytestmark = pytest.mark.usefixtures("ray_session")', {"ray"}),
        ('RAY = str(BIN / "ray")', {"ray"}),
        ("def later():\n    import ray", set()),
    ],
)
def test_what_a_module_needs_is_seen_in_its_text(text: str, markers: set[str], tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(text)
    assert needed(path) == markers


def test_what_the_check_looks_for_exists() -> None:
    assert all(find_spec(name) for names in IMPORTS.values() for name in names)


@pytest.mark.slow
def test_a_test_cannot_start_ray_unmarked_or_one_of_its_own(tmp_path: Path) -> None:
    """However deep in the code it does, under the hooks of `tests/conftest.py`."""
    test = tmp_path / "test_it.py"
    body = "    from cluster.session import Session\n    Session(None, 1).close()\n"
    test.write_text(f"import pytest\n\ndef test_it():\n{body}\n@pytest.mark.ray\ndef test_second():\n{body}")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), str(test)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "test_it.py::test_it starts Ray; mark it: pytestmark = pytest.mark.ray" in done.stdout
    assert "test_it.py::test_second starts a Ray of its own; let it use the fixture ray_session" in done.stdout


@pytest.mark.slow
def test_the_tests_on_a_gpu_are_collected_where_neither_ray_nor_flower_is_installed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nfor name in ('ray', 'flwr'): sys.modules[name] = None\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests", "--collect-only"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "tests/gpu/test_runs.py" in done.stdout
