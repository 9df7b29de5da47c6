"""Pictures of the latent space of a run: the dense network's beside the winner's, kind by kind."""

from collections.abc import Iterator
from typing import NamedTuple

from jaxtickets.report.elements import pair, paragraph, picture
from jaxtickets.report.reading import Results
from jaxtickets.report.samples import label


class Kind(NamedTuple):
    """How a kind of picture is called on the page, what its rows show, and what is seen for those who do not see it."""

    title: str
    rows: str
    seen: str


KINDS = {
    "interpolation": Kind(
        "Interpolations",
        "Each row goes from one image to another in equal steps through the latents; the same ends for both networks.",
        "Eight rows of eight images, each row a way from one image to another.",
    ),
    "traversal": Kind(
        "Traversals",
        "In each row one latent goes from -2 to 2 and the others stay at the code of the first held-out image. The rows"
        " are the latents that the network uses most, the most used first; the networks need not agree on them.",
        "Rows of eight images that differ in one latent.",
    ),
    "reconstruction": Kind(
        "Reconstructions",
        "Rows of held-out images, each above its reconstructions; the same images for both networks.",
        "Rows of held-out images, each above the reconstructions of them.",
    ),
    "nearest": Kind(
        "Nearest training images",
        "Twice in each row: a sample, and to its right the three training images nearest to it in the metric's features"
        ". Samples that are copies of their neighbours are memorised.",
        "Samples, each beside the three training images that are nearest to it.",
    ),
}


def latent(run: Results) -> Iterator[str]:
    """The HTML of the pictures, those of each kind side by side."""
    for kind, of_rounds in run.pictures.items():
        if of_rounds:
            about = KINDS[kind]
            yield f"<h3>{about.title}</h3>"
            labels = {number: label(run, number) for number in of_rounds}
            shown = (
                picture(path.read_bytes(), labels[number], f"{about.seen} {labels[number]}.")
                for number, path in of_rounds.items()
            )
            yield pair(*shown)
            yield paragraph(about.rows)
