"""A prefix in an object store: whole objects by name, with exclusive creation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from incr_core.errors import StoreError
from incr_core.storage._addresses import address_in, file_system, store_errors

__all__ = ["ObjectStore"]


class ObjectStore:
    """The objects below an address. Errors of the store are StoreErrors.

    Example:
        >>> store = ObjectStore("memory://doc/run")
        >>> store.create("manifest/1", b"one"), store.create("manifest/1", b"two"), store.get("manifest/1")
        (True, False, b'one')
        >>> store.put("writer", b"me")
        >>> store.exists("writer"), store.get("nothing")
        (True, None)
        >>> store.remove(["writer", "manifest/1"]); store.names("")
        []
    """

    def __init__(self, address: str) -> None:
        self.address = address_in(address)
        self._system, self._root = file_system(self.address)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def get(self, name: str) -> bytes | None:
        """Return the content of an object, or None if it does not exist."""
        with store_errors(self.address, "read"):
            try:
                return bytes(self._system.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def get_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of several objects, read in parallel.

        Raises:
            StoreError: An object does not exist.
        """
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        with self._there(), store_errors(self.address, "read"):
            return {paths[path]: bytes(content) for path, content in self._system.cat(list(paths)).items()}

    def download(self, files: Mapping[str, Path]) -> None:
        """Write objects, by name, to files.

        Raises:
            StoreError: An object does not exist.
        """
        with self._there(), store_errors(self.address, "read"):
            if files:
                self._system.get([self._path(name) for name in files], [str(file) for file in files.values()])

    def exists(self, name: str) -> bool:
        """Whether the object exists."""
        with store_errors(self.address, "read"):
            return bool(self._system.exists(self._path(name)))

    def put(self, name: str, content: bytes) -> None:
        """Write or replace an object."""
        with self._there(), store_errors(self.address, "written"):
            self._system.pipe_file(self._path(name), content)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write files as objects by name, in parallel."""
        with self._there(), store_errors(self.address, "written"):
            if files:
                self._system.put([str(file) for file in files.values()], [self._path(name) for name in files])

    def create(self, name: str, content: bytes) -> bool:
        """Create an object exclusively; return False if it exists. Of several writers, the store lets one succeed."""
        with self._there(), store_errors(self.address, "written"):
            try:
                self._system.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                # The response may have been lost and the request repeated.
                return self.get(name) == content
            return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; missing ones are ignored."""
        paths = [self._path(name) for name in names]
        with store_errors(self.address, "written"):
            try:
                self._system.rm(paths)
            except FileNotFoundError:  # raised by some stores only
                for path in paths:
                    with contextlib.suppress(FileNotFoundError):
                        self._system.rm_file(path)

    def names(self, prefix: str) -> list[str]:
        """List the objects whose names begin with `prefix`; for cleaning up only, because listings may be outdated."""
        with store_errors(self.address, "read"):
            try:
                found = self._system.find(self._path(prefix) if prefix else self._root)
            except FileNotFoundError:
                return []
        return [path.removeprefix(self._root).lstrip("/") for path in found]

    @contextlib.contextmanager
    def _there(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not isinstance(error, FileNotFoundError) and "ContainerNotFound" not in str(error):  # Azure's own word
                raise
            reason = " ".join(str(error).split()) if isinstance(error, FileNotFoundError) else "no such container"
            raise StoreError(
                f"{self.address}: expected an existing bucket, and objects that still exist, got "
                f"{reason or 'nothing'}; create the bucket, or run the same command again"
            ) from error
