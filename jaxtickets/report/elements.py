"""The parts of a page: sections, figures, pictures, sliders, tables, and links that save what they show.

A section with grids of images and a slider is

    section("Latent space", "latent-space", [pair(picture(dense, ...), slider("path", "Step", frames))])

All return HTML, and texts are escaped here: give plain text.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from PIL import Image

from jaxtickets import files
from jaxtickets.report.svg import inline

MOST_PNG = 64 * 1024  # Bytes; a picture with more of them loses a little, as a WebP file of quality 90.


class Frame(NamedTuple):
    """One of the pictures of a slider.

    Attributes:
      image: the content of a PNG file.
      label: what stands below it while it is shown.
      description: what is seen, for those who do not see it.
    """

    image: bytes
    label: str
    description: str


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      cells: the texts.
      kind: the row's CSS class.
      kinds: the CSS classes of cells, by their place.
      shares: for cells with a bar behind their number, its length in [0, 1], by their place.
    """

    cells: Sequence[str]
    kind: str = ""
    kinds: Mapping[int, str] = {}
    shares: Mapping[int, float] = {}


def section(title: str, name: str, lines: Iterable[str]) -> list[str]:
    """A section with a heading that links lead to (`#name`); [] without content."""
    lines = list(lines)
    return [f'<section id="{name}"><h2>{escape(title)}</h2>', *lines, "</section>"] if lines else []


def paragraph(text: str) -> str:
    """A note in the smaller type."""
    return f'<p class="soft">{escape(text)}</p>'


def plot(text: str, name: str, description: str, caption: str, table: str = "") -> str:
    """A plot with its caption and a link that saves it.

    Args:
      text: the content of an SVG file.
      name: of the plot, unlike that of any other on the page.
      description: what is seen, with its numbers.
      table: the link that saves what it was drawn from (`csv_link`).
    """
    # The link's address is made by the page's script, from the plot itself.
    link = f'<a class="get" hidden data-svg="{escape(name)}.svg">SVG</a>'
    about = " ".join(filter(None, [escape(caption), link, table]))
    return f'<figure class="plot">{inline(text, name, description)}<figcaption>{about}</figcaption></figure>'


def plots(figures: Iterable[str]) -> list[str]:
    """Plots beside one another, as far as there is room."""
    figures = list(figures)
    return ['<div class="plots">', *figures, "</div>"] if figures else []


def pair(*figures: str) -> str:
    """Pictures beside one another, as far as there is room."""
    return "\n".join(['<div class="pair">', *figures, "</div>"])


def picture(image: bytes, caption: str, description: str, kind: str = "") -> str:
    """A picture with its caption.

    Args:
      image: the content of a PNG file.
      description: what is seen.
      kind: the CSS class of the figure.
    """
    return f'<figure class="{kind}">{_image(image, description)}<figcaption>{escape(caption)}</figcaption></figure>'


def slider(key: str, name: str, frames: Sequence[Frame], start: int = 0) -> str:
    """Pictures of which a slider shows one at a time, by mouse, touch or arrow keys; without a script, all of them.

    Args:
      key: of the slider's `id`, unlike that of any other slider on the page.
      name: of what changes from picture to picture, in words.
      start: the place of the picture that is shown first.
    """
    shown = [
        f'<div class="frame">{_image(frame.image, frame.description)}'
        f"<figcaption>{escape(frame.label)}</figcaption></div>"
        for frame in frames
    ]
    control = (
        f'<div class="steps"><label for="slider-{key}">{escape(name)}</label>'
        f'<input type="range" id="slider-{key}" min="0" max="{len(frames) - 1}" value="{start}" step="1"></div>'
        f'<output for="slider-{key}" aria-live="polite">{escape(frames[start].label)}</output>'
    )
    return "\n".join(['<figure class="slider">', *shown, control, "</figure>"])


def _image(image: bytes, description: str) -> str:
    content = io.BytesIO()
    is_small = len(image) <= MOST_PNG
    how = {"lossless": True, "method": 2} if is_small else {"quality": 90}
    Image.open(io.BytesIO(image), formats=("PNG",)).convert("RGB").save(content, "webp", **how)
    source = f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
    return f'<img class="grid" alt="{escape(description)}" src="{source}">'


def table(header: Sequence[str], rows: Iterable[Row], caption: str, link: str = "", text: Sequence[int] = ()) -> str:
    """A table in a box of its own that scrolls sideways; the first cell of a row is its heading and stays in sight.

    Args:
      caption: what the table is.
      link: saves what the table was made from (`csv_link`).
      text: the places of the columns that hold words.
    """
    words = ["text" if place in text else "long" if len(name) > 14 else "" for place, name in enumerate(header)]
    cells = [f'<th scope="col"{_kind(kind)}>{escape(name)}</th>' for name, kind in zip(header, words, strict=True)]
    name = f'aria-label="{escape(caption)}"'
    lines = [f'<p class="caption">{escape(caption)} {link}</p>']  # A caption in the table would scroll with it.
    lines += [f'<div class="scroll" role="region" tabindex="0" {name}><table {name}>']
    lines += [f"<thead><tr>{''.join(cells)}</tr></thead><tbody>"]
    for row in rows:
        cells = [_cell(row, place, place in text) for place in range(len(row.cells))]
        lines.append(f"<tr{_kind(row.kind)}>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _cell(row: Row, place: int, is_text: bool) -> str:
    kinds = ["text" if is_text else "", "bar" if place in row.shares else "", row.kinds.get(place, "")]
    kind, content = _kind(" ".join(filter(None, kinds))), escape(row.cells[place])
    if place == 0:
        return f'<th scope="row"{kind}>{content}</th>'
    style = f' style="--share: {100 * row.shares[place]:.1f}%"' if place in row.shares else ""
    return f"<td{kind}{style}>{content}</td>"


def _kind(name: str) -> str:
    return f' class="{escape(name.strip())}"' if name.strip() else ""


def csv_link(name: str, rows: Sequence[dict]) -> str:
    """A link that saves rows as a CSV file of this name, which lies in the link itself; "" without rows."""
    return save_link(name, files.csv_bytes(list(rows)), "text/csv", "CSV") if rows else ""


def save_link(name: str, content: bytes, kind: str, label: str) -> str:
    """A link that saves a file which lies in the link itself.

    Args:
      kind: the MIME type.
    """
    data = base64.b64encode(content).decode()
    return f'<a download="{escape(name)}" href="data:{kind};base64,{data}">{escape(label)}</a>'


def facts(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Names and their values, in large type."""
    entries = [f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries]
    return ['<dl class="facts">', *entries, "</dl>"] if entries else []
