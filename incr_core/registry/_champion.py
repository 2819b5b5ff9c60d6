"""The champion: the published version, in a file with its number."""

from __future__ import annotations

from pathlib import Path

from incr_core.storage import located, remove, write_atomically

__all__ = ["CHAMPION", "champion_of", "is_withdrawn", "make_champion", "pin", "pinned_to", "withdraw"]

CHAMPION, PINNED = "champion", "pinned"

FRESH = 1.0
"""The seconds for which the champion of a run in a store is cached; a server needs it for every request."""


def champion_of(place: str | Path) -> int | None:
    """Return the published version of a run, without checks of other files; None before the first.

    Example:
        >>> champion_of(Path("/nowhere")) is None
        True
    """
    try:
        return int((located(place, within=FRESH) / CHAMPION).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def make_champion(folder: Path, version: int, *, durable: bool) -> None:
    """Make a version the champion.

    Args:
        folder: The run directory.
        version: The version.
        durable: Whether to sync the file; not necessary if a commit records the champion, because it can be restored.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     make_champion(Path(name), 3, durable=True)
        ...     champion_of(Path(name))
        3
    """
    write_atomically(folder / CHAMPION, f"{version}\n".encode(), durable=durable)


def pin(folder: Path, version: int | None) -> None:
    """Keep a version as the champion until it is unpinned, independent of commits; None unpins it.

    Example:
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
    """Return the pinned version; None if there is none."""
    try:
        return int((folder / PINNED).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def withdraw(version_folder: Path) -> None:
    """Mark a version so that an intended change back to an earlier champion is not repaired like an interrupted commit.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     before = is_withdrawn(Path(name))
        ...     withdraw(Path(name))
        ...     before, is_withdrawn(Path(name))
        (False, True)
    """
    write_atomically(version_folder / "withdrawn", b"")


def is_withdrawn(version_folder: Path) -> bool:
    """Return whether `withdraw` was called."""
    return (version_folder / "withdrawn").exists()
