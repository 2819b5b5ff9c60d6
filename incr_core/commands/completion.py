"""`incr completion`: scripts by which a shell completes commands, options, files and names, made by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from incr_core.commands._arguments import parsers
from incr_core.commands.explain import keys_of_jobs, names_of
from incr_core.errors import ArgumentError

__all__ = ["script"]

DIRECTORIES = ("DIR", "DIR2", "FOLDER", "PLACE", "RUN")
FILES = ("CA.crt", "FILE", "OUT.parquet", "PAGE.html", "ROWS", "ROWS.parquet")
SETTINGS = ("CLIENT.toml", "JOB.toml")
"""Arguments that name directories, files, and TOML files, by their metavar."""


def script(shell: str) -> str:
    """Return the completion script of a shell.

    The script needs neither Python nor incr when it completes. It has the names of this version of incr.

    Args:
        shell: "bash", "zsh" or "fish".

    Raises:
        ArgumentError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            "completion: needs shtab, which is not installed; pip install 'incr[completion]'"
        ) from missing
    files = dict.fromkeys(DIRECTORIES, shtab.DIRECTORY) | dict.fromkeys(FILES, shtab.FILE)
    # Zsh takes the pattern (*.toml) of shtab.glob for a list of file properties.
    toml = {**shtab.glob("*.toml"), "zsh": "_files -g '*.toml'"}
    files |= dict.fromkeys(SETTINGS, toml)
    words = _words()

    class Completed(argparse.Action):
        """An argument with a value, and how shtab completes it."""

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            if self.metavar in words:
                self.choices = words[self.metavar]
            elif self.metavar in files:
                self.complete = files[self.metavar]

        def __call__(self, *args: Any, **named: Any) -> None:
            raise AssertionError("this parser describes the arguments and parses none")

    whole, _ = parsers({None: Completed, "append": Completed})
    found: str = shtab.complete(whole, shell=shell)
    return found


@cache
def _words() -> dict[str | tuple[str, ...] | None, Sequence[str]]:
    """Return the words that an argument may be, by its metavar."""
    settings = [f"{key}=" for key in keys_of_jobs()]
    return {
        "ENGINE": sorted(one.name for one in entry_points(group="incr.engines")),
        "EXAMPLE": ["flights", "ratings", "reviews", "sensors"],
        "FORMAT": ["onnx", "pt2", "safetensors"],
        "KEY=VALUES": settings,
        "SECTION.KEY": keys_of_jobs(),
        "STRATEGY": names_of("strategy"),
        "int8": ["int8"],
        "section.key=value": settings,
    }
