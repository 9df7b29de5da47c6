"""docs/reliability.md names tests that exist."""

import re

from conftest import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def test_every_test_on_the_page_exists():
    missing = []
    for row in re.findall(r"^\| (?!fault|---|command|`python)(.*) \|$", PAGE.read_text(), re.MULTILINE):
        file, cell = None, row.split(" | ")[-1]
        for folder, name in re.findall(r"(?:([\w/]+\.py)::|::|, )?(test_\w+)(?!\w*\.py)", cell):
            file = folder or file
            content = (ROOT / "tests" / file).read_text() if file and (ROOT / "tests" / file).exists() else ""
            if f"def {name}(" not in content:
                missing.append(f"{file}::{name}")
        assert file, row
    assert not missing
