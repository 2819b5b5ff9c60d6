"""Transfer of results between readers of one stream: through memory on one host, over a socket between hosts.

Each result is a memory file in its reader's `ReaderCache`. A peer on the same host receives the file's descriptor and
maps it, so all peers share one copy. Other peers receive the bytes. A result is released when all peers have it.

If anything goes wrong (the peer is gone, hangs, or has released the result), the asking reader learns that the result
is unavailable and computes it.
"""

from __future__ import annotations

import hmac
import json
import mmap
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cluster._memory_file import MemoryFile, read_transfer, write_transfer
from cluster._reader_cache import ReaderCache
from incr_core.data.timeline import Item, Transfer

__all__ = ["PeerTurns"]

REQUEST = struct.Struct(">4qi")
"""A request: the item, and the index of the asking reader."""

REPLY = struct.Struct(">q")
"""A reply: the number of bytes that follow; -1 if the result is unavailable."""

CONNECT = 5.0
"""Seconds in which another host must answer."""

LOOK = 1.0
"""Seconds to wait for a reply before checking whether the peer's place has been taken by another worker."""

TOKEN = 32
"""Characters of the secret that a request must include. It is in the store."""


class PeerTurns:
    """Turns of one worker among all workers of a run, which find one another's addresses in their common store.

    Args:
        index: Index of this reader.
        count: Number of readers.
        host: Address of this host that the others reach.
        join: Opens a connection to the store. Each asking thread has one.
        patience: Seconds to wait for another reader.
        what: Kind of data, which distinguishes these addresses from others in the store.
        bounded: Whether newer results replace results that have not been fetched.

    Example:
        >>> from torch.distributed import HashStore
        >>> store = HashStore()
        >>> one, other = (PeerTurns(index, 2, "127.0.0.1", lambda: store, patience=5.0) for index in range(2))
        >>> import torch
        >>> one.offer((0, 0, 0, 0), Transfer({"x": torch.arange(3)}))
        >>> other.ask((0, 0, 0, 0), 0).tensors["x"]
        tensor([0, 1, 2])
        >>> for reader in (one, other):
        ...     reader.close()
    """

    def __init__(
        self,
        index: int,
        count: int,
        host: str,
        join: Callable[[], Any],
        patience: float,
        *,
        what: str = "rows read",
        bounded: bool = True,
    ) -> None:
        self._join, self._patience, self._what = join, patience, what
        self._cache = ReaderCache(bounded=bounded)
        self._token = secrets.token_hex(TOKEN // 2)
        self._mine = threading.local()  # connections of the asking thread
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listeners = [listener]
        address: dict[str, Any] = {"host": host, "port": listener.getsockname()[1], "token": self._token, "local": ""}
        local = socket.socket(socket.AF_UNIX)
        self._listeners.append(local)
        with suppress(OSError):  # only Linux has socket names outside of the file system
            local.bind(f"\0incr-{self._token}")
            local.listen()
            address["local"] = f"incr-{self._token}"
        for one in self._listeners:
            threading.Thread(target=self._accept, args=(one,), name="incr-peer-transfer", daemon=True).start()
        self._address = json.dumps(address)
        self.among(index, count)

    def among(self, index: int, count: int) -> None:
        """Take the index of a reader among `count`."""
        self.index, self.count = index, count
        self._cache.takers = count - 1
        self._join().set(self._key(index), self._address)

    # -- offering

    def begin(self) -> None:
        """Begin again, possibly on other files. Results from before become invalid."""
        self._cache.clear()

    def reach(self, item: Item) -> None:
        """Record that this reader has reached an item."""
        self._cache.reach(item)

    def offer(self, item: Item, made: Transfer | None, takers: int | None = None) -> None:
        """Offer a result to a number of others (None: all). Returns None if it cannot be offered."""
        self._cache.put(item, None if made is None else write_transfer(made), takers)

    def close(self) -> None:
        """Stop offering."""
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._cache.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(peer,), name="incr-peer-transfer", daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        """Answer one peer until it disconnects."""
        with suppress(OSError, EOFError), peer:
            peer.settimeout(self._patience)
            if not hmac.compare_digest(_received(peer, TOKEN), self._token.encode()):
                return
            peer.settimeout(None)
            while True:
                *item, asker = REQUEST.unpack(_received(peer, REQUEST.size))
                file = self._cache.take((item[0], item[1], item[2], item[3]), asker, self._patience)
                if file is None:
                    peer.sendall(REPLY.pack(-1))
                elif peer.family == socket.AF_UNIX:
                    socket.send_fds(peer, [REPLY.pack(file.size)], [file.descriptor])
                else:
                    peer.sendall(REPLY.pack(file.size))
                    file.send(peer)

    # -- asking

    def ask(self, item: Item, whose: int) -> Transfer | None:
        """Return the result of another reader; None if it is unavailable."""
        peers: dict[int, _Peer] = self._mine.__dict__.setdefault("peers", {})
        try:
            address = self._address_of(whose) if whose not in peers else peers[whose].address
            if whose not in peers:
                peers[whose] = _Peer(address)
            # The peer waits for its own reader for half as long, and reports that.
            return peers[whose].ask(item, self.index, lambda: self._address_of(whose) == address, 2 * self._patience)
        except (OSError, EOFError, RuntimeError, KeyError):  # torch's errors of stores are RuntimeErrors
            peers.pop(whose, None)
            return None

    def _address_of(self, whose: int) -> str:
        """Return the address of another reader. A worker that takes its place has another address."""
        if "store" not in self._mine.__dict__:
            self._mine.store = self._join()
        if not self._mine.store.check([self._key(whose)]):
            raise KeyError(whose)
        return str(self._mine.store.get(self._key(whose)).decode())

    def _key(self, index: int) -> str:
        """Key in the store of a reader's address."""
        return f"handing {self._what}/{index}"


class _Peer:
    """Connect to another reader, through memory if it is on this host."""

    def __init__(self, address: str) -> None:
        self.address, found = address, json.loads(address)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            if not found["local"]:
                raise OSError
            self._socket.connect("\0" + found["local"])
        except OSError:  # on another host
            self._socket.close()
            self._socket = socket.create_connection((found["host"], found["port"]), timeout=CONNECT)
        self._socket.settimeout(None)
        self._socket.sendall(found["token"].encode())

    def __del__(self) -> None:
        self._socket.close()

    def ask(self, item: Item, asker: int, stays: Callable[[], bool], patience: float) -> Transfer | None:
        """Return the reader's result. `stays` is asked after a silence whether the reader still has its place."""
        peer, until = self._socket, time.monotonic() + patience
        peer.sendall(REQUEST.pack(*item, asker))
        waiting = select.poll()
        waiting.register(peer, select.POLLIN)
        while not waiting.poll(1000 * LOOK):
            if time.monotonic() > until or not stays():
                raise EOFError
        if peer.family != socket.AF_UNIX:
            [size] = REPLY.unpack(_received(peer, REPLY.size))
            return None if size < 0 else read_transfer(_received(peer, size))
        reply, descriptors, _, _ = socket.recv_fds(peer, REPLY.size, 1)
        if len(reply) < REPLY.size:
            raise EOFError
        [size] = REPLY.unpack(reply)
        if size < 0:
            return None
        with MemoryFile(descriptors[0], size) as file:
            return read_transfer(mmap.mmap(file.descriptor, size, flags=mmap.MAP_PRIVATE, prot=_WRITABLE))


_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE
"""Return a buffer that may be written: private to this process, so the others' copy is unchanged."""


def _received(peer: socket.socket, size: int) -> memoryview:
    """Receive a number of bytes from a peer."""
    view, place = memoryview(bytearray(size)), 0
    while place < size:
        count = peer.recv_into(view[place:])
        if not count:
            raise EOFError
        place += count
    return view
