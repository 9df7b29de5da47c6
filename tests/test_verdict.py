"""The verdict of one seed and of several, where lower and where higher metrics are better, against known values."""

import numpy as np
import pytest
from scipy import stats

from jaxtickets import references as references_lib
from jaxtickets import statistics
from jaxtickets.runs.verdict import judge, judge_seeds

METRIC = "psnr"
ABOVE = "the experiment in the directory above"


def table(**groups):
    """Rows of `{round: values over seeds}`, given as `r0=..., r1=...`."""
    return [
        {"seed": seed, "round": int(name[1:]), "sparsity": 1 - 0.5 ** int(name[1:]), METRIC: value}
        for name, group in groups.items()
        for seed, value in enumerate(group)
    ]


def one_seed(*values, **options):
    rows = table(**{f"r{round_}": (value,) for round_, value in enumerate(values)})
    return judge(rows, METRIC, "ratio", 0.1, **options)


def test_the_winner_is_the_sparsest_round_at_most_a_tenth_below_the_dense_run():
    verdict = one_seed(20.0, 25.0, 17.9, 18.1, 17.0, better="higher")
    assert (verdict["winning_round"], verdict["sparsity"], verdict["value"]) == (3, 0.875, 18.1)
    assert verdict["threshold"] == pytest.approx(18.0)
    assert verdict["message"] == (
        "Round 3 was within tolerance in this run: 87.50% sparsity, psnr 18.1 against the dense run's 20 "
        "(tolerance 10%). One seed is an observation; --config.seeds=5, in another workdir, tests it."
    )


def test_one_seed_has_no_winning_ticket_and_a_control_is_named():
    for values in ((20.0, 21.0), (20.0, 29.0)):
        message = one_seed(*values, subject="control (reinit)")["message"].lower()
        assert "winning" not in message and "ticket" not in message and "of the control (reinit)" in message


def test_a_round_at_the_threshold_wins():
    assert one_seed(20.0, 20.0 * (1 - 0.1), better="higher")["winning_round"] == 1
    assert one_seed(20.0, 20.0 * (1 + 0.1), better="lower")["winning_round"] == 1


def test_the_best_of_the_losers_is_the_highest():
    verdict = one_seed(20.0, 15.0, 16.0, 14.0, better="higher")
    assert verdict["winning_round"] is verdict["sparsity"] is verdict["value"] is None
    assert verdict["message"] == (
        "No pruned round was within tolerance in this run: the best is round 2 with psnr 16 against the dense run's 20 "
        "(tolerance 10%). One seed is an observation; --config.seeds=5, in another workdir, tests it."
    )


def test_a_verdict_says_its_direction_and_lower_is_the_default():
    assert one_seed(20.0, 21.0, better="higher")["better"] == "higher"
    assert one_seed(20.0, 21.0)["better"] == "lower"
    seeds = table(r0=(1.0, 2.0), r1=(1.0, 3.0))
    assert judge_seeds(seeds, METRIC, "ratio", 0.1, 0.95)["better"] == "lower"
    assert judge_seeds(seeds, METRIC, "ratio", 0.1, 0.95, better="higher")["better"] == "higher"


def test_a_negative_metric_may_be_worse_by_the_tolerance_too():
    assert one_seed(-20.0, -18.5)["winning_round"] == 1
    assert one_seed(-20.0, -17.5)["winning_round"] is None
    assert one_seed(-20.0, -21.5, better="higher")["winning_round"] == 1
    seeds = judge_seeds(table(r0=(-20.0, -21.0, -19.0), r1=(-20.0, -21.0, -19.1)), METRIC, "ratio", 0.1, 0.95)
    assert seeds["winning_round"] == 1 and seeds["threshold"] == pytest.approx(-18)
    assert seeds["rounds"][1]["ratio"] is None
    assert "psnr -20.03 [-22.39, -17.67] against the dense runs' -20 [-22.48, -17.52] over 3" in seeds["message"]
    assert "(paired one-sided t test of the differences, tolerance 10%, adjusted p = " in seeds["message"]


DENSE = (23.3, 20.1, 25.5, 22.0, 21.4)
FIRST, SECOND, THIRD = (20.6, 19.9, 23.1, 19.3, 20.2), (21.9, 20.2, 25.6, 21.0, 19.9), (30.1, 25.0, 29.9, 30.2, 27.0)


def judged(*rounds, better="lower", **options):
    groups = {f"r{round_}": values for round_, values in enumerate(rounds)}
    return judge_seeds(table(**groups), METRIC, "ratio", 0.1, 0.95, better=better, **options)


