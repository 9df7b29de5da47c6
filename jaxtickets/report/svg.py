"""Plots as SVG: as files of their own, and inside a page, whose colours they then take."""

import io
import re
import warnings
from html import escape

import matplotlib
from matplotlib.figure import Figure

from jaxtickets.report.theme import COLOURS

PAPER = "#fffffe"  # The page's own colour in a plot, unlike a white that stays white in the dark.
_TEXT_AS_TEXT = {"svg.fonttype": "none", "svg.hashsalt": "jaxtickets"}
_NAMES = {light: name for name, (light, _) in COLOURS.items() if name != "page"} | {PAPER: "page"}


def svg(figure: Figure) -> str:
    """The figure as the content of an SVG file without a background, whose texts are texts."""
    buffer = io.StringIO()
    with warnings.catch_warnings(action="ignore"), matplotlib.rc_context(_TEXT_AS_TEXT):
        # The warnings are of letters that the font lacks, and of texts without room.
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"<!DOCTYPE.*?>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", text)
    text = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f]", "\N{REPLACEMENT CHARACTER}", text)  # XML has no such characters.
    # A style of the whole page otherwise, once it stands in one.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace("<svg", '<svg stroke-linejoin="round" stroke-linecap="butt"', 1)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    return re.sub(r"\n\s*", "\n", text)


def inline(text: str, name: str, description: str) -> str:
    """The content of an SVG file as an element of a page.

    Args:
      name: of the plot, unlike that of any other on the page, where an `id` may stand once.
      description: what is seen, for those who do not see it.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r' (?:width|height)="[^"]*"', "", text, count=2)
    text = re.sub(r"( id=\"|url\(#|href=\"#)", rf"\1{name}-", text)
    text = re.sub("#[0-9a-f]{6}", lambda found: variable(found[0]), text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def variable(colour: str) -> str:
    """The CSS variable of a light colour, with it as the value where there is none; another colour as it is."""
    return f"var(--{_NAMES[colour]},{colour})" if colour in _NAMES else colour
