"""Save nested state without loss, and refuse it when a single byte has changed.

A state is split in two: tensors go to a safetensors file, everything else to JSON. Nothing is ever pickled.

    state --pack--> {"0:net/weight": Tensor}, {"net": {"weight": {"$tensor": "0:net/weight"}}, "step": 3}

On disk a checkpoint is a folder of two files. `state.json` names the tensors file by its hash and carries its
own checksum, so replacing `state.json` by a rename is the one moment at which a new state takes the place of
the old.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from incr_core.errors import CheckpointError, StorageError

__all__ = [
    "load",
    "model_sha256",
    "pack",
    "read_verified",
    "remove",
    "save",
    "seal",
    "sha256",
    "storage",
    "unpack",
    "unseal",
    "write_atomically",
    "write_folder",
]

SCHEMA = 1


# Hashes


def sha256(content: bytes) -> str:
    """SHA-256 of some bytes, in hex.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def model_sha256(weights: Mapping[str, Tensor]) -> str:
    r"""Hash weights: equal hash means equal model.

    SHA-256 over the weights in order of their names (by code point); each contributes

        one line of ASCII JSON: ["name", "float32", [rows, columns]] without spaces, then "\n"
        its elements' bytes, row-major, little-endian

    The line fixes how many bytes follow it, so no two different models feed the hash the same bytes. Where
    the tensors live, their strides and whether they share memory do not matter.

    >>> model_sha256({"a": torch.zeros(2)}) == model_sha256({"a": torch.zeros(4)[::2]})
    True
    >>> model_sha256({"a": torch.zeros(2)}) == model_sha256({"a": torch.zeros(2, dtype=torch.int32)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(header, separators=(",", ":")).encode() + b"\n")
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# State to tensors and JSON


def pack(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested state into flat tensors and JSON; `unpack` is its exact inverse.

    Takes dicts with str or int keys, lists, tuples, None, bool, int, float, str, tensors, and numpy arrays
    and scalars of any dtype without objects or fields. Dict subclasses come back as dict, tensors on the CPU.
    Tensors are copied, so the result is a snapshot and memory they share is stored twice.

    Raises CheckpointError naming the path of the first leaf it cannot keep.

    >>> tensors, structure = pack({"step": 3, "weight": torch.ones(2), "seen": (1, 2)})
    >>> structure
    {'step': 3, 'weight': {'$tensor': '0:weight'}, 'seen': {'$tuple': [1, 2]}}
    >>> list(tensors)
    ['0:weight']
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(state, (), tensors)


def unpack(tensors: Mapping[str, Tensor], structure: Any) -> Any:
    """Put back together what `pack` took apart.

    >>> unpack(*pack({1: (float("inf"), [torch.tensor(2)]), "name": None}))
    {1: (inf, [tensor(2)]), 'name': None}
    """
    if isinstance(structure, list):
        return [unpack(tensors, item) for item in structure]
    if not isinstance(structure, dict):
        return structure
    tag = next(iter(structure), "")
    if not tag.startswith("$"):
        return {key: unpack(tensors, value) for key, value in structure.items()}
    content = structure[tag]
    match tag:
        case "$tuple":
            return tuple(unpack(tensors, item) for item in content)
        case "$items":
            return {key: unpack(tensors, value) for key, value in content}
        case "$float":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        case "$tensor":
            return tensors[content]
        case "$array" | "$scalar":
            shape = structure.get("shape", ())
            array = np.ndarray(shape, np.dtype(structure["dtype"]), bytearray(tensors[content].numpy().tobytes()))
            return array if tag == "$array" else array[()]
    raise CheckpointError(f"state: unknown tag {tag!r}; it was saved by a newer incr")


def _pack(node: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    kind = type(node)
    if node is None or kind in (bool, int, str):
        return node
    if kind is float:
        # JSON has no nan or inf, and a nan's bits are part of the state.
        return node if np.isfinite(node) else {"$float": struct.pack(">d", node).hex()}
    if kind is list:
        return [_pack(item, (*path, str(i)), tensors) for i, item in enumerate(node)]
    if kind is tuple:
        return {"$tuple": [_pack(item, (*path, str(i)), tensors) for i, item in enumerate(node)]}
    if isinstance(node, dict):
        return _pack_dict(node, path, tensors)
    if isinstance(node, Tensor):
        if node.layout is not torch.strided or node.is_meta or node.dtype not in _STORED:
            raise _cannot_keep(path, f"a {node.layout} tensor of {node.dtype} on {node.device}")
        plain = node.detach().resolve_conj().resolve_neg()
        return {"$tensor": _store(plain.cpu().clone(memory_format=torch.contiguous_format), path, tensors)}
    if (kind is np.ndarray or isinstance(node, np.generic)) and node.dtype.kind in "biufcSUmM":
        # As bytes, because torch has no datetime64, no text and no big-endian numbers.
        flat = np.frombuffer(bytearray(node.tobytes()), np.uint8)
        key = _store(torch.from_numpy(flat), path, tensors)
        dtype = np.lib.format.dtype_to_descr(node.dtype)
        if isinstance(node, np.generic):
            return {"$scalar": key, "dtype": dtype}
        return {"$array": key, "dtype": dtype, "shape": list(node.shape)}
    raise _cannot_keep(path, f"a {kind.__module__}.{kind.__qualname__}")


def _pack_dict(node: dict[Any, Any], path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    packed = []
    for key, value in node.items():
        if type(key) not in (str, int):
            raise _cannot_keep((*path, repr(key)), f"a key of type {type(key).__qualname__}")
        packed.append((key, _pack(value, (*path, str(key)), tensors)))
    # A JSON object serves while its keys are text and cannot be taken for one of our tags.
    if all(type(key) is str and not key.startswith("$") for key, _ in packed):
        return dict(packed)
    return {"$items": [[key, value] for key, value in packed]}


def _store(tensor: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor]) -> str:
    # The count makes the key unique: {"a/b": t} and {"a": {"b": t}} have the same path.
    name = "/".join(path).encode("utf-8", "backslashreplace").decode()
    key = f"{len(tensors)}:{name}"
    tensors[key] = tensor
    return key


def _cannot_keep(path: tuple[str, ...], got: str) -> CheckpointError:
    return CheckpointError(
        f"state[{'/'.join(path)}]: expected a dict with str or int keys, list, tuple, None, bool, "
        f"int, float, str, dense tensor or numpy array, got {got}; keep it as one of those"
    )


# What safetensors has a name for.
_STORED = frozenset(
    getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    )
)


# Checkpoints on disk


def save(path: str | Path, state: Any, **manifest: Any) -> None:
    """Save a state in the folder `path`, replacing the one there in a single step.

    `manifest` is JSON-able and comes back beside the state. A kill at any moment leaves the old state or the
    new one. Raises StorageError when the disk refuses, CheckpointError for a leaf that cannot be kept.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/learner", {"weight": torch.ones(2)}, version=3)
    ...     load(f"{folder}/learner")
    ({'weight': tensor([1., 1.])}, {'version': 3})
    """
    folder = Path(path)
    tensors, structure = pack(state)
    content = safetensors.torch.save(tensors)
    name = f"tensors-{sha256(content)[:16]}.safetensors"
    document = {
        "schema": SCHEMA,
        "manifest": manifest,
        "tensors": {"file": name, "bytes": len(content), "sha256": sha256(content)},
        "state": structure,
    }
    sealed = seal(document)
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, content)
    write_atomically(folder / "state.json", sealed)
    with storage(folder):
        _sync(folder.parent)
        for stale in folder.glob("tensors-*.safetensors"):
            if stale.name != name:
                stale.unlink()


def load(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Load `(state, manifest)` from a folder written by `save`.

    Raises CheckpointError naming the file when one is missing, truncated or changed by as little as a bit, or
    was written by another schema version.

    >>> load("/nowhere/learner")
    Traceback (most recent call last):
    ...
    incr_core.errors.CheckpointError: /nowhere/learner/state.json: expected a file, found none; ...
    """
    folder = Path(path)
    document = unseal(folder / "state.json")
    stored = document["tensors"]
    content = read_verified(folder / stored["file"], stored["sha256"], stored["bytes"])
    return unpack(safetensors.torch.load(content), document["state"]), document["manifest"]


