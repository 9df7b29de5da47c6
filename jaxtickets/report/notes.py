"""What must be known beside the numbers of a table: feature networks, their data, and constants."""

import math
from collections.abc import Mapping, Sequence

# Log-likelihoods; `negative_elbo` is the VAE's loss, which leaves the Gaussian's constant out.
WITH_CONSTANT = ("log_likelihood", "bits_per_dimension")
CONSTANT = math.log(math.pi) / 2  # Of a Gaussian with variance 1/2, in nats for each number of an image.


def notes(columns: Sequence[str], described: Mapping[str, Mapping[str, str]], size: int | None = None) -> list[str]:
    """Returns one sentence for each thing that the columns of a table don't say themselves.

    Args:
      columns: the metrics' columns in the order in which they are shown.
      described: for each column, "about" where its feature network has something to tell.
      size: the number of pixels times channels of an image, if it is known.
    """
    readers: dict[str, list[str]] = {}
    for column in columns:
        if about := described.get(column, {}).get("about"):
            readers.setdefault(about.rstrip("."), []).append(column)
    lines = [f"{', '.join(names)}: {about}." for about, names in readers.items()]
    if "negative_elbo" in columns and (others := [name for name in WITH_CONSTANT if name in columns]):
        of_image = f", {CONSTANT * size:.1f} for an image" if size else ""
        lines.append(
            f"negative_elbo leaves out the constant of the likelihood, a Gaussian with variance 1/2:"
            f" {CONSTANT:.4f} nats for each pixel and channel{of_image}."
            f" {' and '.join(others)} {'have' if len(others) > 1 else 'has'} it."
        )
    return lines
