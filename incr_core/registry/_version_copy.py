"""A version of a run, copied as a run directory."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import tomli_w

from incr_core.errors import CheckpointError
from incr_core.registry._champion import make_champion
from incr_core.registry._commit import COMMIT, commit_bytes, has_weights, read_commit
from incr_core.registry._history import manifest_table
from incr_core.registry._segments import MANIFESTS, Segments
from incr_core.storage import bring, write_atomically

__all__ = ["copy_version"]

WITHOUT = ("alerts", "track", "baselines")
"""Sections of the job that predictions do not need. An address in them may be a secret."""


def copy_version(directory: Path, version: int, folder: Path) -> bool:
    """Copy one version of the run in `directory` into a folder that is a run directory with this champion.

    The copy has what predictions need: the job, the manifest, the weights, and the outcomes that rates need. It has no
    tables, which may hold values of rows, no states, and no addresses for alerts.

    Returns:
        False if the version has no weights, or loses them meanwhile. The folder may then hold a part of it.

    Example:
        >>> copy_version(Path("/nowhere"), 1, Path("/nowhere/copy"))
        False
    """
    source, target = directory / "versions" / str(version), folder / "versions" / str(version)
    if not has_weights(source):
        return False
    try:
        manifest, _ = read_commit(source)
        bring(source)
        target.mkdir(parents=True, exist_ok=True)
        for name in manifest["files"]:
            shutil.copyfile(source / name, target / name)
    except (FileNotFoundError, CheckpointError):
        if has_weights(source):
            raise
        return False
    if not has_weights(source):  # the weights are removed first: while they are there, all files are
        return False
    write_atomically(target / COMMIT, commit_bytes(manifest, {}), durable=False)
    header, _, job = (directory / "job.toml").read_text().partition("\n")
    kept = {name: section for name, section in tomllib.loads(job).items() if name not in WITHOUT}
    (folder / "job.toml").write_text(f"{header}\n{tomli_w.dumps(kept)}")
    # The earlier versions are not there, so that the history begins with this one.
    Segments(folder).fold(version, version, {MANIFESTS: manifest_table(manifest)})
    make_champion(folder, version, durable=False)
    return True