def test_the_entries_of_a_round_are_those_of_its_paired_test():
    verdict = judged(DENSE, FIRST, SECOND, THIRD)
    entries = verdict["rounds"][1:]
    for entry, values in zip(entries, (FIRST, SECOND, THIRD), strict=True):
        logs = np.log(np.array(values) / DENSE)
        against_limit = stats.ttest_1samp(logs, np.log(1.1), alternative="less")
        interval = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
        assert entry["p_value"] == pytest.approx(against_limit.pvalue)
        assert entry["p_wilcoxon"] == pytest.approx(stats.wilcoxon(logs - np.log(1.1), alternative="less").pvalue)
        assert entry["ratio"] == pytest.approx(np.exp(logs.mean()))
        assert (entry["ratio_low"], entry["ratio_high"]) == pytest.approx(tuple(np.exp(interval)))
        assert entry["spread"] == pytest.approx(logs.std(ddof=1)) and entry["pairs"] is True
        assert entry["mean"] == pytest.approx(np.mean(values))
    weights = np.array([4, 2, 1]) / 7
    levels = np.cumsum(weights)  # Of each round, if all denser ones win.
    p_values = [entry["p_value"] for entry in entries]
    expected = np.maximum.accumulate(p_values / levels)[:2]
    assert [entry["p_adjusted"] for entry in entries[:2]] == pytest.approx(expected)
    assert [entry["wins"] for entry in entries] == [True, True, False]
    assert (verdict["winning_round"], verdict["sparsity"], verdict["value"]) == (
        2,
        0.75,
        pytest.approx(np.mean(SECOND)),
    )


def test_the_dense_runs_have_a_mean_an_interval_and_a_spread_and_are_not_tested():
    dense = judged(DENSE, FIRST)["rounds"][0]
    low, high = stats.t.interval(0.95, 4, np.mean(DENSE), stats.sem(DENSE))
    assert (dense["mean"], dense["low"], dense["high"]) == pytest.approx((np.mean(DENSE), low, high))
    assert dense["spread"] == pytest.approx(np.log(DENSE).std(ddof=1))
    assert {dense[name] for name in ("ratio", "ratio_low", "p_value", "p_wilcoxon", "p_adjusted", "wins")} == {None}


def test_the_message_of_a_winner_says_its_ratio_the_seeds_and_the_test():
    p_value = stats.ttest_1samp(np.log(np.array(FIRST) / DENSE), np.log(1.1), alternative="less").pvalue
    assert judged(DENSE, FIRST)["message"] == (
        "Winning ticket: round 1 at 50.00% sparsity, psnr 0.919 [0.864, 0.979] times the dense run's over 5 seeds "
        f"(paired one-sided t test against 1.1, adjusted p = {p_value:.2g})."
    )
    assert judged(DENSE, FIRST, subject="control (reinit)")["message"].startswith("Winning control (reinit): round 1 ")


def test_without_a_winner_the_message_says_how_many_seeds_the_nearest_round_needs():
    near = np.array(DENSE) * (1.2, 0.85, 1.1, 1.0, 1.0)
    verdict = judged(DENSE, tuple(near), THIRD)
    logs = np.log(near / DENSE) - np.log(1.1)
    effect, level = -logs.mean() / logs.std(ddof=1), 0.05 * 2 / 3
    n = next(n for n in range(2, 1000) if statistics.power(effect, n, level) >= 0.8)
    assert verdict["winning_round"] is None
    assert verdict["message"].startswith(
        "No winning ticket: no pruned round is shown to be within 10% of the dense run over 5 seeds. "
        "The nearest is round 1 with psnr 1.02 ["
    )
    assert verdict["message"].endswith(f"If that is the truth, about {n} seeds would show it with 80% power.")
    assert 5 < n < 60
    worse = judged(DENSE, THIRD)["message"]
    assert worse.endswith("It is not within the tolerance, so more seeds are not expected to help.")


def test_pairs_are_those_of_a_seed_and_show_what_means_do_not():
    dense = np.array([20.0, 30.0, 25.0, 40.0, 35.0])
    rows = table(r0=tuple(dense), r1=tuple(dense * (1.01, 0.99, 1.02, 1.0, 0.98)))
    assert judge_seeds(rows, METRIC, "ratio", 0.1, 0.95)["winning_round"] == 1
    others = [row | {"seed": row["seed"] + 9 * row["round"]} for row in rows]
    unpaired = judge_seeds(others, METRIC, "ratio", 0.1, 0.95)
    assert unpaired["winning_round"] is None and unpaired["rounds"][1]["pairs"] is False
    welch = stats.ttest_ind(np.log(dense * (1.01, 0.99, 1.02, 1.0, 0.98) / 1.1), np.log(dense), equal_var=False)
    assert unpaired["rounds"][1]["p_value"] == pytest.approx(welch.pvalue / 2)
    assert "one-sided Welch test against 1.1" in unpaired["message"]


