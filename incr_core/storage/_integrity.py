"""Integrity checks by SHA-256: of files, and within JSON documents that contain their own checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incr_core.errors import CheckpointError
from incr_core.storage._placeholders import filled

__all__ = [
    "REMEDY",
    "SCHEMA",
    "checksummed",
    "content_of",
    "parse_checksummed",
    "read_checksummed",
    "read_verified",
    "sha256",
]

SCHEMA = 3  # of every checksummed document, and of a run directory

REMEDY = "restore it from a copy or use another version"


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hex.

    Example:
        >>> sha256(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def read_verified(path: Path, expected: str, size: int | None = None) -> bytes:
    """Read a file and check its SHA-256.

    Raises:
        CheckpointError: The file is missing, truncated or changed.

    Example:
        >>> read_verified(Path("/nowhere/model.safetensors"), "e3b0")
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: /nowhere/model.safetensors: expected a file, found none; ...
    """
    content = content_of(path)
    if size is not None and len(content) != size:
        raise CheckpointError(f"{path}: expected {size} bytes, found {len(content)}; the file is truncated; {REMEDY}")
    if sha256(content) != expected:
        raise CheckpointError(
            f"{path}: expected SHA-256 {expected[:16]}..., found {sha256(content)[:16]}...; "
            f"the file is damaged; {REMEDY}"
        )
    return content


def checksummed(document: Mapping[str, Any]) -> bytes:
    r"""Encode a non-empty JSON object with a last entry "sha256" that covers every byte before it.

    The checksum is that of the object without the entry. This framing is independent of the schema, so that an intact
    document of an unknown schema can be distinguished from a damaged one.

    Example:
        >>> checksummed({"schema": 3})
        b'{"schema": 3,\n"sha256": "..."}\n'
    """
    try:
        # One entry per line, for human readers.
        entries = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in document.items())
        body = b"{" + ",\n".join(entries).encode() + b"}"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"manifest: expected values JSON can hold, got {error}; convert them first") from error
    return body[:-1] + _ending(body)


def read_checksummed(path: Path) -> dict[str, Any]:
    """Read a JSON file written by `checksummed`.

    Raises:
        CheckpointError: A byte has changed, or the schema is unknown.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     size = Path(file.name).write_bytes(checksummed({"schema": 3, "rows": 5}))
        ...     read_checksummed(Path(file.name))
        {'schema': 3, 'rows': 5}
    """
    return parse_checksummed(content_of(path), path)


def parse_checksummed(raw: bytes, place: Path | str) -> dict[str, Any]:
    """Decode a document from `checksummed`; `place` is its location, for error messages.

    Example:
        >>> parse_checksummed(checksummed({"schema": 3})[:-1], Path("manifest.json"))
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: manifest.json: its contents do not match the checksum in its last line; ...
    """
    body = raw[: -len(_ending(b""))] + b"}"
    if body[:-1] + _ending(body) != raw:
        raise CheckpointError(f"{place}: its contents do not match the checksum in its last line; {REMEDY}")
    document: dict[str, Any] = json.loads(body)
    if document.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{place}: expected schema {SCHEMA}, found {document.get('schema')!r}; "
            "read it with the incr version that wrote it"
        )
    return document


def _ending(body: bytes) -> bytes:
    return b',\n"sha256": "' + sha256(body).encode() + b'"}\n'


def content_of(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        CheckpointError: The file is missing or cannot be read.

    Example:
        >>> content_of(Path("/nowhere/commit.zip"))
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: /nowhere/commit.zip: expected a file, found none; ...
    """
    try:
        return path.read_bytes() or filled(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a file, found none; {REMEDY}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {REMEDY}") from error
