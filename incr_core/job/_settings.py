"""Settings on top of a job file: `section.key=value`, as `--set` takes them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from incr_core.errors import JobError

__all__ = ["with_settings"]


def with_settings(document: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of a document with `section.key=value` settings applied. Values are TOML; a bare word is text.

    Raises:
        JobError: A setting that is not valid, or that names a section where there is a value.

    >>> with_settings({"learner": {"seed": 0}}, ["learner.seed=1", "name=rain"])
    {'learner': {'seed': 1}, 'name': 'rain'}
    """
    changed: dict[str, Any] = _plain(document)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise JobError(f"--set {setting}: expected section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # a bare word is text
            if value.startswith(("[", "{")):  # the shell removes quotes from a list or a table
                raise JobError(
                    f"--set {setting}: not valid TOML; quote the setting in the shell: "
                    f"--set '{path.strip()}={_quoted(value)}'"
                ) from None
        value = _plain(value)
        table: Any = changed
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise JobError(f"--set {setting}: {key} is not a section")
        table[keys[-1]] = value
    return changed


def _plain(value: Any) -> Any:
    """A value of TOML as JSON has it: a time as its ISO text."""
    return json.loads(json.dumps(value, default=lambda found: getattr(found, "isoformat", found.__str__)()))


def _quoted(text: str) -> str:
    """A list or table of TOML with its bare words in quotes.

    >>> _quoted("[origin]"), _quoted("{name=adam, lr=0.1}"), _quoted('["a", b')
    ('["origin"]', '{name="adam", lr=0.1}', '["a", "b"')
    """
    words = r'"[^"]*"|\'[^\']*\'|[^\s\[\]{},=]+(\s*=)?'
    return re.sub(words, lambda found: found[0] if found[1] or _is_value(found[0]) else f'"{found[0]}"', text)


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return False
    return True