def test_a_round_that_has_pruned_nothing_in_one_seed_cannot_win():
    rows = table(r0=DENSE, r1=FIRST, r2=FIRST)
    rows = [row | {"sparsity": 0.0} if (row["seed"], row["round"]) == (3, 2) else row for row in rows]
    verdict = judge_seeds(rows, METRIC, "ratio", 0.1, 0.95)
    assert verdict["winning_round"] == 1
    last = verdict["rounds"][2]
    assert last["p_value"] is last["p_adjusted"] is last["wins"] is None and last["ratio"] < 1
    # It is not counted among the rounds that are tested either.
    assert verdict["rounds"][1]["p_adjusted"] == verdict["rounds"][1]["p_value"]
    only = judge_seeds([row for row in rows if row["round"] != 1], METRIC, "ratio", 0.1, 0.95)
    assert only["winning_round"] is None
    assert only["message"].endswith("no round has pruned something in every seed.")


def test_a_diverged_seed_cannot_win_and_leaves_the_other_rounds_as_they_are():
    verdict = judged(DENSE, FIRST, (*FIRST[:4], float("nan")))
    assert verdict["winning_round"] == 1
    assert verdict["rounds"][2]["p_value"] == 1 and verdict["rounds"][2]["wins"] is False


def test_judging_inverted_metrics_is_judging_in_the_other_direction():
    lower = judge_seeds(table(r0=DENSE, r1=FIRST, r2=THIRD), METRIC, "ratio", 0.0, 0.95)
    inverted = [tuple(1 / np.array(values)) for values in (DENSE, FIRST, THIRD)]
    higher = judge_seeds(
        table(**{f"r{n}": v for n, v in enumerate(inverted)}), METRIC, "ratio", 0.0, 0.95, better="higher"
    )
    for one, other in zip(lower["rounds"][1:], higher["rounds"][1:], strict=True):
        assert one["p_value"] == pytest.approx(other["p_value"])
        assert (one["ratio"], one["ratio_low"]) == pytest.approx((1 / other["ratio"], 1 / other["ratio_high"]))


@pytest.mark.parametrize(("value", "wins"), [(9.5, True), (8.5, False)])
def test_where_nothing_varies_the_values_decide(value, wins):
    verdict = judge_seeds(table(r0=(10.0, 10.0), r1=(value, value)), METRIC, "ratio", 0.1, 0.95, better="higher")
    assert verdict["rounds"][1]["wins"] == wins
    assert verdict["winning_round"] == (1 if wins else None)


def test_a_value_that_is_not_finite_is_named_and_nothing_is_said_of_more_seeds():
    message = judged((*DENSE[:4], float("nan")), FIRST)["message"]
    assert message.endswith("psnr is not finite in seed 4, and rounds with such a value can't be tested.")
    assert "more seeds" not in message


# A dense run must have learned.


def reference(held_out=None, untrained=None, **more):
    return {METRIC: {"held_out": held_out, "untrained": untrained, **more}}


@pytest.mark.parametrize(
    ("dense", "better", "references", "learned"),
    [
        (1226.0, "lower", reference(3.0, 2450.0), True),  # Half the way is at 1226.5.
        (1227.0, "lower", reference(3.0, 2450.0), False),
        (2.0, "lower", reference(3.0, 2450.0), True),  # Better than held-out images.
        (3000.0, "lower", reference(3.0, 2450.0), False),
        (5.1, "higher", reference(9.0, 1.0), True),
        (4.9, "higher", reference(9.0, 1.0), False),
        (0.06, "lower", reference(-0.01, 0.11), False),  # Unbiased estimates may be negative.
        (0.04, "lower", reference(-0.01, 0.11), True),
        (0.9, "lower", reference(untrained=1.0), True),  # Without a floor, the untrained network must be beaten.
        (1.0, "lower", reference(untrained=1.0), False),
        (0.9, "lower", reference(untrained=1.0, best=0.0), False),
        (57.7, "lower", reference(untrained=184.0, mean_image=57.8), True),  # Nor is the mean image a network's work.
        (57.9, "lower", reference(untrained=184.0, mean_image=57.8), False),
        (0.3, "lower", reference(untrained=1.0, best=0.0, mean_image=0.2), False),
        (0.45, "lower", reference(untrained=1.0, best=0.0, mean_image=0.6), True),
        (0.55, "lower", reference(untrained=1.0, best=0.0, mean_image=0.6), False),
        (12.0, "higher", reference(untrained=11.0), True),
        (10.0, "higher", reference(untrained=11.0), False),
        (float("nan"), "lower", reference(3.0, 2450.0), False),
        (5.0, "lower", reference(30.0, 20.0), False),  # The metric prefers noise.
        (5.0, "lower", reference(3.0, float("nan")), None),
        (5.0, "lower", {}, None),
    ],
)
def test_a_dense_run_has_learned_if_it_is_nearer_to_held_out_images_than_to_an_untrained_network(
    dense, better, references, learned
):
    verdict = one_seed(dense, dense, better=better, references=references)
    assert verdict["learned"] is learned
    assert verdict["winning_round"] == (None if learned is False or np.isnan(dense) else 1)


