"""Working copies: a run at an address, as a folder of this process.

A writer works in the folder as in any run directory, and pushes changes: first new objects, then the manifest that
names them, which is the commit. A reader pulls the newest snapshot. Small files are downloaded at once, large ones when
they are read. Files for people are stored beside these under their own names.

    ADDRESS/manifest/NUMBER                the objects that are the run's files (`_snapshots`)
    ADDRESS/objects/WRITER/NUMBER/PATH     files, each written once
    ADDRESS/writer                         the current writer and its heartbeat (`_writer`)
    ADDRESS/requests/, report.html, ...    requests of other processes, and files for people
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import uuid4

from incr_core.errors import CheckpointError, StoreError
from incr_core.storage._addresses import address_in, is_address
from incr_core.storage._atomic import remove, storage
from incr_core.storage._lock import Lock
from incr_core.storage._object_store import ObjectStore
from incr_core.storage._placeholders import COPIES
from incr_core.storage._scratch_folder import ScratchFolder
from incr_core.storage._snapshots import Snapshot, Snapshots
from incr_core.storage._writer import Writer

__all__ = ["WorkingCopy", "bring", "copy_of", "expose", "exposed", "located", "lock_of", "told", "withdraw"]

OWN = ("requests", "tensorboard", "trackers", "report.html")
"""Names, at any depth, that are not files of the run; the same holds for names with a leading dot."""

LAZY = (".safetensors", ".arrow", ".zip")
TABLES = ("metrics", "ledger", "duplicates", "dropped", "quarantine", "events", "clients", "manifests")

SETTLED = 2_000_000_000
"""Nanoseconds after which the file system's clock has advanced: a folder read later with the same time is unchanged."""

LINGER = 60.0
"""Seconds for which an object remains for readers after it has ceased to be a file of the run."""

TRIES = 5
"""Maximum number of attempts to pull the newest snapshot, if it is replaced meanwhile."""

Stamp = tuple[int, int, int]


