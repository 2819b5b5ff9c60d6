"""Files at addresses: the file operations that sources need, on objects in a store."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from incr_core.errors import StreamError
from incr_core.storage import address_in, file_system, store_errors

__all__ = ["File", "RemoteFile", "remote_files"]

FRESH = 5.0
"""Seconds for which metadata from a store is cached, because reading a file queries it several times."""


class Stat(NamedTuple):
    """The fields of `Path.stat` that sources use."""

    st_size: int
    st_mtime: float


class RemoteFile:
    """An object in a store, read as a file.

    An object appears as a whole, so a read never meets a part of it. Errors of the store are raised as StoreError. They
    are not faults of the file, so the file is not put in quarantine.

    Args:
        address: The address.
        info: Its metadata from a fresh listing, if available.
        lines: Whether it has lines, and may grow.

    Example:
        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe_file("/doc/a.csv", b"x,y")
        >>> file = RemoteFile("memory://doc/a.csv")
        >>> file.name, file.exists(), file.stat().st_size, file.open().read()
        ('a.csv', True, 3, b'x,y')
        >>> RemoteFile("memory://doc/b.csv").exists()
        False
    """

    def __init__(self, address: str, info: dict[str, Any] | None = None, *, lines: bool = False) -> None:
        """Create a file; see the class."""
        self.address = address_in(address)
        self.name = self.address.rpartition("/")[2]
        self.lines = lines
        self._told, self._info = time.monotonic(), info

    def __str__(self) -> str:
        return self.address

    def _known(self) -> dict[str, Any]:
        """Return the store's current metadata; FileNotFoundError if the object does not exist."""
        if self._info is None or time.monotonic() - self._told > FRESH:
            system, path = file_system(self.address)
            self._info = None
            with store_errors(self.address, "read"):
                self._info = dict(system.info(path))
            self._told = time.monotonic()
        return self._info

    def exists(self) -> bool:
        """Whether the object exists."""
        try:
            self._known()
        except FileNotFoundError:
            return False
        return True

    def stat(self) -> Stat:
        """Return its size; the modification time counts as long ago."""
        return Stat(int(self._known()["size"]), 0.0)

    def mark(self) -> str:
        """Return an identifier of the content: its hash, entity tag or similar.

        The hash is preferred: the tags of Google's and Azure's stores change when the same bytes are written again.
        """
        known = self._known()
        known = {**known, "content_md5": bytes((known.get("content_settings") or {}).get("content_md5") or b"")}
        for key in ("ETag", "md5Hash", "content_md5", "crc32c", "etag", "LastModified", "mtime", "created"):
            if known.get(key):
                return hashlib.blake2b(f"{key} {known[key]}".encode(), digest_size=8).hexdigest()
        return hashlib.blake2b(b"".join(self.slices([(0, int(known["size"]))])), digest_size=8).hexdigest()

    def slices(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes [start, stop) of some ranges, fetched in parallel."""
        system, path = file_system(self.address)
        ranges = [(start, stop) for start, stop in ranges if stop > start]
        with store_errors(self.address, "read"):
            starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
            return [bytes(part) for part in system.cat_ranges([path] * len(ranges), starts, stops, on_error="raise")]

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the object for reading; pyarrow can read from it too."""
        system, path = file_system(self.address)
        with store_errors(self.address, "read"):
            return cast(BinaryIO, io.BufferedReader(_Reading(system.open(path, mode), self.address)))


class _Reading(io.RawIOBase):
    """A file of fsspec whose errors are StoreErrors."""

    def __init__(self, file: Any, address: str) -> None:
        self._file, self._address = file, address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with store_errors(self._address, "read"):
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


File = Path | RemoteFile
"""A file of a source, on disk or in a store."""


def remote_files(
    address: str, wanted: Callable[[str], bool], has_lines: Callable[[str], bool] = bool
) -> dict[str, RemoteFile]:
    """Return the files at an address (an object, all below a folder, or a glob) by their names below it.

    Args:
        address: The address.
        wanted: Whether a name in a folder or a glob is data.
        has_lines: Whether a name has lines.

    Raises:
        StreamError: There is no object.

    Example:
        >>> import fsspec
        >>> for name in ("a.csv", "b.csv", "b.txt"):
        ...     fsspec.filesystem("memory").pipe_file(f"/files/{name}", b"x")
        >>> list(remote_files("memory://files", lambda name: name.endswith(".csv")))
        ['a.csv', 'b.csv']
        >>> every = lambda name: True
        >>> list(remote_files("memory://files/b.*", every)), list(remote_files("memory://files/b.txt", bool))
        (['b.csv', 'b.txt'], ['b.txt'])
    """
    system, path = file_system(address)
    scheme = address.partition("://")[0]
    magic = any(letter in path for letter in "*?[")
    try:
        with store_errors(address, "read"):
            found = system.glob(path, detail=True) if magic else system.find(path, detail=True)
            if isinstance(found, list):  # returned by adlfs if the path is an object
                found = {name: system.info(name) for name in found}
    except FileNotFoundError:
        found = {}
    files = {name: info for name, info in found.items() if info.get("type") == "file" and not name.endswith("/")}
    if not files:
        raise StreamError(f"stream.path: expected an object, a folder or a glob, got {address}, where nothing is")
    if list(files) == [path]:
        name = path.rpartition("/")[2]
        return {name: RemoteFile(address, files[path], lines=has_lines(name))}
    root = "/".join(_plain_parts(path)) + "/"
    return {
        name.removeprefix(root): RemoteFile(f"{scheme}://{name.lstrip('/')}", info, lines=has_lines(name))
        for name, info in sorted(files.items())
        if wanted(name.removeprefix(root))
    }


def _plain_parts(path: str) -> list[str]:
    """Return the parts of a path before the first one with a wildcard."""
    parts = path.rstrip("/").split("/")
    for place, part in enumerate(parts):
        if any(letter in part for letter in "*?["):
            return parts[:place]
    return parts
