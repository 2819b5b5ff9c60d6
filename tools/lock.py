"""Lock all versions, direct and transitive: `make lock` writes `locks/*.txt`, pip's constraints for an install.

pip resolves each set from scratch without installing it, and its report becomes the lock. A lock names no index and no
build: the CPU build of torch satisfies `torch==2.13.0` as any other does, and packages that only a CUDA build of torch
requires are left out. So the lock holds wherever pip finds these versions.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["SETS", "locked", "main"]

SETS = {"dev": "dev", "bench": "dev,bench"}
"""Lock -> extras. They cannot be combined: pfl needs dp-accounting below 0.6."""

ROOT = Path(__file__).parent.parent
CUDA = re.compile(r"nvidia|cuda|triton")


def locked(report: Mapping[str, Any]) -> dict[str, str]:
    """Return name -> version of all that pip would install, without incr, builds of torch and packages for CUDA.

    Example:
        >>> torch, own = {"name": "torch", "version": "2.13.0+cpu"}, {"name": "incr", "version": "0.1.0"}
        >>> locked({"install": [{"metadata": torch}, {"metadata": own}]})
        {'torch': '2.13.0'}
    """
    found = {}
    for entry in report["install"]:
        name = re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower()
        if name != "incr" and not CUDA.match(name):
            found[name] = entry["metadata"]["version"].partition("+")[0]
    return dict(sorted(found.items()))


def resolve(extras: str) -> dict[str, Any]:
    """Return pip's report of an install of these extras into an empty environment."""
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*pip, f".[{extras}]"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main(names: list[str]) -> None:
    """Write the locks of these names, or all."""
    for name in names or SETS:
        versions = locked(resolve(SETS[name]))
        python = ".".join(platform.python_version_tuple()[:2])
        lines = [
            f"# Made by `make lock` for Python {python}, {platform.system()}: all that the extras {SETS[name]} bring.",
            f"# pip install --constraint locks/{name}.txt --editable '.[{SETS[name]}]'",
            *(f"{package}=={version}" for package, version in versions.items()),
        ]
        (ROOT / f"locks/{name}.txt").write_text("\n".join(lines) + "\n")
        print(f"locks/{name}.txt: {len(versions)} versions")


if __name__ == "__main__":
    main(sys.argv[1:])
