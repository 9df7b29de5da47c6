"""The report inside a notebook: in a frame of its own, so that its style and script touch nothing around it."""

from html import escape
from typing import NamedTuple

HEIGHT = 720  # CSS pixels; the frame's corner makes it higher.


class Shown(NamedTuple):
    """A page that a notebook shows as the value of a cell.

    Attributes:
      title: what it is, for those who do not see it, and where nothing shows HTML.
      html: the page.
    """

    title: str
    html: str

    def __repr__(self) -> str:
        return f"<{self.title}>"

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {HEIGHT}px; border: 0; resize: vertical"
        # Without the same origin as the notebook, whose pages and cookies a script in it can't reach.
        rights = "allow-scripts allow-downloads"
        return (
            f'<iframe title="{escape(self.title)}" sandbox="{rights}" style="{style}"'
            f' srcdoc="{escape(self.html)}"></iframe>'
        )
