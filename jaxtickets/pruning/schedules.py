"""The sparsity of each round."""

from jaxtickets.checks import check_choice, check_count, check_share
from jaxtickets.errors import UserError
from jaxtickets.pruning.structures import parse_structure

SCHEDULES = ("constant_rate", "cubic")


def cubic(final: float, progress: float, power: int = 3) -> float:
    """final * (1 - (1 - progress)^3), for progress in [0, 1]: fast first, then slow (Zhu, Gupta 2017, equation 1).

    Another `power` gives another polynomial: 1 a straight line.
    """
    power = check_count(power, "power", 1)
    final, progress = check_share(final, "final"), check_share(progress, "progress", and_one=True)
    return final * (1 - (1 - progress) ** power)


def sparsities(rate: float, rounds: int, schedule: str = "constant_rate") -> list[float]:
    """The sparsity after 0, 1, ..., `rounds` rounds.

    "constant_rate": each round prunes `rate` of what remains, 1 - (1 - rate)^n. "cubic": the same final sparsity on
    the curve of Zhu and Gupta.

    Raises:
      UserError: `rate` is not in (0, 1), `rounds` is no whole number, there is no such schedule, or nothing is left.
    """
    if not (share := check_share(rate, "rate")):
        raise UserError(f"rate: {rate!r} prunes nothing; allowed is a number above 0 and below 1; 0.5 is half")
    rate = share
    rounds = check_count(rounds, "rounds")
    check_choice(schedule, "schedule", SCHEDULES)
    constant = [1 - (1 - rate) ** done for done in range(rounds + 1)]
    if constant[-1] == 1:
        raise UserError(f"rate: {rate:g} of what remains, {rounds} times, leaves nothing; allowed are fewer rounds")
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
