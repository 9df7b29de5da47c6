"""What MkDocs does not do itself: links to files outside docs/, pages that are such files, formulas without scripts."""

import html
import logging
import os
import posixpath
import re
from pathlib import Path

import latex2mathml.converter

ROOT = Path(__file__).parent.parent
# A line of a page -> the file of the repository that comes in its place, up to a heading.
INCLUDED = {
    "<!-- The beginning of README.md -->": ("README.md", "\n## Configs\n"),
    "<!-- CHANGELOG.md -->": ("CHANGELOG.md", None),
}
SCHEME = "repository:"
# What latex2mathml gives no size or form to.
TEX = {
    r"\\lvert\b": r"\\left|",
    r"\\rvert\b": r"\\right|",
    r"\\lVert\b": r"\\left\\|",
    r"\\rVert\b": r"\\right\\|",
    r"\\!": "",
    r"\\(log|exp)\b": r"\\\1\\,",
}
log = logging.getLogger("mkdocs.hooks")  # With --strict, a warning fails the build.


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The Markdown of a page, in which each link out of docs/ has the scheme `repository:`."""
    folder = posixpath.dirname(page.file.src_uri)
    for line, (file, end) in INCLUDED.items():
        if line in markdown:
            markdown = markdown.replace(line, _included(file, end))

    def target(match):
        path = os.path.normpath(posixpath.join("docs", folder, match[1]))
        if path.startswith("docs") or re.match(r"[a-z]+:", match[1]):
            return match[0]
        if path == "README.md" and (match[2] or "") in ("", "#ten-minutes"):
            return f"]({posixpath.relpath('index.md', folder or '.')}{match[2] or ''})"
        if not (ROOT / path).exists():
            log.warning("%s: a link to %s, which does not exist", page.file.src_uri, path)
        return f"]({SCHEME}{path}{match[2] or ''})"

    return re.sub(r"\]\(([^)\s#]+)(#[^)\s]*)?\)", target, markdown)


def on_page_content(content: str, page, config, files) -> str:
    """The HTML of a page: formulas as MathML, links to the API's pages and to the repository's files."""
    content = re.sub(
        r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>',
        lambda match: _formula(html.unescape(match[2]), match[1] == "div"),
        content,
        flags=re.DOTALL,
    )
    content = re.sub(r"<code>(jaxtickets\.[\w.]+)</code>", lambda match: _name(match[1]), content)
    content = re.sub(r"<code>([^<]*--\w[^<]*)</code>", lambda match: f"<code>{_unbroken(match[1])}</code>", content)
    content = re.sub(r"<table>.*?</table>", lambda match: _narrow(match[0]), content, flags=re.DOTALL)
    address = config.extra["files_url"]
    return re.sub(
        rf'<a href="{SCHEME}([^"]*)">(.*?)</a>',
        lambda match: _file(address, *match.groups()),
        content,
        flags=re.DOTALL,
    )


def _name(name: str) -> str:
    """A name of the package, with a link to its entry in the API reference if it has one; lines break at its dots."""
    return f'<autoref optional identifier="{name}"><code>{name.replace(".", ".<wbr>")}</code></autoref>'


def _unbroken(code: str) -> str:
    """Inline code in which no line breaks within the two hyphens of a flag."""
    return re.sub(r"--\w+", lambda match: f'<span class="flag">{match[0]}</span>', code)


def _narrow(table: str) -> str:
    """A table whose long names can break behind their underscores, slashes and dots, with plain bars in its code."""
    name = re.compile(r"[^\s<>]{13,}(?=[^<>]*<)")  # In a text, not in a tag.
    parts = re.compile(r"([_/=]|::|\.(?=\w{4}))(?=\w)")
    return name.sub(lambda match: parts.sub(r"\1<wbr>", match[0]), table.replace("\\|", "|"))


def _file(address: str | None, path: str, text: str) -> str:
    """A link to a file of the repository; its text alone, if the repository has no address."""
    if address:
        return f'<a href="{address}/{path}">{text}</a>'
    return f'<span class="file" title="in the repository: {path}">{text}</span>'


def _included(file: str, end: str | None) -> str:
    """A file of the repository's root up to a heading, None is all of it, with links as from docs/."""
    text = (ROOT / file).read_text().partition(end)[0] if end else (ROOT / file).read_text()
    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", lambda match: f"]({os.path.relpath(match[1], 'docs')})", text)


def _formula(tex: str, is_block: bool) -> str:
    """MathML, which browsers show by themselves; the TeX is there for whoever copies it."""
    tex = " ".join(tex.split())
    for command, better in TEX.items():
        tex = re.sub(command, better, tex)
    if is_block:
        tex = re.sub(r"\\(sum|prod|bigcup)(?=_)", r"\\\1\\limits", tex)
    mathml = latex2mathml.converter.convert(tex, display="block" if is_block else "inline")
    return f'<div class="formula" title="{html.escape(tex)}">{mathml}</div>' if is_block else mathml
