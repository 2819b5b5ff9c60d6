"""Checks of arguments, plugins by name, strict JSON, reading ahead, signals: nothing that knows of learning."""

from __future__ import annotations

from incr_core._util._building import build, refusal
from incr_core._util._checks import at_least_one, byte_count, fraction, not_negative, one_of, positive
from incr_core._util._lazy import exported
from incr_core._util._made_with import MadeWith, made_with
from incr_core._util._plugins import Catalogue, file_of, names_code, unknown
from incr_core._util._prefetch import prefetch
from incr_core._util._signals import WAKE, Stopped, set_by_signals, waiting
from incr_core._util._strict_json import json_text
from incr_core._util._token import read_token
from incr_core._util._webhook import SIGNATURE, Webhook, signed

__all__ = [
    "SIGNATURE",
    "WAKE",
    "Catalogue",
    "MadeWith",
    "Stopped",
    "Webhook",
    "at_least_one",
    "build",
    "byte_count",
    "exported",
    "file_of",
    "fraction",
    "json_text",
    "made_with",
    "names_code",
    "not_negative",
    "one_of",
    "positive",
    "prefetch",
    "read_token",
    "refusal",
    "set_by_signals",
    "signed",
    "unknown",
    "waiting",
]
