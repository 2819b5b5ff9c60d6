"""Archives of several small files: an uncompressed zip whose comment is the SHA-256 of all bytes before it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from incr_core.errors import CheckpointError
from incr_core.storage._integrity import REMEDY, content_of

__all__ = ["archive_bytes", "read_archive"]

_COMMENT = 64  # hexadecimal digits of a SHA-256
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # fixed, so that equal files give equal archives


def archive_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files by name, which any zip tool can read.

    Example:
        >>> archive_bytes({"a.txt": b"a"}) == archive_bytes({"a.txt": b"a"})
        True
    """
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), content)
        archive.comment = b"0" * _COMMENT
    body = sink.getvalue()[:-_COMMENT]
    return body + hashlib.sha256(body).hexdigest().encode()


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files of an archive, by name.

    Raises:
        CheckpointError: A byte of the archive has changed.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     size = Path(file.name).write_bytes(archive_bytes({"a.txt": b"a", "b.txt": b"b"}))
        ...     read_archive(Path(file.name))
        {'a.txt': b'a', 'b.txt': b'b'}
    """
    raw = content_of(path)
    if hashlib.sha256(raw[:-_COMMENT]).hexdigest().encode() != raw[-_COMMENT:]:
        raise CheckpointError(f"{path}: its contents do not match the checksum at its end; {REMEDY}")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
