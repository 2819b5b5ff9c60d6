"""Processes of other users of this machine, each in a mount namespace of its own.

Their folders have mode 0700, so no user reads another's. The namespace only makes this Python reachable where it is
installed below a folder that other users cannot enter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["as_user", "can_separate_users", "give"]

FIRST_USER = 61_000
"""Numbers of users from here on have no account, and need none."""


def can_separate_users() -> bool:
    """Whether this process may act as other users: it is root, with util-linux's `unshare` and `setpriv`."""
    try:
        tried = subprocess.run(["unshare", "-m", "setpriv", "--version"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return os.getuid() == 0 and tried.returncode == 0


def as_user(number: int, command: Sequence[str]) -> list[str]:
    """The command, run by the user of this number without any privilege of root."""
    user = str(FIRST_USER + number)
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    return ["unshare", "-m", "sh", "-ec", f'{_reachable_python()}exec "$@"', "sh", *drop, *command]


def give(folder: Path, number: int) -> None:
    """Give a folder and all in it to the user of this number alone."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, FIRST_USER + number, FIRST_USER + number)
        path.chmod(0o700 if path.is_dir() else 0o600)


def _reachable_python() -> str:
    """Shell lines that mount this Python in the place where it is, below folders that all users may enter."""
    home = Path(sys.base_prefix).resolve()
    closed = [folder for folder in home.parents if not folder.stat().st_mode & 0o001]
    if not closed:
        return ""
    outermost = closed[-1]
    return (
        "mount --make-rprivate /; mount -t tmpfs none /mnt; mkdir /mnt/python; "
        f"mount --bind '{home}' /mnt/python; mount -t tmpfs -o mode=755 none '{outermost}'; "
        f"mkdir -p '{home}'; mount --bind /mnt/python '{home}'; "
    )
