"""What a module may import and use: of a package of ours what it promises, of another library what it documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.privates import PRIVATES
from tests.support.repository import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("incr_core", "cluster", "federated")
PRODUCT = (*PACKAGES, "examples", "benchmarks")
DOCUMENTED = r"_foreach_\w+|_(save_to|load_from)_state_dict|_replace|_asdict|_fields|_make|_exit|_current_frames"
"""Names that look private and are not: torch's operations on lists, what its docstrings tell modules to override, those
of named tuples, `os._exit`, `sys._current_frames`."""
FLOWER = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy")
"""The modules that Flower documents."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def named(path: Path) -> str:
    """A file by its place in the repository."""
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


def private(name: str) -> bool:
    """Whether a name is: it begins with one underscore."""
    return re.fullmatch(r"_(?!_)\w+", name) is not None and re.fullmatch(DOCUMENTED, name) is None


TORCHS = {
    name
    for thing in (nn.Module(), torch.zeros(1), torch.optim.SGD([torch.zeros(1)]))
    for name in (*dir(thing), *vars(thing))
    if private(name)
}
"""Private names of torch's modules, tensors and optimisers: only of `self` can they be ours."""


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All that is imported anywhere in a module, with its line: modules, and names as `module.name`."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported_tests(tree: ast.Module) -> list[str]:
    """The test modules and conftests that a module imports."""
    return [
        f"{line}: {name}"
        for line, name in imports(tree)
        if name.startswith("tests.") and re.search(r"\.(test_\w+|conftest)\b", name)
    ]


def imported_strangers(tree: ast.Module, module: str) -> list[str]:
    """The private modules that a module of ours imports of packages that it is not in."""
    found = []
    for line, name in imports(tree):
        parts = name.split(".")
        owner = next((".".join(parts[:at]) for at, part in enumerate(parts) if private(part)), None)
        if parts[0] in PACKAGES and owner is not None and not module.startswith(f"{owner}."):
            found.append(f"{line}: {name}")
    return found


def imported_privates(tree: ast.Module) -> list[str]:
    """What a module imports of other libraries under private names, and of Flower's undocumented modules."""
    found = []
    for line, name in imports(tree):
        root, *rest = name.split(".")
        flowers = root == "flwr" and rest and not {name, name.rpartition(".")[0]}.intersection(FLOWER)
        if root not in (*PRODUCT, "tests", "tools", "__future__") and (flowers or any(map(private, rest))):
            found.append(f"{line}: {name}")
    return found


def ours_in(tree: ast.Module) -> set[str]:
    """The private names that a module gives to things of its own."""
    found = set()
    for node in nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
    return set(filter(private, found))


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def used_privates(tree: ast.Module, ours: set[str]) -> list[str]:
    """The private names by which a module asks things that are not its own, or overrides what torch keeps to itself.

    ours: the private names of all our modules.
    """
    found = []
    for node in nodes(tree):
        name, known = "", ours - TORCHS
        if isinstance(node, ast.Attribute):
            name, known = node.attr, ours if is_self(node.value) else known
        elif isinstance(node, ast.FunctionDef):
            name = node.name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            told = node.args[1]
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr") and isinstance(told, ast.Constant):
                name = str(told.value)
        if private(name) and name not in known:
            found.append(f"{getattr(node, 'lineno', 0)}: {name}")
    return found


def test_no_test_imports_a_test() -> None:
    found = {named(path): wrong for path in sources("tests") if (wrong := imported_tests(tree_of(path)))}
    assert found == {}, "what tests share stands in tests/support"


def test_private_modules_are_imported_only_within_their_package() -> None:
    """Tests and benchmarks may: they try and time the parts that a package is made of."""
    found = {
        named(path): wrong
        for path in sources(*PACKAGES, "examples")
        if (wrong := imported_strangers(tree_of(path), named(path).removesuffix(".py").replace("/", ".")))
    }
    assert found == {}, "import what the package's __init__ exports"


def test_what_other_libraries_keep_to_themselves_is_used_in_one_file_for_each() -> None:
    ours = set().union(*(ours_in(tree_of(path)) for path in sources(*PRODUCT)))
    found = {
        named(path): wrong
        for path in sources(*PRODUCT, "tests")
        if named(path) not in PRIVATES.values()
        and (
            wrong := imported_privates(tree_of(path))
            # Tests may look into what they test.
            + ([] if named(path).startswith("tests/") else used_privates(tree_of(path), ours))
        )
    }
    assert found == {}, f"give it a public name in one of {', '.join(PRIVATES.values())}, and check it there"


