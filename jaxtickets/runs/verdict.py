"""The verdict on a run, or on several seed runs: which ticket wins."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtickets import collapse, statistics
from jaxtickets import references as reference_lib
from jaxtickets.tables import bracketed

TICKET = "ticket"
MOST_NAMED = 5  # Rounds in a message.
OBSERVATION = " One seed is an observation; {} tests it."
ALONE, OF_SEVERAL = (
    OBSERVATION.format(what)
    for what in ("--config.seeds=5, in another workdir,", "the experiment in the directory above")
)
UNLEARNED = "No {subject} is named; train longer, with other settings, or judge by another metric."


def judge(
    rows: list[dict],
    metric: str,
    label: str,
    tolerance: float,
    subject: str = TICKET,
    better: str = "lower",
    references: Mapping[str, Any] | None = None,
    is_alone: bool = True,
) -> dict:
    """What was observed in the run of one seed: the sparsest round whose metric is within the tolerance.

    If lower metrics are better, that is at most the dense run's metric plus `tolerance` times its absolute value; if
    higher ones are, at least the metric less that. A round that prunes nothing does not count: round 0, the dense run,
    and a search that has found no ticket. `winning_round` is the sparsest round within the tolerance, or None. It is
    None, too, if the dense run has not learned (`references.has_learned`): then nothing is within the tolerance of it.
    A round that has diverged has no metric and does not count; nothing does if the dense run has diverged.

    Args:
      rows: the rows of `rounds.csv`.
      metric: the column that decides.
      label: the metric in words.
      subject: the message's word for a round.
      better: "lower" or "higher".
      references: the content of `references.json`; without it nothing is said of whether the dense run has learned.
      is_alone: false for one of several seed runs; the experiment whose workdir it lies in tests over all of them.
    """
    is_lower = better == "lower"
    dense, pruned = rows[0], [row for row in rows[1:] if row["sparsity"] > 0 and row[metric] is not None]
    if dense[metric] is None:
        return _of_diverged(dense, metric, label, tolerance, subject, better)
    threshold = _threshold(dense[metric], tolerance, better)
    finite = [row for row in pruned if math.isfinite(row[metric])]
    within = [row for row in finite if (row[metric] <= threshold if is_lower else row[metric] >= threshold)]
    reference, observation = (references or {}).get(metric, {}), ALONE if is_alone else OF_SEVERAL
    unlearned = reference_lib.shortcoming(metric, dense[metric], reference, better)
    best = None if unlearned else max(within, key=lambda row: row["sparsity"], default=None)
    verdict = {
        "metric": metric,
        "metric_label": label,
        "better": better,
        "subject": subject,
        "tolerance": tolerance,
        "learned": _learned([reference], unlearned),
        "dense": dense[metric],
        "threshold": threshold,
        "winning_round": best["round"] if best else None,
        "sparsity": best["sparsity"] if best else None,
        "value": best[metric] if best else None,
    }
    against = f"the dense run's {dense[metric]:.4g} (tolerance {tolerance:.0%})"
    of_control = "" if subject == TICKET else f" of the {subject}"
    if unlearned:
        verdict["message"] = f"The dense run {unlearned}. {UNLEARNED.format(subject=subject)}"
    elif best:
        verdict["message"] = (
            f"Round {best['round']}{of_control} was within tolerance in this run: {best['sparsity']:.2%} sparsity, "
            f"{metric} {best[metric]:.4g} against {against}.{observation}"
        )
    elif pruned:
        closest = (min if is_lower else max)(pruned, key=lambda row: row[metric])
        verdict["message"] = (
            f"No pruned round{of_control} was within tolerance in this run: the best is round {closest['round']} with "
            f"{metric} {closest[metric]:.4g} against {against}.{observation}"
        )
    else:
        is_pruned = any(row["sparsity"] > 0 for row in rows)
        reason = "no pruned round has a metric" if is_pruned else "nothing was pruned"
        verdict["message"] = f"Dense run: {metric} {dense[metric]:.4g}; {reason}."
    verdict["message"] += _diverged(rows) + _collapsed(rows)
    return verdict


def _of_diverged(dense, metric, label, tolerance, subject, better):
    """The verdict on a run whose dense run has diverged: one within another run's round."""
    names = ("learned", "dense", "threshold", "winning_round", "sparsity", "value")
    return {
        **{"metric": metric, "metric_label": label, "better": better, "subject": subject, "tolerance": tolerance},
        **dict.fromkeys(names),
        "message": f"The training diverged at step {dense['diverged_step']}.",
    }


def _name(row):
    of_seed = f" of seed {row['seed']}" if "seed" in row else ""
    return f"round {row['round']}{of_seed}"


