"""The documentation's site in a real browser: nothing is cut off, nothing is listed twice."""

import json
import os
import subprocess
import sys

import chromium
import pytest
from conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.BINARY is None, reason="there is no Chromium on this machine"),
]
# Tables that are wider than their boxes.
CUT = """
JSON.stringify([...document.querySelectorAll('.md-content table')].filter(table => {
  const box = table.closest('.md-typeset__scrollwrap');
  return box.scrollWidth > box.clientWidth + 1;
}).map(table => table.rows[0].innerText))
"""
CONTENTS = "[...(document.querySelector('.md-sidebar--secondary')?.querySelectorAll('a.md-nav__link') ?? [])]"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={site}"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return sorted(page for page in site.rglob("*.html") if page.name != "404.html")


def found(pages, width, script):
    """What a script that returns JSON finds on each page, where it finds anything."""
    with chromium.tab() as tab:
        tab.look(width)
        seen = {}
        for page in pages:
            tab.open(page.as_uri())
            seen[str(page)] = json.loads(tab.run(script))
        return {name: value for name, value in seen.items() if value}


def test_no_table_is_wider_than_the_text_on_a_screen_of_1280_pixels(pages):
    assert found(pages, 1280, CUT) == {}


def test_no_page_is_wider_than_a_phone(pages):
    assert found(pages, 390, "JSON.stringify(document.documentElement.scrollWidth > innerWidth)") == {}


def test_no_name_stands_twice_in_the_contents_of_a_page(pages):
    names = f"{CONTENTS}.map(link => link.textContent.trim())"
    twice = f"JSON.stringify({names}.filter((name, place, names) => names.indexOf(name) !== place))"
    assert found(pages, 1280, twice) == {}
