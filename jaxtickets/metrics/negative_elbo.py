"""The negative evidence lower bound (ELBO) on held-out images, and its two terms."""

from jaxtickets.metrics.metric import Metric

NEGATIVE_ELBO = Metric(
    "negative_elbo",
    (
        "KL term of the ELBO on {held_out:,} held-out images, in nats",
        "negative ELBO on {held_out:,} held-out images, in nats, without the likelihood's constant",
        "reconstruction term of the ELBO on {held_out:,} held-out images, in nats, without the likelihood's constant",
    ),
    terms=("kl", "negative_elbo", "reconstruction"),
    main="negative_elbo",
    of_mean_image=lambda error, size: error * size,  # Without a code, and so without a KL term.
)
