"""The champion: which version is published, in a file that holds its number."""

from __future__ import annotations

from pathlib import Path

from incr_core.storage import located, remove, write_atomically

__all__ = ["CHAMPION", "champion_of", "is_withdrawn", "make_champion", "pin", "pinned_to", "withdraw"]

CHAMPION, PINNED = "champion", "pinned"

FRESH = 1.0
"""Seconds within which a run in a store is not looked at again: a server asks with every question that it answers."""


def champion_of(place: str | Path) -> int | None:
    """The published version of a run, as of now, with no look at anything else; None before the first.

    >>> champion_of(Path("/nowhere")) is None
    True
    """
    try:
        return int((located(place, within=FRESH) / CHAMPION).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def make_champion(folder: Path, version: int, *, durable: bool) -> None:
    """Make a version the champion. durable: False where a commit says so too, from which it is made again.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     make_champion(Path(name), 3, durable=True)
    ...     champion_of(Path(name))
    3
    """
    write_atomically(folder / CHAMPION, f"{version}\n".encode(), durable=durable)


def pin(folder: Path, version: int | None) -> None:
    """Let a version stay the champion, whatever is committed; None: no more.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     pin(Path(name), 3)
    ...     before = pinned_to(Path(name))
    ...     pin(Path(name), None)
    ...     before, pinned_to(Path(name))
    (3, None)
    """
    if version is None:
        remove(folder / PINNED)
    else:
        write_atomically(folder / PINNED, f"{version}\n".encode())


def pinned_to(folder: Path) -> int | None:
    """The version that stays the champion, whatever is committed; None where there is none."""
    try:
        return int((folder / PINNED).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def withdraw(version_folder: Path) -> None:
    """Tell a champion that is set back on purpose from one that a kill kept from moving on to this version.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     before = is_withdrawn(Path(name))
    ...     withdraw(Path(name))
    ...     before, is_withdrawn(Path(name))
    (False, True)
    """
    write_atomically(version_folder / "withdrawn", b"")


def is_withdrawn(version_folder: Path) -> bool:
    """Whether `withdraw` was called."""
    return (version_folder / "withdrawn").exists()
