"""The sparsity of each round."""

from jaxtickets.pruning.selection import parse_structure

SCHEDULES = ("constant_rate", "cubic")


def cubic(final: float, progress: float) -> float:
    """final * (1 - (1 - progress)^3), for progress in [0, 1]: fast first, then slow (Zhu, Gupta 2017, equation 1)."""
    return final * (1 - (1 - progress) ** 3)


def sparsities(rate: float, rounds: int, schedule: str = "constant_rate") -> list[float]:
    """The sparsity after 0, 1, ..., `rounds` rounds.

    "constant_rate": each round prunes `rate` of what remains, 1 - (1 - rate)^n. "cubic": the same final sparsity on
    the curve of Zhu and Gupta.
    """
    constant = [1 - (1 - rate) ** done for done in range(rounds + 1)]
    if schedule == "constant_rate":
        return constant
    return [cubic(constant[-1], done / max(1, rounds)) for done in range(rounds + 1)]


def levels(options) -> list[float]:
    """The level of each round by `options`, a `config.prune`; round 0 with its 0.0 included.

    `options.target` says what it is a level of: of pruned weights or channels, or of FLOPs saved.
    """
    if (only := parse_structure(options.structure).sparsity) is not None:
        return [0.0, only]
    if options.sparsities:
        return [0.0, *options.sparsities]
    return sparsities(options.rate, options.rounds, options.schedule)
