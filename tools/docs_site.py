"""Hooks of mkdocs: pages of the site that are not in `docs/`, and the links between them and those that are.

The site also shows CONTRIBUTING, SECURITY, CHANGELOG and the examples, which are elsewhere in the repository, and
pages that are generated at each build: the API of each public package, and the command line from its parser.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from incr_core.commands.cli import parsers

ROOT = Path(__file__).parent.parent
PROJECT = "project/"
"""Places on the site of repository files outside of `docs/`."""
REFERENCE = "reference/"
LINK = re.compile(r"\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
"""A Markdown link to a file, not to an address and not within the page."""
SHOWN = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "examples/*/*.md", "examples/*/*.toml", "examples/*/*.py")

log = logging.getLogger("mkdocs.plugins.docs_site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository files that the site shows, and the generated pages in the navigation."""
    for pattern in (*SHOWN, "examples/*/*.yaml", "examples/*/*.ipynb"):
        for path in sorted(ROOT.glob(pattern)):
            place = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, PROJECT + place, abs_src_path=str(path)))
    for page in _named(config.nav):
        if page.startswith(REFERENCE):
            name = page.removeprefix(REFERENCE).removesuffix(".md")
            text = command_line() if name == "cli" else f"# `{name}`\n\n::: {name}\n"
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links across the border of `docs/` to the pages of the site."""
    known = set(files.src_uris)
    return LINK.sub(lambda link: _moved(link, page.file.src_uri, known), markdown)


def _moved(link: re.Match[str], page: str, known: set[str]) -> str:
    """Return a link of a page as the site needs it.

    Example:
        >>> link = LINK.search("[laws](../examples/flights/)")
        >>> _moved(link, "results.md", {"project/examples/flights/README.md"})
        '](project/examples/flights/README.md)'
        >>> _moved(LINK.search("[laws](docs/design.md#laws)"), "project/CONTRIBUTING.md", {"design.md"})
        '](../design.md#laws)'
    """
    source = page.removeprefix(PROJECT) if page.startswith(PROJECT) else f"docs/{page}"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    place = target.removeprefix("docs/") if target.startswith("docs/") else PROJECT + target
    if place not in known and f"{place}/README.md" in known:
        place = f"{place}/README.md"
    if place not in known:
        log.warning("%s links to %s, which the site does not show", source, target)
        return link[0]
    return f"]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{link['anchor'] or ''})"


def _named(nav: Any) -> Iterator[str]:
    """Yield the pages in a navigation."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for inner in nav.values():
            yield from _named(inner)
    else:
        for inner in nav or []:
            yield from _named(inner)


def command_line() -> str:
    """Return the reference of the command line: the help of each command, 100 columns wide.

    Example:
        >>> "usage: incr versions [-h] DIR" in command_line()
        True
    """
    lines = ["# The command line", "", "`incr COMMAND --help` prints the same text.", ""]
    with mock.patch.dict(os.environ, COLUMNS="100"):  # argparse reads the width there
        for name, command in parsers()[1].items():
            lines += [f"## incr {name}", "", "```text", command.format_help().rstrip(), "```", ""]
    return "\n".join(lines)
