"""The documentation: it builds without a warning, has no dead link, fetches nothing, and its code runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import parsers
from incr_core.errors import JobError
from incr_core.job._file import JobFile
from tests.support.made_up import made_up
from tests.support.pages import blocks, incr_commands, pages, run_page
from tests.support.repository import ROOT

RUN = [page for page in pages() if page.name != "README.md" and any(block.mark for block in blocks(page))]
"""The pages with code to run; tests/test_readme.py runs that of the README."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fault_of(document: dict[str, Any]) -> str:
    """What is wrong with a job, unknown keys first; a fragment of one lacks what every job needs."""
    try:
        JobFile.from_document(document)
    except JobError as error:
        return str(error)
    return ""


class Links(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif tag == "link" or "src" in found:
            self.loaded.add(found.get("src") or found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_no_link_of_the_site_is_dead(site: Path) -> None:
    found = {path.resolve(): Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    dead = []
    for page, parsed in found.items():
        for link in parsed.links | parsed.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            known = found[target].anchors if target in found else {parts.fragment} if target.exists() else set()
            if unquote(parts.fragment) not in known:
                dead.append(f"{page.relative_to(site.resolve())}: {link}")
    assert dead == []
    assert len(found) > 40


@pytest.mark.slow
def test_a_page_of_the_site_loads_nothing_from_outside(site: Path) -> None:
    pages_of_site = {path: Links(path.read_text()) for path in site.rglob("*.html")}
    outside = {link for parsed in pages_of_site.values() for link in parsed.loaded if urlsplit(link).netloc}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert outside == set()
    assert re.findall(r"(?:@import|url\()\s*[\"']?https?:", styles) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=named)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(made_up(400), tmp_path / "people.parquet")
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", pages(), ids=named)
def test_all_code_of_a_page_is_run_or_checked(page: Path) -> None:
    """Python and console blocks run; a job's sections have known keys; commands have known arguments."""
    for block in blocks(page):
        assert block.mark or block.kind not in ("python", "console"), f"mark it as run or as a file: {block.text}"
        if block.kind == "toml" and not block.mark:
            document = tomllib.loads(block.text)
            if document.keys() <= JobFile.model_fields.keys():
                assert "unknown key" not in fault_of(document), block.text
    for arguments in incr_commands(page):
        try:
            parsers()[0].parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{named(page)}: incr {' '.join(arguments)}")
