"""State comes back as it was, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from incr_core.errors import CheckpointError, StorageError
from incr_core.storage import checkpoint, checksummed, model_sha256, read_checksummed, write_atomically
from incr_core.storage.packing import pack, unpack

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    content = draw(st.binary(min_size=8 * math.prod(shape), max_size=8 * math.prod(shape)))
    dtype = draw(st.sampled_from(DTYPES))
    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    if dtype is torch.bool:
        return (raw[: math.prod(shape)] > 127).reshape(shape)
    tensor = raw[: math.prod(shape) * dtype.itemsize].clone().view(dtype).reshape(shape)
    return tensor.mT if tensor.ndim > 1 and draw(st.booleans()) else tensor


arrays = npst.arrays(
    st.one_of(npst.scalar_dtypes(), npst.unicode_string_dtypes()), npst.array_shapes(min_dims=0, max_dims=2, max_side=3)
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), tensors(), arrays, arrays.map(lambda a: a.flat[0])
)
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.sampled_from(["$tuple", "__metadata__"])), inner, max_size=3),
        st.dictionaries(st.one_of(st.integers(), st.text(max_size=2)), inner, max_size=3),
    ),
    max_leaves=8,
)


def fingerprint(node: Any) -> Any:
    """A value equal for two states exactly when types, order and bits are."""
    match node:
        case dict():
            return "dict", [(fingerprint(key), fingerprint(value)) for key, value in node.items()]
        case list() | tuple():
            return type(node), [fingerprint(item) for item in node]
        case torch.Tensor():
            return node.dtype, node.shape, node.contiguous().reshape(-1).view(torch.uint8).tolist()
        case np.ndarray() | np.generic():
            return type(node), node.dtype, node.shape, node.tobytes()
        case float():
            return float, struct.pack("d", node)
    return type(node), node


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(states)
@example([math.nan, -math.nan, math.inf, -math.inf, -0.0, struct.unpack("d", b"\1\2\3\4\5\6\xf8\x7f")[0]])
@example(
    {
        "$tensor": {"a/b": torch.ones(1), "a": {"b": torch.zeros(())}},
        "": np.array("", "U0"),
        "\ud800": np.float32("nan"),
    }
)
def test_packed_and_unpacked_through_json_is_the_same_state(state: Any) -> None:
    flat, structure = pack(state)
    content = safetensors.torch.save(flat)
    again = unpack(safetensors.torch.load(content), json.loads(json.dumps(structure, allow_nan=False)))
    assert fingerprint(again) == fingerprint(state)


def test_a_saved_state_shares_nothing_with_the_living_one(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    state = {"all": base, "even": base[::2], "again": base, "first": base[:1], "param": torch.nn.Parameter(base)}
    checkpoint.save(tmp_path / "s", state, cursor=[1, 2])
    base.zero_()
    loaded, manifest = checkpoint.load(tmp_path / "s")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        "all": [0, 1, 2, 3, 4, 5],
        "even": [0, 2, 4],
        "again": [0, 1, 2, 3, 4, 5],
        "first": [0],
        "param": [0, 1, 2, 3, 4, 5],
    }
    assert manifest == {"cursor": [1, 2]}
    loaded["all"][0] = 7  # writable, and without a warning


def test_random_number_generators_resume(tmp_path: Path) -> None:
    generator, numbers = torch.Generator().manual_seed(3), np.random.default_rng(3)
    checkpoint.save(
        tmp_path / "s", {"torch": generator.get_state(), "numpy": numbers.bit_generator.state, "py": random.getstate()}
    )
    expected = torch.rand(3, generator=generator).tolist(), numbers.random(3).tolist()
    loaded, _ = checkpoint.load(tmp_path / "s")
    generator.set_state(loaded["torch"])
    numbers.bit_generator.state = loaded["numpy"]
    random.setstate(loaded["py"])
    assert (torch.rand(3, generator=generator).tolist(), numbers.random(3).tolist()) == expected


def test_an_optimiser_state_comes_back() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam([weight], fused=True)
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    state = optimiser.state_dict()
    assert fingerprint(unpack(*pack(OrderedDict(state)))) == fingerprint(state)


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("state", "path", "got"),
    [
        ({"a": [1, {"b": object()}]}, "a/1/b", "builtins.object"),
        ({"a": {(1, 2): 3}}, "a/(1, 2)", "a key of type tuple"),
        ({"a": {True: 3}}, "a/True", "a key of type bool"),
        ({"a": b"bytes"}, "a", "builtins.bytes"),
        ({"a": {1, 2}}, "a", "builtins.set"),
        ({"pair": Pair(1, 2)}, "pair", "Pair"),
        ({"o": np.array([object()])}, "o", "numpy.ndarray"),
        ({"s": torch.ones(2, 2).to_sparse()}, "s", "torch.sparse_coo"),
        ({"c": torch.ones(1).to(torch.float8_e8m0fnu)}, "c", "torch.float8_e8m0fnu"),
    ],
)
def test_what_cannot_be_kept_is_named(state: Any, path: str, got: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        pack(state)
    message = str(caught.value)
    assert message.startswith(f"state[{path}]: expected a dict with str or int keys, list, tuple")
    assert got in message


# Hashes


def test_model_sha256_is_the_documented_sum() -> None:
    weights = {"b": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16), "a": torch.tensor(3)}
    expected = hashlib.sha256(
        b'["a","int64",[]]\n' + struct.pack("<q", 3) + b'["b","bfloat16",[1,2]]\n' + bytes([0xC0, 0x3F, 0x00, 0xC0])
    )
    assert model_sha256(weights) == expected.hexdigest()


def test_model_sha256_tells_models_apart() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}
    others: list[dict[str, torch.Tensor]] = [
        base,
        {"a": torch.zeros(3, 2), "b": torch.zeros(2)},
        {"a": torch.zeros(2, 3), "c": torch.zeros(2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.zeros(2)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([0.0, -0.0])},
        {"a": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(0)},
        {"a": torch.zeros(2, 3), "b": torch.zeros(1), "c": torch.zeros(1)},
    ]
    assert len({model_sha256(weights) for weights in others}) == len(others)
    assert model_sha256(dict(reversed(base.items()))) == model_sha256(base)


# Damage


def saved(folder: Path) -> Path:
    checkpoint.save(folder / "s", {"weight": torch.arange(4.0), "step": 3, "lr": 0.5}, version=3)
    return folder / "s"


@pytest.mark.parametrize("name", ["state.json", "tensors-*.safetensors"])
def test_any_flipped_byte_is_refused_with_the_files_name(tmp_path: Path, name: str) -> None:
    (file,) = saved(tmp_path).glob(name)
    intact = file.read_bytes()
    for position in range(len(intact)):
        for bit in (1, 0x20, 0x80):
            file.write_bytes(intact[:position] + bytes([intact[position] ^ bit]) + intact[position + 1 :])
            with pytest.raises(CheckpointError, match=file.name):
                checkpoint.load(tmp_path / "s")
    file.write_bytes(intact)
    checkpoint.load(tmp_path / "s")


@pytest.mark.parametrize("name", ["state.json", "tensors-*.safetensors"])
def test_cut_and_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    (file,) = saved(tmp_path).glob(name)
    intact = file.read_bytes()
    for length in (0, 1, len(intact) // 2, len(intact) - 1):
        file.write_bytes(intact[:length])
        with pytest.raises(CheckpointError, match=file.name):
            checkpoint.load(tmp_path / "s")
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file.name}: expected a file, found none"):
        checkpoint.load(tmp_path / "s")


def test_an_unknown_schema_is_not_called_damage(tmp_path: Path) -> None:
    file = saved(tmp_path) / "state.json"
    file.write_bytes(checksummed({**read_checksummed(file), "schema": 4}))
    with pytest.raises(CheckpointError, match=r"state.json: expected schema 3, found 4; read it with the incr version"):
        checkpoint.load(tmp_path / "s")


def test_sealed_files_are_plain_json(tmp_path: Path) -> None:
    document = json.loads((saved(tmp_path) / "state.json").read_text())
    assert document["state"]["step"] == 3
    assert len(document["sha256"]) == 64


def test_a_manifest_json_cannot_hold_is_refused() -> None:
    with pytest.raises(CheckpointError, match="manifest: expected values JSON can hold, got Out of range float"):
        checksummed({"rate": math.nan})


# The disk refuses


class DiskFullError(OSError):
    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("broken", "call"), [*(("fsync", n) for n in range(1, 6)), ("replace", 1), ("replace", 2)])
def test_a_full_disk_while_saving_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, call: int
) -> None:
    folder = saved(tmp_path)
    calls, real = 0, getattr(os, broken)

    def refuse(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise DiskFullError
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, refuse)
        message = rf"{folder}.*: cannot be written: No space left on device \(ENOSPC\); earlier versions are intact"
        with pytest.raises(StorageError, match=message):
            checkpoint.save(folder, {"weight": torch.arange(5.0)}, version=4)
    # Once state.json has its new name, the new state is the one there.
    named = (broken, call) in {("fsync", 4), ("fsync", 5)}
    assert checkpoint.load(folder)[1]["version"] == (4 if named else 3)
    assert not list(folder.rglob(".tmp-*"))


def test_a_state_saved_again_leaves_no_old_tensors(tmp_path: Path) -> None:
    saved(tmp_path)
    checkpoint.save(tmp_path / "s", {"weight": torch.ones(1)})
    assert len(list((tmp_path / "s").iterdir())) == 2


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "champion"
    write_atomically(file, lambda stream: stream.write(b"3"))

    def half(stream: Any) -> None:
        stream.write(b"44")
        raise DiskFullError

    with pytest.raises(StorageError, match=r"champion: cannot be written: No space left on device \(ENOSPC\)"):
        write_atomically(file, half)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("champion", b"3")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"file/s: cannot be written: Not a directory \(ENOTDIR\); earlier"):
        checkpoint.save(tmp_path / "file" / "s", {})
