"""The commands that `incr` parses are those that it carries out."""

from __future__ import annotations

from incr_core.commands import cli


def test_every_command_that_is_parsed_is_carried_out() -> None:
    assert list(cli.parsers()[1]) == list(cli.COMMANDS)
