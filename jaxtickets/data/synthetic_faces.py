"""Rendered cartoon faces with CelebA's kind of attributes: a stand-in for CelebA without a download."""

from jaxtickets.data.faces import ATTRIBUTES, attributes, draw_face
from jaxtickets.data.painting import render
from jaxtickets.data.source import Examples

COUNTS = {"train": 20_000, "test": 2_000}


def examples(split: str) -> Examples:
    """Rendered 64x64 RGB faces: indices 0 to 19,999 are the train split, the next 2,000 the test split."""
    first, names = COUNTS["train"] if split == "test" else 0, tuple(ATTRIBUTES)

    def read(start, stop):
        return [_example(first + i, names, f"image {i}") for i in range(start, stop)]

    return Examples(COUNTS[split], read, names)


def _example(index, names, title):
    face = draw_face(index)
    truths = attributes(face)
    return render(face), [bool(truths[name]) for name in names], title
