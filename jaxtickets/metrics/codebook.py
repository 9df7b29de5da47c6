"""The usage of a VQ-VAE's codebook by held-out images: the share of codes used, and the perplexity of their use."""

from jaxtickets.metrics.metric import Metric

CODEBOOK = Metric(
    "codebook",
    (
        "share of the codes that {held_out:,} held-out images use",
        "perplexity of the codes that {held_out:,} held-out images use",
    ),
    terms=("codebook_usage", "codebook_perplexity"),
    better="higher",
)
