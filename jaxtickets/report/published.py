"""Figures of "Winning Lottery Tickets in Deep Generative Models" (Kalibhat, Balaji, Feizi, AAAI 2021).

They stand beside a run only where its setting is that of the paper: data, size of images, network, method and metric.
"""

from collections.abc import Mapping
from typing import Any

from jaxtickets.report.reading import Results, main_metric

PAPER = "AAAI 2021, arXiv 2010.02350"
DATA = ("cifar10", "celeb_a")
# The sparsity up to which the paper finds winning tickets, by the network, and the metric that says so.
WEIGHTS = {
    "dcgan": (0.8926, "fid"),
    "conv_vae": (0.9313, "fid"),
    "conv_ae": (0.9885, "reconstruction_error"),
    "pooled_ae": (0.9885, "reconstruction_error"),
}
EARLY_BIRD = "early-bird tickets with up to 88% fewer FLOPs and 54% less training time"


def published_sparsity(run: Results) -> float | None:
    """The sparsity up to which the paper has winning tickets in this run's setting; None where it is another one."""
    if not _is_of_the_paper(run) or run.config.get("experiment") != "imp":
        return None
    prune = run.config.get("prune") or {}
    is_same = all(prune.get(name) == value for name, value in (("score", "magnitude"), ("rate", 0.2)))
    return WEIGHTS[run.config["model"]["name"]][0] if is_same and prune.get("structure", "weight") == "weight" else None


def published(run: Results) -> str:
    """What the paper found in this run's setting, in words; "" where the setting is another one."""
    if (sparsity := published_sparsity(run)) is not None:
        return f"winning tickets up to {100 * sparsity:.0f}% sparsity ({PAPER})"
    prune = run.config.get("prune") or {}
    is_channels = prune.get("structure") == "channel" and prune.get("target") == "flops"
    if run.config.get("experiment") == "early_bird" and is_channels and _is_of_the_paper(run):
        return f"{EARLY_BIRD} ({PAPER})"
    return ""


def _is_of_the_paper(run: Results) -> bool:
    model: Mapping[str, Any] = run.config.get("model") or {}
    network = WEIGHTS.get(model.get("name"))
    if network is None or model.get("image_size") != 32:
        return False
    is_data = (run.config.get("data") or {}).get("name") in DATA
    return is_data and main_metric(run.rounds, run.verdict, run.about) == network[1]