class WorkingCopy:
    """The folder `folder` of this process for the run at `address`; see the module.

    Example:
        >>> copy = WorkingCopy("memory://doc/copy")
        >>> _ = (copy.folder / "champion").write_text("3")
        >>> copy.push({"pid": 7}); copy.snapshot.number
        1
        >>> other = WorkingCopy("memory://doc/copy"); other.pull()
        >>> (other.folder / "champion").read_text()
        '3'
    """

    def __init__(self, address: str) -> None:
        self.address = address_in(address)
        self.store = ObjectStore(self.address)
        self.snapshot = Snapshot()
        self.token = uuid4().hex[:12]
        self._snapshots = Snapshots(self.store)
        self._above = ScratchFolder()
        self.folder = self._above.path.resolve() / (self.address.rpartition("/")[2] or "run")
        self.folder.mkdir()
        self.writer, self.pulled = Writer(self), -math.inf
        self._lock = threading.RLock()
        self._is: dict[str, str] = {}  # object of each file, valid while its stamp in _seen is unchanged
        self._seen: dict[str, Stamp] = {}
        self._folders: dict[str, tuple[int, int, dict[str, Stamp], list[str]]] = {}
        self._stored: dict[str, tuple[str, int]] = {}  # files that other processes have put in the store already
        self._old = deque[tuple[float, list[str]]]()  # objects replaced by pushes, with the time
        self._pushed, self._clean = False, True  # whether a push was made; whether the folder has no unpushed changes
        COPIES[self.folder] = self.bring

    def close(self) -> None:
        """Remove the folder."""
        COPIES.pop(self.folder, None)
        self._above.close()

    def path(self, name: str) -> Path:
        """Return the path of a file of the run."""
        return self.folder / name

    # -- from the store

    def pull(self, *, reset: bool = False) -> None:
        """Update the folder to the newest manifest; `reset` discards local changes even if the manifest is known."""
        for left in reversed(range(TRIES)):
            try:
                self._pull(reset=reset)
                return
            except StoreError as error:  # the writer has removed objects that were about to be read
                if not left or not isinstance(error.__cause__, FileNotFoundError):
                    raise
                reset = True

    def _pull(self, *, reset: bool) -> None:
        with self._lock:
            known, self.snapshot = self.snapshot, self._snapshots.newest(self.snapshot)
            self.pulled = time.monotonic()
            if self.snapshot == known and self._clean and not reset:
                return
            changed, gone = self._changes()
            files = self.snapshot.files
            for name in {*changed, *self._is} - {*files}:
                self._drop(name)
            anew = {name for name, at in files.items() if self._is.get(name) != at[0]} | {*gone, *changed} & {*files}
            self._bring(name for name in anew if not _is_lazy(name))
            for name in filter(_is_lazy, anew):
                with storage(self.path(name)):
                    self.path(name).parent.mkdir(parents=True, exist_ok=True)
                    self.path(name).write_bytes(b"")
                self._take_note(name)
            self._clean = True

    def bring(self, path: Path) -> None:
        """Download an empty placeholder, or all below a folder; a file outside of the run stays empty.

        Raises:
            CheckpointError: The writer has removed it; the newest snapshot has then been pulled.
        """
        with self._lock:
            below = [name for name in self._is if self.path(name).is_relative_to(path)]
            try:
                self._bring(name for name in below if self.path(name).exists() and not self.path(name).stat().st_size)
            except StoreError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                self.pull()
                raise CheckpointError(
                    f"{path}: expected a file, found none; the run has continued meanwhile"
                ) from error

    def _bring(self, names: Iterable[str]) -> None:
        wanted = {name: self.path(name) for name in names}
        aside = {name: path.with_name(f".tmp-{path.name}") for name, path in wanted.items()}
        for path in wanted.values():
            with storage(path):
                path.parent.mkdir(parents=True, exist_ok=True)
        self.store.download({self.snapshot.files[name][0]: path for name, path in aside.items()})
        for name, path in wanted.items():
            os.replace(aside[name], path)
            self._take_note(name)

    def _drop(self, name: str) -> None:
        remove(self.path(name))
        self._seen.pop(name, None)
        self._is.pop(name, None)
        for folder in self.path(name).parents:
            if folder == self.folder or not folder.exists() or any(folder.iterdir()):
                break
            folder.rmdir()

    # -- to the store

    def push(self, writer: Mapping[str, object]) -> None:
        """Commit the changes in the folder.

        Raises:
            StoreError: Another process has committed meanwhile.
        """
        with self._lock:
            changed, gone = self._changes()
            if not changed and not gone:
                return
            self._clean = False
            prefix = f"objects/{self.token}/{self.snapshot.number + 1}"
            stored = {name: self._stored.pop(name) for name in changed if name in self._stored}
            new = {name: (f"{prefix}/{name}", stamp[1]) for name, stamp in changed.items() if name not in stored}
            self.store.upload({at[0]: self.path(name) for name, at in new.items()})
            files = {name: at for name, at in self.snapshot.files.items() if name not in gone} | new | stored
            before, whole = self.snapshot, not self._pushed
            made = self._snapshots.add(before, files, writer, whole=whole)
            if made is None:
                other = self._snapshots.writer(before.number + 1)
                raise StoreError(
                    f"{self.address}: another process (pid {other.get('pid')} on {other.get('host')}) has continued "
                    "this run, so rows learned here since the last commit are not part of it; let only one process "
                    "run it"
                )
            self.snapshot, self._pushed, self._clean = made, True, True
            for name in gone:
                del self._seen[name], self._is[name]
            self._seen |= changed
            self._is |= {name: files[name][0] for name in changed}
            kept = {at[0] for at in files.values()}
            self._old.append((time.monotonic(), [at[0] for at in before.files.values() if at[0] not in kept]))
            self._remove_old()

    def _remove_old(self) -> None:
        """Remove objects that ceased to be files so long ago that no reader needs them."""
        names = list[str]()
        while self._old and time.monotonic() - self._old[0][0] > LINGER:
            names += self._old.popleft()[1]
        self.store.remove(names)

    def clear_up(self) -> None:
        """Remove uncommitted objects of earlier writers, which cannot commit them after our first push."""
        kept = {at[0] for at in self.snapshot.files.values()}
        mine = f"objects/{self.token}/"
        found = self.store.names("objects/")
        self.store.remove(name for name in found if name not in kept and not name.startswith(mine))

    def stored(self, folder: Path, files: Mapping[str, tuple[str, int]]) -> None:
        """Register files of a folder that other processes have put in the store; the next push commits them."""
        with self._lock:
            for name, at in files.items():
                path = folder / name
                with storage(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"")
                self._stored[path.relative_to(self.folder).as_posix()] = at

    def objects(self, folder: Path) -> dict[str, str]:
        """Return the objects of the files of a folder, by their path in it."""
        prefix = f"{folder.relative_to(self.folder).as_posix()}/"
        return {name.removeprefix(prefix): at[0] for name, at in self.snapshot.files.items() if name.startswith(prefix)}

    # -- what has changed

    def _changes(self) -> tuple[dict[str, Stamp], set[str]]:
        """Return the files that changed since the last pull or push, and those that are gone."""
        there = dict[str, Stamp]()
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            files, folders = self._within(prefix)
            there |= files
            waiting += folders
        changed = {name: stamp for name, stamp in there.items() if self._seen.get(name) != stamp}
        return changed, self._seen.keys() - there.keys()

    def _within(self, prefix: str) -> tuple[dict[str, Stamp], list[str]]:
        """Return the files and folders of a folder, read only if it has changed: files are never changed in place."""
        folder = self.folder / prefix
        changed = folder.stat().st_mtime_ns
        known = self._folders.get(prefix)
        if known is not None and known[0] == changed and known[1] - changed > SETTLED:
            return known[2], known[3]
        now = time.time_ns()
        files, folders = dict[str, Stamp](), list[str]()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.name.startswith(".") or entry.name in OWN:
                    continue
                if entry.is_dir():
                    folders.append(f"{name}/")
                else:
                    files[name] = _stamp(entry.stat())
        self._folders[prefix] = (changed, now, files, folders)
        return files, folders

    def _take_note(self, name: str) -> None:
        self._seen[name], self._is[name] = _stamp(self.path(name).stat()), self.snapshot.files[name][0]


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_lazy(name: str) -> bool:
    """Whether a file is downloaded when it is read: large files, which are read with their hashes."""
    folder = name.split("/")[-2:][0]
    return name.endswith(LAZY) or (name.endswith(".parquet") and folder in TABLES)


