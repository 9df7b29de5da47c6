"""The commands and the Python code of the documentation: README.md and docs/."""

import re
from typing import NamedTuple

from conftest import ROOT

BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COMMANDS = ("", "bash", "sh")  # Blocks that hold nothing but commands.
WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")  # With the quotes of a shell.
OUTPUT = ("text",)  # What a command prints, or a part of a file.
PROGRAMS = "apt-get|docker|gcloud|jaxtickets|jaxtickets-sweep|mkdocs|npm|pip|pytest|python|srun"
INLINE = re.compile(rf"`((?:{PROGRAMS}|launch/\w+\.sh|[A-Z_]+=\S+ python)\s[^`]+)`")


class Found(NamedTuple):
    """A command or a block of code, with the page and the line where it stands."""

    page: str
    line: int
    text: str


def pages():
    """The paths of all pages, relative to the repository."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def blocks(page, text=None):
    """`(language, Found)` of each fenced block, its text without what indents all of it."""
    text = (ROOT / page).read_text() if text is None else text
    for match in BLOCK.finditer(text):
        indent, language, body = match.groups()
        yield language, Found(page, line_of(text, match.start(3)), re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))


def commands(page, text=None):
    """Every command of a page: each line of its blocks of commands, and those in its text; `a && b` is two."""
    text = (ROOT / page).read_text() if text is None else text
    for language, block in blocks(page, text):
        if language in COMMANDS:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from (Found(page, block.line, part) for part in parts(line))
    outside = BLOCK.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in INLINE.finditer(outside):
        yield from (Found(page, line_of(outside, match.start()), part) for part in parts(match[1]))


def parts(line):
    """The commands of a line of shell, without comments; words are separated by one blank."""
    commands = [[]]
    for word in WORD.findall(line):
        if word.startswith("#"):
            break
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return [" ".join(command) for command in commands if command]


def line_of(text, position):
    return text.count("\n", 0, position) + 1