def _collapsed(rows):
    """What is said of the rounds whose samples have collapsed; "" if there are none."""
    which = [f"{_name(row)} ({collapse.told(row)})" for row in rows if collapse.has_collapsed(row)]
    more = f" and {len(which) - MOST_NAMED} more" if len(which) > MOST_NAMED else ""
    named = f"{', '.join(which[:MOST_NAMED])}{more}"
    return f" The samples have collapsed to few images in {named}; held-out images have 1." if which else ""


def _diverged(rows):
    """What is said of the rounds that have diverged; "" if none has."""
    steps = {_name(row): step for row in rows if (step := row.get("diverged_step")) is not None}
    if not steps:
        return ""
    which = ", ".join(f"{name} at step {step}" for name, step in steps.items())
    if "seed" in rows[0]:
        return f" Diverged: {which}; the mean and the ratio of such a round leave the seed out, and it can't win."
    return f" Diverged, so without a metric and no winner: {which}."


def judge_seeds(
    rows: list[dict],
    metric: str,
    label: str,
    tolerance: float,
    confidence: float,
    subject: str = TICKET,
    better: str = "lower",
    references: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict:
    """The winning ticket over several seeds: the sparsest round that a test shows to be within the tolerance.

    A round wins if a one-sided test rejects that its ratio to the dense run of the same seed is worse than
    1 + `tolerance` (1 - `tolerance` where higher is better). This is a test of non-inferiority: noise speaks against a
    ticket and not for it. All rounds are tested together (`statistics.against_dense`), so that the probability of
    naming any round that is in truth worse is at most 1 - `confidence`. Only rounds that have pruned something in every
    seed are tested. `wins` and the p-values of the others are None. If the dense run of any seed has not learned, no
    round wins: a ratio to such a run says nothing, and to leave the seed out would choose among the results. For the
    same reason a round that has diverged in any seed is not tested; its mean and its ratio are those of the others.

    Args:
      rows: the rows of every seed's `rounds.csv`, each with its `seed`.
      metric, label, subject, better: see `judge`.
      references: the content of each seed's `references.json`, by seed.
    """
    values, sparsities = statistics.by_round(rows, metric), statistics.by_round(rows, "sparsity")
    tested = statistics.tested_rounds(rows, metric, tolerance, better, confidence)
    of_seeds = {seed: (references or {}).get(seed, {}).get(metric, {}) for seed in values[0]}
    reasons = {
        seed: reference_lib.shortcoming(metric, value, of_seeds[seed], better) for seed, value in values[0].items()
    }
    unlearned = [f"of seed {seed} {reason}" for seed, reason in reasons.items() if reason]
    rounds = []
    for round_, group in values.items():
        sparsity = float(np.mean(list(sparsities[round_].values())))
        found, p_adjusted = None, None
        if round_ in tested:
            found, p_adjusted, _ = tested[round_]
        elif round_:
            found = statistics.compare(group, values[0], confidence=confidence)
        entry = {"round": round_, "sparsity": sparsity, **_mean(group.values(), confidence)}
        diverged = sorted(sparsities[round_].keys() - group.keys())
        entry |= {"diverged": diverged} if diverged else {}
        rounds.append(entry | _ratio(found, p_adjusted, confidence) | ({"wins": None} if unlearned else {}))
    rounds[0]["spread"] = statistics.spread(list(values[0].values()))
    best = max((row for row in rounds if row["wins"]), key=lambda row: row["sparsity"], default=None)
    verdict = {
        "metric": metric,
        "metric_label": label,
        "better": better,
        "subject": subject,
        "tolerance": tolerance,
        "confidence": confidence,
        "seeds": sorted({row["seed"] for row in rows}),
        "learned": _learned(of_seeds.values(), unlearned),
        "dense": rounds[0]["mean"],
        "threshold": _threshold(rounds[0]["mean"], tolerance, better),
        "rounds": rounds,
        "winning_round": best["round"] if best else None,
        "sparsity": best["sparsity"] if best else None,
        "value": best["mean"] if best else None,
    }
    n = f"{len(values[0])} seeds"
    if unlearned:
        verdict["message"] = f"The dense run {'; that '.join(unlearned)}. {UNLEARNED.format(subject=subject)}"
    elif best:
        verdict["message"] = (
            f"Winning {subject}: round {best['round']} at {best['sparsity']:.2%} sparsity, "
            f"{metric} {_against_dense(best, rounds[0])} over {n} ({_how(best, tolerance, better)})."
        )
        if len(tested) > 1:
            verdict["message"] += (
                f" It is the sparsest winner of {len(tested)} rounds; picked so, a round that is worse than the "
                f"tolerance allows is named in at most {100 * (1 - confidence):.2g}% of all experiments."
            )
    elif tested:
        nearest = min((row for row in rounds if row["round"] in tested), key=lambda row: row["p_value"])
        outlook = _lost(rows, metric) or _more_seeds(tested, nearest["round"], len(values[0]))
        verdict["message"] = (
            f"No winning {subject}: no pruned round is shown to be within {tolerance:.0%} of the dense run over {n}. "
            f"The nearest is round {nearest['round']} with {metric} {_against_dense(nearest, rounds[0])} "
            f"({_how(nearest, tolerance, better)}). {outlook}"
        )
    else:
        is_pruned = any(row["sparsity"] > 0 for row in rows)
        reason = "no round has pruned something in every seed" if is_pruned else "nothing was pruned"
        if any("diverged" in row for row in rounds):
            reason = "no round has pruned something, and has a metric, in every seed"
        verdict["message"] = f"Dense runs: {metric} {_interval(rounds[0])}; {reason}."
    verdict["message"] += _diverged(rows) + _collapsed(rows)
    return verdict


def _learned(entries, unlearned):
    """Whether the dense runs have learned; None where no references tell, false also where the metric can't tell."""
    is_known = all(reference_lib.known(entry, "untrained") is not None for entry in entries)
    return not unlearned if unlearned or is_known else None


def _threshold(dense, tolerance, better):
    """The worst metric that is still within the tolerance of the dense run's, which may be negative."""
    worse = tolerance if (better == "lower") == (dense >= 0) else -tolerance
    return dense * (1 + worse)


def _mean(values, confidence):
    """The mean of a metric over the seeds, with Student's interval."""
    from scipy import stats  # Slow to import, and one seed needs none.

    values = np.array(list(values), float)
    if not len(values):
        return {"mean": None, "low": None, "high": None}
    mean, low, high = values.mean(), None, None
    if len(values) > 1:
        half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
        low, high = float(mean - half), float(mean + half)
    return {"mean": float(mean), "low": low, "high": high}


def _ratio(found, p_adjusted, confidence):
    """The part of a round's entry that compares it with the dense runs; `found` is None for these themselves."""
    is_tested = p_adjusted is not None
    return {
        "ratio": found and found.ratio,
        "ratio_low": found and found.low,
        "ratio_high": found and found.high,
        "spread": found and found.spread,
        "p_value": found.p_value if is_tested else None,
        "p_wilcoxon": found.p_wilcoxon if is_tested else None,
        "p_adjusted": p_adjusted,
        "pairs": found and found.pairs,
        "wins": p_adjusted < 1 - confidence if is_tested else None,
    }


def _against_dense(row, dense):
    """A round's ratio to the dense runs; its mean and theirs where there is no ratio."""
    if row["ratio"] is None:
        return f"{_interval(row)} against the dense runs' {_interval(dense)}"
    return f"{row['ratio']:.3g} {bracketed(row['ratio_low'], row['ratio_high'], '{:.3g}'.format)} times the dense run's"


def _how(row, tolerance, better):
    """The test that has decided, and its p-value."""
    kind = "paired one-sided t test" if row["pairs"] else "one-sided Welch test"
    limit = f"against {statistics.ratio_limit(tolerance, better):.4g}"
    against = limit if row["ratio"] is not None else f"of the differences, tolerance {tolerance:.0%}"
    return f"{kind} {against}, adjusted p = {row['p_adjusted']:.2g}"


def _lost(rows, metric):
    """Which seeds have a metric that is no finite number, so that nothing can be said of it; "" if none has."""
    if seeds := sorted({row["seed"] for row in rows if row[metric] is not None and not math.isfinite(row[metric])}):
        which = ", ".join(map(str, seeds))
        return f"{metric} is not finite in seed {which}, and rounds with such a value can't be tested."
    return ""


def _more_seeds(tested, round_, seeds):
    """Whether more seeds could show what these have not."""
    if not statistics.is_within(tested[round_]):
        return "It is not within the tolerance, so more seeds are not expected to help."
    n = dict(zip(tested, statistics.seeds_for_each(list(tested.values())), strict=True))[round_]
    power = f"{statistics.POWER:.0%}"
    if n is not None and n <= seeds:
        return f"If that is the truth, as many seeds show it in {power} of all runs, and this is one of the others."
    number = f"more than {statistics.MOST_SEEDS:,}" if n is None else f"about {n}"
    return f"If that is the truth, {number} seeds would show it with {power} power."


def _interval(row):
    return f"{row['mean']:.4g} {bracketed(row['low'], row['high'], '{:.4g}'.format)}".rstrip()
