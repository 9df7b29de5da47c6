"""How many seeds a run's rounds need to be shown to win: the table of `python -m jaxtickets.report WORKDIR --power`."""

import os
from collections.abc import Mapping

from jaxtickets import statistics
from jaxtickets.errors import UserError
from jaxtickets.report.reading import describe, main_metric, percent, read
from jaxtickets.report.table import p_text, ratio_text
from jaxtickets.tables import aligned

NOTES = """\
p: that the ratio is within the tolerance of {tolerance:.0%}, adjusted for the number of rounds, over {seeds} seeds.
Seeds for {power:.0%} power: with that many the round would win in {power:.0%} of all such runs, if its true ratio
and spread are these and the denser rounds within the tolerance win too. none: it is not within the tolerance.
Take new seeds (--config.seed): to test the same seeds and some more once again errs more often than said."""


def power(workdir: str | os.PathLike) -> str:
    """The table over the seeds that have finished, at least two.

    Raises:
      UserError: `workdir` is not a workdir, or has fewer seeds.
    """
    run = read(workdir)
    metric = str(main_metric(run.rounds, run.verdict, run.about))
    values = statistics.by_round(run.seed_rounds, metric) if run.seed_rounds else {0: {}}
    dense, seeds = values[0], len(values[0])
    if seeds < 2:
        reason = "only one of its seeds has finished" if run.config.get("seeds", 1) > 1 else "one seed has no spread"
        raise UserError(f"{workdir}: --power needs two seeds or more, but {reason}; run it with --config.seeds=5")
    from jaxtickets import config as config_lib  # Loads JAX, which no other report needs.

    rule = config_lib.get_config().to_dict() | run.config | (run.verdict or {})
    tolerance, confidence = rule["tolerance"], rule["confidence"]
    better = describe(metric, run.verdict, run.about).better or "lower"
    tested = statistics.tested_rounds(run.seed_rounds, metric, tolerance, better, confidence)
    if not tested:
        raise UserError(f"{workdir}: --power needs a round that has pruned something in every seed; there is none")
    sparsities = {row["round"]: row["sparsity"] for row in run.rounds}
    needed = f"seeds for {statistics.POWER:.0%} power"
    header = ["round", "sparsity %", f"{metric}, x dense [{confidence:.0%} interval]", "spread", "p", needed]
    lines = [
        [
            str(round_),
            percent(sparsities[round_]),
            ratio_text(one.comparison.ratio, one.comparison.low, one.comparison.high),
            _percent(one.comparison.spread),
            p_text(one.p_adjusted),
            _needed(one, n),
        ]
        for (round_, one), n in zip(tested.items(), statistics.seeds_for_each(list(tested.values())), strict=True)
    ]
    notes = NOTES.format(tolerance=tolerance, seeds=seeds, power=statistics.POWER)
    return "\n".join([aligned(header, lines), "", _dense(metric, dense), notes])


def _percent(spread: float | None) -> str:
    return "-" if spread is None else f"{spread:.1%}"


def _needed(one: statistics.Tested, n: int | None) -> str:
    if not statistics.is_within(one):
        return "none"
    return f"> {statistics.MOST_SEEDS:,}" if n is None else str(n)


def _dense(metric: str, values: Mapping[int, float]) -> str:
    mean, spread = sum(values.values()) / len(values), statistics.spread(list(values.values()))
    of_pair = "" if spread is None else f", spread {spread:.1%}"
    text = f"Dense runs: {metric} {mean:.4g}{of_pair}. Spread: the standard deviation of the logarithm over the seeds,"
    return f"{text}\nof the metric for the dense runs and of its ratio to them for the rounds."