def test_the_files_of_privates_exist_and_need_their_place_there() -> None:
    trees = [tree_of(ROOT / name) for name in PRIVATES.values()]
    # A name that a file of ours uses too is theirs there.
    assert all(imported_privates(tree) + used_privates(tree, ours_in(tree)) for tree in trees)


@pytest.mark.parametrize(("library", "file"), PRIVATES.items())
def test_a_file_of_privates_uses_those_of_its_own_library(library: str, file: str) -> None:
    others = [name for name in imported_privates(tree_of(ROOT / file)) if name.split(" ")[1].split(".")[0] != library]
    assert others == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from tests.loop.test_divergence import job", ["1: tests.loop.test_divergence.job"]),
        ("def it():\n    from tests.loop import test_divergence", ["2: tests.loop.test_divergence"]),
        ("from tests.conftest import ROOT", ["1: tests.conftest.ROOT"]),
        ("import tests.cluster.conftest", ["1: tests.cluster.conftest"]),
        ("from tests.support.faults import DiesSaving\nimport test_of_others", []),
    ],
)
def test_an_import_of_a_test_is_seen(text: str, found: list[str]) -> None:
    assert imported_tests(ast.parse(text)) == found


@pytest.mark.parametrize(
    ("module", "text", "found"),
    [
        ("incr_core.loop._loop", "from incr_core.job._data import Data", ["1: incr_core.job._data.Data"]),
        ("incr_core.loop._loop", "from incr_core.loop import _events", []),
        ("incr_core.data.timeline._x", "from incr_core.data._row_ids import row_ids", []),
        ("incr_core.data.times", "import incr_core.data.timeline._x", ["1: incr_core.data.timeline._x"]),
        ("incr_core.job._job", "from incr_core._util import MadeWith", []),
        ("cluster.engine", "from incr_core._util import MadeWith", ["1: incr_core._util.MadeWith"]),
        ("federated.engine", "from incr_core.job import Job, _job", ["1: incr_core.job._job"]),
    ],
)
def test_an_import_past_a_packages_promise_is_seen(module: str, text: str, found: list[str]) -> None:
    assert imported_strangers(ast.parse(text), module) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from flwr.common.constant import ErrorCode", ["1: flwr.common.constant.ErrorCode"]),
        ("from flwr.app.message import make_message", ["1: flwr.app.message.make_message"]),
        ("from flwr.app import Message\nfrom flwr.serverapp.strategy import FedAvg", []),
        ("from torch.utils._pytree import tree_map", ["1: torch.utils._pytree.tree_map"]),
        ("from torch.nn.modules.batchnorm import _BatchNorm as N", ["1: torch.nn.modules.batchnorm._BatchNorm"]),
        ("len(layer._forward_hooks)", ["1: _forward_hooks"]),
        ("tensor._version", ["1: _version"]),
        ("self._version", []),  # one of ours
        ("self._buffers", ["1: _buffers"]),
        ("self._mine\nother._mine\nother._theirs", ["3: _theirs"]),
        ("getattr(group, '_timeout')", ["1: _timeout"]),
        ("def _apply(self): ...", ["1: _apply"]),
        ("torch._foreach_add_(a, b)\nplace._replace(x=1)\nos._exit(0)\nit.__dict__", []),
    ],
)
def test_a_private_name_of_another_library_is_seen(text: str, found: list[str]) -> None:
    tree = ast.parse(text)
    assert imported_privates(tree) + used_privates(tree, {"_mine", "_version"}) == found


CLOCKS = {"monotonic", "perf_counter", "process_time", "time"}


def timed(tree: ast.Module) -> list[str]:
    """The asserts that ask a clock: they fail on a busy machine. What may hang has a limit of minutes instead."""
    return [
        f"{one.lineno}: {ast.unparse(one)}"
        for one in nodes(tree)
        if isinstance(one, ast.Assert)
        for call in ast.walk(one.test)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CLOCKS
    ]


def test_no_test_asserts_how_long_something_takes() -> None:
    assert {named(path): wrong for path in sources("tests") if (wrong := timed(tree_of(path)))} == {}
    assert timed(ast.parse("assert time.monotonic() - begun < 15")) == ["1: assert time.monotonic() - begun < 15"]