_copies: dict[str, WorkingCopy] = {}


def located(place: str | Path, within: float = 0.0) -> Path:
    """Return the folder of a run; for an address, this process's working copy, at most `within` seconds old.

    Example:
        >>> str(located("runs/people"))
        'runs/people'
    """
    if is_address(place):
        address = address_in(place)
        copy = _copies.get(address)
        if copy is None:
            copy = _copies[address] = WorkingCopy(address)
        path = copy.folder
    else:
        path = Path(place)
        copy = copy_of(path)
    if copy is not None and not copy.writer.taken and time.monotonic() - copy.pulled > within:
        copy.pull()
    return path


def copy_of(path: Path) -> WorkingCopy | None:
    """Return the working copy that contains a path, or None.

    Example:
        >>> copy_of(Path("runs/people"))
    """
    for copy in _copies.values():
        if path.is_relative_to(copy.folder):
            return copy
    return None


def lock_of(folder: Path) -> Lock | Writer:
    """Return the lock for writing the run in a folder."""
    copy = copy_of(folder)
    return Lock(folder / ".lock") if copy is None else copy.writer


def bring(path: Path) -> None:
    """Download all files below a path, for other processes to read; a no-op for a plain folder."""
    copy = copy_of(path)
    if copy is not None:
        copy.bring(path)


def expose(path: Path) -> None:
    """Put a file for people or other processes in the run's store; a no-op for a plain folder."""
    copy = copy_of(path)
    if copy is not None:
        copy.store.put(path.relative_to(copy.folder).as_posix(), path.read_bytes())


def exposed(path: Path) -> bytes | None:
    """Return the content of a file that `expose` may have put in the run's store; None if there is none.

    Example:
        >>> exposed(Path("/nowhere/trackers/lines.json"))
    """
    copy = copy_of(path)
    if copy is not None:
        return copy.store.get(path.relative_to(copy.folder).as_posix())
    return path.read_bytes() if path.exists() else None


def withdraw(path: Path) -> None:
    """Remove the object that `expose` has put there."""
    copy = copy_of(path)
    if copy is not None:
        copy.store.remove([path.relative_to(copy.folder).as_posix()])


def told(text: object) -> str:
    """Return a text with the addresses of working copies in place of their folders.

    Example:
        >>> told(Path("runs/people"))
        'runs/people'
    """
    found = str(text)
    for copy in _copies.values():
        found = found.replace(str(copy.folder), copy.address)
    return found


def _leave() -> None:
    for copy in _copies.values():
        copy.close()


def _drop_in_child() -> None:
    """Forget the parent's working copies in a forked child."""
    _copies.clear()
    COPIES.clear()


atexit.register(_leave)
os.register_at_fork(after_in_child=_drop_in_child)
