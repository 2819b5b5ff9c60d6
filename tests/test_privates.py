"""A library that keeps something elsewhere than where we look for it is named, with the version that we know."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from incr_core.errors import IncrError
from incr_core.numerics import ToldOfChanges, is_stand_in, log_softmax_gradient, own_buffers, writes
from tests.support.privates import PRIVATES
from tests.support.repository import ROOT


def test_each_library_has_one_file_of_privates() -> None:
    """Any other file that says with which version it was tested, or is called so, is a second one."""
    files = {
        str(path.relative_to(ROOT))
        for package in ("incr_core", "cluster", "federated")
        for path in (ROOT / package).rglob("*.py")
        if path.stem.endswith("_privates") or re.search(r"^TESTED = ", path.read_text(), re.MULTILINE)
    }
    assert files == set(PRIVATES.values())


@pytest.mark.parametrize(("library", "file"), PRIVATES.items())
def test_the_version_that_was_tested_is_the_one_that_is_installed(library: str, file: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    tested = re.search(r'^TESTED = "(.+)"$', (ROOT / file).read_text(), re.MULTILINE)
    assert tested is not None
    assert f"{metadata.version(library)}.".startswith(f"{tested[1]}.")


@pytest.mark.parametrize("name", ["_buffers", "_timeout"])
def test_a_torch_without_a_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    privates = importlib.import_module("incr_core.numerics._torch_privates")
    options = SimpleNamespace(Options=SimpleNamespace(_timeout=None))  # as no build for processors has them
    stand_in = SimpleNamespace(is_nccl_available=lambda: True, ProcessGroupNCCL=options)
    monkeypatch.setattr(privates, "dist", stand_in)
    privates._check()
    monkeypatch.setattr(
        privates, "hasattr", lambda thing, asked: asked != name and hasattr(thing, asked), raising=False
    )
    said = rf"{name}, found none; incr was tested with torch 2\.13: pip install 'torch==2\.13\.\*'$"
    with pytest.raises(IncrError, match=rf"^torch .*: expected its private names {said}"):
        privates._check()


def test_a_ray_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    privates = importlib.import_module("cluster._ray_privates")
    monkeypatch.setattr(privates, "state", SimpleNamespace())
    said = (
        rf"^ray {re.escape(privates.ray.__version__)}: expected its private name get_draining_nodes, found none; incr"
    )
    with pytest.raises(IncrError, match=said):
        privates._check()


@pytest.mark.slow
def test_a_river_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("river")
    detectors = importlib.import_module("incr_core.drift._river")
    river = detectors.river()
    monkeypatch.setattr(detectors, "hasattr", lambda thing, asked: asked != "_rng", raising=False)
    said = f"river {river.__version__}: expected its private names _rng, found none; incr was tested with river 0.26:"
    with pytest.raises(IncrError, match=f"^{re.escape(said)} pip install 'river=="):
        detectors._check.__wrapped__(river)


@pytest.mark.flower
@pytest.mark.parametrize(("holder", "name"), [("flwr.app.message", "make_message"), ("flwr.supercore.fab", "Fab")])
def test_a_flower_without_a_name_is_refused(holder: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flwr.app")
    whole = importlib.import_module("federated._flower_privates")
    monkeypatch.delattr(importlib.import_module(holder), name)
    assert whole.__file__ is not None
    spec = importlib.util.spec_from_file_location("again", whole.__file__)
    assert spec is not None
    assert spec.loader is not None
    said = rf"^flwr [\d.]+: expected its undocumented names as in flwr 1\.41\.0, .* cannot import name '{name}' from .*"
    with pytest.raises(IncrError, match=said):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.flower
def test_a_flower_that_does_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flwr.app")
    privates = importlib.import_module("federated._flower_privates")
    monkeypatch.setattr(privates, "named", lambda message, name: message)
    with pytest.raises(IncrError, match=r"^flwr [\d.]+: expected the number of a message as in flwr 1\.41\.0"):
        privates._check()


class Noting(ToldOfChanges):
    def __init__(self) -> None:
        super().__init__()
        self.changes = 0
        self.register_buffer("mine", torch.zeros(2))
        self.part = nn.BatchNorm1d(1)

    def tensors_changed(self) -> None:
        self.changes += 1


@pytest.mark.parametrize(
    "change", [lambda m: m.double(), lambda m: m.load_state_dict(m.state_dict()), lambda m: nn.Sequential(m).to("cpu")]
)
def test_a_module_is_told_when_its_tensors_change(change: Callable[[Any], Any]) -> None:
    module = Noting()
    change(module)
    assert module.changes == 1


def test_what_torch_keeps_to_itself_is_what_we_take_it_for() -> None:
    module = Noting()
    assert list(own_buffers(module)) == ["mine"]
    mine: Any = module.mine
    before = writes(mine)
    mine.add_(1.0)
    assert writes(mine) == before + 1
    x = torch.tensor([[0.5, -1.0, 2.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(x, torch.tensor([2])), x)
    wanted = torch.tensor([[0.0, 0.0, -1.0]])
    assert log_softmax_gradient(wanted, x.log_softmax(1), 1, x.dtype).equal(slope)
    layer = nn.Linear(1, 1)
    assert not is_stand_in(x)
    assert is_stand_in(layer.weight)  # a subclass of Tensor
    assert torch.func.vmap(lambda row: row * is_stand_in(row))(torch.ones(2, 1)).tolist() == [[1.0], [1.0]]