def read_verified(path: Path, expected: str, size: int | None = None) -> bytes:
    """Read a file and refuse it unless its SHA-256 is the expected one.

    >>> read_verified(Path("/nowhere/model.safetensors"), "e3b0")
    Traceback (most recent call last):
    ...
    incr_core.errors.CheckpointError: /nowhere/model.safetensors: expected a file, found none; ...
    """
    content = _read(path)
    if size is not None and len(content) != size:
        raise CheckpointError(f"{path}: expected {size} bytes, found {len(content)}; the file is cut; {_REMEDY}")
    if sha256(content) != expected:
        raise CheckpointError(
            f"{path}: expected SHA-256 {expected[:16]}..., found {sha256(content)[:16]}...; "
            f"the file is damaged; {_REMEDY}"
        )
    return content


# JSON that carries its own checksum


def seal(document: Mapping[str, Any]) -> bytes:
    r"""Write a non-empty JSON object whose last entry, "sha256", covers every byte before it.

    The checksum is that of the object without the entry. This framing never changes with the schema, so that
    an intact document of an unknown schema can be told from a damaged one.

    >>> seal({"schema": 1})
    b'{"schema": 1,\n"sha256": "..."}\n'
    """
    try:
        # One entry a line, for human readers.
        entries = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in document.items())
        body = b"{" + ",\n".join(entries).encode() + b"}"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"manifest: expected values JSON can hold, got {error}; convert them first") from error
    return body[:-1] + _ending(body)


