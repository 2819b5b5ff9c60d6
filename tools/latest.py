"""The newest available versions of the dependencies: `make latest` runs the tests on them.

    python -m tools.latest               # requirements for pip: the direct dependencies without upper bounds
    python -m tools.latest --installed   # differences between the environment and `locks/dev.txt`

Changes of dependencies are thus noticed before users meet them. torch keeps the version of the lock: without a bound,
pip may choose a CUDA build of several GB instead of the CPU build. Set INCR_LATEST_TORCH to a requirement (`torch`,
`torch>=2.14`) to try another version.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["compared", "direct", "loosened", "main", "read_lock"]

ROOT = Path(__file__).parent.parent


def direct(project: Mapping[str, Any], extra: str | None = None) -> Iterator[str]:
    """Yield the requirements of a `[project]` table or of one of its extras, including those of extras that it names.

    Example:
        >>> extras = {"all": ["it[a,b]"], "a": ["x==1"], "b": ["y[fast]>=2,<3"]}
        >>> project = {"name": "it", "optional-dependencies": extras}
        >>> list(direct(project, "all"))
        ['x==1', 'y[fast]>=2,<3']
    """
    for requirement in project["optional-dependencies"][extra] if extra else project["dependencies"]:
        found = re.match(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,-]+)\])?", requirement)
        assert found is not None
        if found["name"] == project["name"]:
            for inner in found["extras"].split(","):
                yield from direct(project, inner)
        else:
            yield requirement


def loosened(requirement: str) -> str:
    """Return a requirement without upper bounds. Lower bounds stay, or pip may choose a version from years ago.

    Example:
        >>> loosened("ray[default]>=2.55,<2.56"), loosened("ruff==0.17.6")
        ('ray[default]>=2.55', 'ruff>=0.17.6')
        >>> loosened("pfl>=0.6,<0.7; python_version < '3.13'")
        "pfl>=0.6; python_version < '3.13'"
    """
    bounds, marked, marker = requirement.partition(";")
    return re.sub(r",?<=?[\w.]+", "", bounds).replace("==", ">=") + marked + marker


def read_lock(name: str) -> dict[str, str]:
    """Return package -> version of a lock."""
    lines = (ROOT / f"locks/{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def compared(lock: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Yield a line for each package whose installed version differs from the lock's or that the lock lacks.

    Example:
        >>> compared({"ray": "2.55.1", "six": "1.17", "old": "1"}, {"ray": "2.56.0", "six": "1.17", "new": "1.0"})
        ['new: none -> 1.0', 'old: 1 -> none', 'ray: 2.55.1 -> 2.56.0']
    """
    return [
        f"{name}: {lock.get(name, 'none')} -> {installed.get(name, 'none')}"
        for name in sorted({*lock, *installed})
        if lock.get(name) != installed.get(name)
    ]


def main(arguments: list[str]) -> None:
    """Print the output that the module's docstring describes."""
    lock = read_lock("dev")
    if arguments == ["--installed"]:
        found = {
            re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower(): package.version.partition("+")[0]
            for package in metadata.distributions()
        }
        ours = {name: version for name, version in found.items() if name not in ("incr", "pip")}
        print(*compared(lock, ours), sep="\n")
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = os.environ.get("INCR_LATEST_TORCH", f"torch=={lock['torch']}")
    for requirement in [*direct(project), *direct(project, "dev")]:
        print(torch if requirement.startswith("torch>") else loosened(requirement))


if __name__ == "__main__":
    main(sys.argv[1:])
