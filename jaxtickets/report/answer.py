"""The first part of a page: the verdict, its figures and references, and what it does not show."""

from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from jaxtickets.report.elements import facts, paragraph
from jaxtickets.report.limits import limits
from jaxtickets.report.published import published
from jaxtickets.report.reading import (
    REFERENCES,
    Results,
    heading,
    is_finite,
    is_higher_better,
    judged_rounds,
    main_metric,
    percent,
    ratio,
    significant,
    winner,
    winning_round,
)
from jaxtickets.report.table import ratio_of
from jaxtickets.statistics import fallback_shares, halving_weights, ratio_limit


def answer(run: Results) -> Iterator[str]:
    """The HTML of the verdict; of an unfinished run, how far it is."""
    if run.verdict is None:
        yield f'<p class="verdict">{escape(_progress(run))}</p>'
        return
    wins = winning_round(run.verdict) is not None
    yield f'<p class="verdict{" wins" if wins else ""}">{escape(str(run.verdict.get("message", "")))}</p>'
    metric = main_metric(run.rounds, run.verdict, run.about)
    yield from facts(verdict_facts(run.verdict, run.references.get(metric, {})))
    note = heading(run)
    if run.seed_rounds:
        note += " " + test_note(run.verdict)
    yield paragraph(note)
    if beyond := _beyond_the_limit(run.verdict):
        yield paragraph(beyond)
    if paper := published(run):
        yield paragraph(f"The paper, in this setting: {paper}.")
    yield '<h2 class="small">What this does not show</h2>'
    yield '<ul class="limits soft">'
    yield from (f"<li>{escape(line)}</li>" for line in limits(run))
    yield "</ul>"


def _progress(run: Results) -> str:
    complete = Counter(row["seed"] for row in run.seed_rounds)
    of_seeds = ", ".join(f"{count} of seed {seed}" for seed, count in sorted(complete.items()))
    text = f"Not finished yet. Rounds complete so far: {of_seeds or len(run.rounds)}."
    newest = max(((row["round"], row["step"]) for row in run.metrics), default=None)
    if newest and newest[0] not in {row["round"] for row in run.rounds}:
        text += f" Round {newest[0]} has trained {newest[1]:,} steps."
    return text


def test_note(verdict: Mapping[str, Any]) -> str:
    """What the columns of a run over several seeds mean."""
    seeds, confidence = len(verdict["seeds"]), f"{verdict['confidence']:.0%}"
    judged = list(judged_rounds(verdict).values())
    if not any("ratio" in row for row in judged):  # The verdict of an older version.
        note = f"Means over {seeds} seeds, with their {confidence} confidence intervals."
        return f"{note} p: one-sided Welch test that the mean is within the tolerance."
    tested = [row for row in judged if row["p_value"] is not None]
    test = (
        "paired one-sided t test"
        if all(row["pairs"] for row in tested)
        else "one-sided t test, Welch's where seeds differ,"
    )
    ratios = (
        " x dense: geometric mean of the ratio to the dense run of the same seed, with its"
        f" {confidence} confidence interval."
    )
    has_ratios = any(row["ratio"] is not None for row in tested)
    what = "ratio" if has_ratios else "difference from the dense run"
    return (
        f"Means over {seeds} seeds.{ratios if has_ratios else ''} p: {test} that the {what} is within the tolerance,"
        f" adjusted for the number of rounds; below {1 - verdict['confidence']:.2g} the round wins."
    )


def _beyond_the_limit(verdict: Mapping[str, Any]) -> str:
    """Why a round has won whose interval reaches beyond the limit; "" if there is none."""
    entry = judged_rounds(verdict).get(winning_round(verdict), {})
    if entry.get("ratio_high") is None or not entry.get("pairs"):
        return ""
    limit, is_higher = ratio_limit(verdict["tolerance"], verdict["better"]), is_higher_better(verdict)
    end = entry["ratio_low" if is_higher else "ratio_high"]
    if (end >= limit) if is_higher else (end <= limit):
        return ""
    seeds, confidence, level = len(verdict["seeds"]), verdict["confidence"], level_of(verdict, entry["round"])
    bound, which = one_sided_bound(entry["ratio"], end, seeds, confidence, level), "lower" if is_higher else "upper"
    return (
        f"The interval of the {winner(verdict)} reaches beyond the limit of {limit:g}, because it leaves out"
        f" {(1 - confidence) / 2:.1%} at either end, and the test of this round {100 * level:.2g}% at one: its {which}"
        f" bound is {bound:.3g}. Only more seeds make the interval narrow."
    )


def level_of(verdict: Mapping[str, Any], round_: int) -> float:
    """The level at which a round was tested, by `statistics.fallback`: its share, and those of the winners before it.

    The round wins if its p-value, as it is before the adjustment, is at most this level.
    """
    tested = [row for row in verdict["rounds"] if row["p_value"] is not None]
    tested.sort(key=lambda row: (row["sparsity"], row["round"]))
    shares = fallback_shares([row["wins"] for row in tested], halving_weights(len(tested)))
    return shares[[row["round"] for row in tested].index(round_)] * (1 - verdict["confidence"])


def one_sided_bound(ratio: float, bound: float, seeds: int, confidence: float, level: float) -> float:
    """The bound of a one-sided interval of a ratio, from an end of its two-sided one.

    A paired one-sided t test at `level` rejects that the ratio is worse than a limit if, and only if, this bound is
    better.

    Args:
      ratio: the geometric mean over the seeds.
      bound: the end of the two-sided interval on the side of the limit.
      seeds: the number of pairs, at least 2.
      confidence: that of the two-sided interval.
      level: what the one-sided interval leaves out, from 0 to 1.
    """
    from scipy import stats

    narrower = stats.t.ppf(1 - level, seeds - 1) / stats.t.ppf((1 + confidence) / 2, seeds - 1)
    return ratio * (bound / ratio) ** float(narrower)


def verdict_facts(verdict: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures of a finished run and the references of its metric, by name."""
    wins = winning_round(verdict) is not None
    metric = str(verdict.get("metric"))
    if wins and is_finite(verdict.get("sparsity")):
        yield "weights pruned", f"{percent(verdict['sparsity'])} %"
        yield "weights kept, one in", f"{1 / (1 - verdict['sparsity']):.1f}"
        yield f"{metric}, {winner(verdict)}", significant(verdict.get("value"))
    judged = judged_rounds(verdict)
    yield f"{metric}, {'mean of the dense runs' if judged else 'dense run'}", significant(verdict.get("dense"))
    if judged and is_finite(judged[0].get("spread")):
        yield "spread of the dense runs", f"{judged[0]['spread']:.1%}"
    if wins and (entry := ratio({"round": verdict["winning_round"]}, verdict, metric)):
        yield "times the dense run", ratio_of(entry)
    way = "down" if is_higher_better(verdict) else "up"
    if any(entry.get("ratio") is not None for entry in judged.values()):
        yield f"ratio within tolerance {way} to", f"{ratio_limit(verdict['tolerance'], verdict['better']):g}"
    else:
        yield f"within tolerance {way} to", significant(verdict.get("threshold"))
    for kind, name in REFERENCES.items():
        if is_finite(reference.get(kind)):
            yield f"{metric}, {name}", significant(reference[kind])
