"""The commands that `incr` parses are those that it carries out."""

from __future__ import annotations

import argparse

from incr_core.commands import cli
from incr_core.commands._arguments import parser


def test_every_command_that_is_parsed_is_carried_out() -> None:
    commands = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert list(commands.choices) == list(cli.COMMANDS)
