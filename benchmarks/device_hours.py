"""Device hours of a paper-size table, from measured step times: steps x milliseconds, and nothing else.

    python benchmarks/device_hours.py

Prints the table of docs/scaling.md. Evaluation, compilation and the start are not in it.
"""

import sys
from typing import NamedTuple

SEEDS, ROUNDS = 5, 21  # Round 0 is dense; 20 pruned rounds.
TABLES = {  # Rounds of one seed.
    "tickets": ROUNDS,
    "and four controls on each level": ROUNDS + 4 * (ROUNDS - 1),
    "and four scores at initialisation": ROUNDS + 4 * (ROUNDS - 1) + 4 * ROUNDS,
}


class Row(NamedTuple):
    """A network, a data set with its number of training images, and the measured milliseconds of a step."""

    network: str
    data: str
    images: int
    batch: int
    epochs: int
    h100: float
    cpu: float

    @property
    def steps(self) -> int:
        """The steps of one round."""
        return self.images // self.batch * self.epochs

    def hours(self, rounds: int, milliseconds: float) -> float:
        """The hours of all seeds, one after another."""
        return SEEDS * rounds * self.steps * milliseconds / 3.6e6


# results/h100/train_step.txt (DCGAN, TF32 products), results/cpu/train_step.json. The VAE: 0.97 ms on one H100, JAX
# 0.11.2, eight steps per call. An autoencoder of this size has not been timed; it is the VAE without its sampling.
NETWORKS = {"DCGAN, width 128": (100, 200, 2.12, 1040), "VAE, width 64": (128, 100, 0.97, 334)}
DATA = {"CIFAR-10": 50_000, "CelebA": 162_770}


def table() -> str:
    """The table in Markdown: one row per network and data set."""
    heads = [
        "network",
        "data",
        "steps per round",
        *(f"H100 hours: {name}" for name in TABLES),
        "two CPU cores: tickets",
    ]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for network, how in NETWORKS.items():
        for data, images in DATA.items():
            row = Row(network, data, images, *how)
            hours = [f"{row.hours(rounds, row.h100):.1f}" for rounds in TABLES.values()]
            days = f"{row.hours(ROUNDS, row.cpu) / 24:,.0f} days"
            lines.append(" | ".join([network, data, f"{row.steps:,}", *hours, days]))
    return "".join(f"| {line} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(table())