def unseal(path: Path) -> dict[str, Any]:
    """Read a sealed JSON file, refusing it when any byte has changed or the schema is unknown.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "a.json"), seal({"schema": 1, "rows": 5}))
    ...     unseal(Path(folder, "a.json"))
    {'schema': 1, 'rows': 5}
    """
    raw = _read(path)
    body = raw[: -len(_ending(b""))] + b"}"
    if body[:-1] + _ending(body) != raw:
        raise CheckpointError(f"{path}: its contents do not match the checksum in its last line; {_REMEDY}")
    document: dict[str, Any] = json.loads(body)
    if document.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path}: expected schema {SCHEMA}, found {document.get('schema')!r}; "
            "read it with the incr version that wrote it"
        )
    return document


def _ending(body: bytes) -> bytes:
    return b',\n"sha256": "' + sha256(body).encode() + b'"}\n'


_REMEDY = "restore it from a copy or use another version"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a file, found none; {_REMEDY}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {_REMEDY}") from error


# Files that appear whole or not at all


def write_atomically(path: str | Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file through a temporary one beside it: temp, fsync, rename, fsync of the folder.

    Raises StorageError, leaving what was at `path` as it was and no temporary file.

    >>> write_atomically("/dev/null/champion", b"3")
    Traceback (most recent call last):
    ...
    incr_core.errors.StorageError: /dev/null/champion: cannot be written: Not a directory (ENOTDIR); ...
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{path.name}")
    with storage(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a new folder appear with all its files, or not at all. `path` must not exist yet.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_folder(Path(folder, "1"), {"a.txt": b"a", "b.txt": b"b"})
    ...     sorted(file.name for file in Path(folder).rglob("*"))
    ['1', 'a.txt', 'b.txt']
    """
    temporary = path.with_name(f".tmp-{path.name}")
    with storage(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            # All writes first: the first fsync then carries most of the journal for the others.
            for name in files:
                _sync(temporary / name)
            _sync(temporary)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder that nothing refers to any more; none there is fine.

    >>> remove(Path("/nowhere/versions/1/model.safetensors"))
    """
    with storage(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses here into a StorageError about `path`.

    >>> with storage(Path("runs/flights")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    ...
    incr_core.errors.StorageError: runs/flights: cannot be written: No space left on device (ENOSPC); ...
    """
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown")
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error} ({code}); earlier versions are intact; "
            "free space or make the folder writable, then run the same command again"
        ) from error
