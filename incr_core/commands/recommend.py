"""`incr recommend`: the items with the highest scores for a user."""

from __future__ import annotations

import argparse
import sys

import pyarrow.csv as csv

from incr_core.commands.predict import for_a_terminal
from incr_core.runs import Version, recommended, user_and_item
from incr_core.shown import shown

__all__ = ["recommend"]


def recommend(options: argparse.Namespace) -> int:
    """Print the best items for a user as CSV, best first. Return the exit code."""
    version = Version.load(options.directory, options.version)
    found, known = recommended(version, options.user, options.k, with_seen=options.with_seen, rows=options.rows)
    csv.write_csv(for_a_terminal(found) if sys.stdout.isatty() else found, sys.stdout.buffer)
    if not known:
        who = f"{user_and_item(version.job)[0]}={options.user}"
        print(f"incr: no row has {shown(who)}; ranked as for a new user", file=sys.stderr)
    if found.num_rows < options.k:
        left = "" if options.with_seen else " that the user has not seen (--with-seen: all)"
        print(f"incr: {found.num_rows} items{left}, {shown(options.k)} were asked for", file=sys.stderr)
    return 0