def test_a_dense_run_that_has_not_learned_is_told_with_its_references_and_no_winner():
    verdict = one_seed(2917.0, 3082.0, references=reference(12.34, 3100.0))
    assert verdict["winning_round"] is verdict["sparsity"] is verdict["value"] is None
    assert verdict["message"] == (
        "The dense run has not learned: psnr 2917 is nearer to an untrained network's 3100 than to held-out images' "
        "12.34. No ticket is named; train longer, with other settings, or judge by another metric."
    )
    blind = one_seed(5.0, 5.0, references=reference(30.0, 20.0))["message"]
    assert blind.startswith(
        "The dense run can't be judged: in psnr, held-out images' 30 is no better than an untrained network's 20. "
    )
    best = one_seed(0.9, 0.9, references=reference(untrained=1.0, best=0.0))["message"]
    assert "psnr 0.9 is nearer to an untrained network's 1 than to the best possible 0" in best
    mean_image = one_seed(60.0, 60.0, references=reference(untrained=184.0, mean_image=57.8))["message"]
    assert mean_image.startswith(
        "The dense run has not learned: psnr 60 is no better than the mean training image's 57.8."
    )


def test_without_references_a_verdict_is_what_it_was():
    assert one_seed(20.0, 21.0) == one_seed(20.0, 21.0, references={})
    assert one_seed(20.0, 21.0, references=reference(1.0, 99.0)) == one_seed(20.0, 21.0) | {"learned": True}
    assert judged(DENSE, FIRST) == judged(DENSE, FIRST, references={})
    known = dict.fromkeys(range(5), reference(1.0, 99.0))
    assert judged(DENSE, FIRST, references=known) == judged(DENSE, FIRST) | {"learned": True}


def test_over_several_seeds_every_dense_run_must_have_learned():
    references = dict.fromkeys(range(5), reference(1.0, 99.0)) | {3: reference(1.0, 23.0), 4: reference(2.0, 21.5)}
    verdict = judged(DENSE, FIRST, references=references)
    assert verdict["learned"] is False and verdict["winning_round"] is None
    assert [row["wins"] for row in verdict["rounds"]] == [None, None]
    assert verdict["rounds"][1]["p_adjusted"] == judged(DENSE, FIRST)["rounds"][1]["p_adjusted"] < 0.05
    assert verdict["message"] == (
        "The dense run of seed 3 has not learned: psnr 22 is nearer to an untrained network's 23 than to held-out "
        "images' 1; that of seed 4 has not learned: psnr 21.4 is nearer to an untrained network's 21.5 than to "
        "held-out images' 2. No ticket is named; train longer, with other settings, or judge by another metric."
    )


def test_references_over_seeds_are_means_of_what_all_have():
    found = references_lib.mean(
        [{"fd": {"held_out": 3.0, "untrained": 10.0, "held_out_images": 7}, "kid": {"untrained": 1.0}}]
        + [{"fd": {"held_out": 3.0, "untrained": 20.0, "held_out_images": 7}}]
    )
    assert found == {"fd": {"held_out": 3.0, "untrained": 15.0, "held_out_images": 7}}
    assert references_lib.mean([]) == {}


def test_one_of_several_seed_runs_asks_for_no_more_seeds_but_says_where_it_is_tested():
    for values in ((20.0, 21.0), (20.0, 29.0)):
        alone, inner = one_seed(*values), one_seed(*values, is_alone=False)
        ends = [
            f" One seed is an observation; {what} tests it."
            for what in ("--config.seeds=5, in another workdir,", ABOVE)
        ]
        assert [one["message"].endswith(end) for one, end in zip((alone, inner), ends, strict=True)] == [True, True]
        assert alone["message"].removesuffix(ends[0]) == inner["message"].removesuffix(ends[1])
        assert alone | {"message": None} == inner | {"message": None}


def test_a_winner_of_many_rounds_is_told_with_the_error_rate_of_picking_it():
    several = judged(DENSE, FIRST, SECOND, THIRD)["message"]
    assert several.endswith(
        " It is the sparsest winner of 3 rounds; picked so, a round that is worse than the tolerance allows is named "
        "in at most 5% of all experiments."
    )
    assert "of all experiments" not in judged(DENSE, FIRST)["message"]
