"""The page at `/`, in a browser: what it shows of a server that answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from html import unescape
from pathlib import Path

import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from tests.support.asked import ROW, learned
from tests.support.served import ask, serving

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

LOOKED = 4000
"""Milliseconds of the page's own clock; it looks once a second."""


def seen(url: str, profile: Path) -> str:
    """The document after the page has looked some times."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    command = [str(CHROMIUM), *options, f"--virtual-time-budget={LOOKED}", f"{url}/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def shown(page: str, name: str) -> str:
    """The text of an element."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)</(?:dd|p|span|tbody)>', page, re.DOTALL)
    assert found is not None, name
    return unescape(found[1])


def test_it_shows_traffic_labels_and_answers_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "<b id=bad>runs"  # what is shown never becomes a tag
    folder.mkdir()
    out = learned(folder, every=20)
    with serving(out, "--journal", str(tmp_path / "journal"), "--workers", "2") as url:
        ids = [ask(f"{url}/predict", {"rows": [{**ROW, "height": 150 + place}]})["ids"][0] for place in range(5)]
        assert ask(f"{url}/feedback", {"id": ids[0], "label": 1})["accepted"] == 1
        assert ask(f"{url}/feedback", {"id": ids[0], "label": 1})[0] == 409
        assert ask(f"{url}/predict", {"rows": []})[0] == 422
        answer = ask(f"{url}/predict", {"rows": [ROW]})["predictions"][0]
        time.sleep(1.5)  # a process knows the counts of the others after a second
        page = seen(url, tmp_path / "profile")
    assert shown(page, "directory") == str(out)
    assert 'id="bad"' not in page
    assert (shown(page, "version"), shown(page, "swaps"), shown(page, "rows")) == ("3", "0", "6")
    assert (shown(page, "accepted"), shown(page, "repeated"), shown(page, "waiting")) == ("1", "1", "5")
    assert shown(page, "refusals") == "2"
    assert int(shown(page, "requests")) > 9  # its own looks count too
    assert re.fullmatch(r"\d+\.\d\d ms", shown(page, "p50"))
    assert re.fullmatch(r"[\d.]+ a second", shown(page, "rate"))
    assert shown(page, "fault").strip() == ""
    recent = re.findall(r"<td>(.*?)</td>", page)
    assert len(recent) == 3 * 6
    assert f'"probability":{answer["probability"]}' in unescape(recent[2])
    points = re.search(r'<polyline[^>]*points="([^"]*)"', page)
    assert points is not None
    assert len(points[1].split()) > 1


def test_it_asks_for_a_token_and_shows_nothing_without(tmp_path: Path) -> None:
    out = learned(tmp_path, every=20)
    (tmp_path / "token").write_text("secret\n")
    with serving(out, "--token-file", str(tmp_path / "token")) as url:
        page = seen(url, tmp_path / "profile")
    assert shown(page, "fault") == "This server wants a token."
    form = re.search(r'<form id="enter"([^>]*)>', page)
    assert form is not None
    assert "hidden" not in form[1]
    assert (shown(page, "directory"), shown(page, "version"), shown(page, "recent")) == ("", "-", "")
