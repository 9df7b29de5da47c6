"""The verdict where higher metrics are better, against known values; with lower ones it is the mirror image."""

import numpy as np
import pytest
from scipy import stats

from jaxtickets.runs.verdict import judge, judge_seeds

METRIC = "psnr"


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
        "Winning ticket: round 3 at 87.50% sparsity, psnr 18.1 against the dense run's 20 (tolerance 10%)."
    )


def test_a_round_at_the_threshold_wins():
    assert one_seed(20.0, 20.0 * (1 - 0.1), better="higher")["winning_round"] == 1
    assert one_seed(20.0, 20.0 * (1 + 0.1), better="lower")["winning_round"] == 1


def test_the_best_of_the_losers_is_the_highest():
    verdict = one_seed(20.0, 15.0, 16.0, 14.0, better="higher")
    assert verdict["winning_round"] is verdict["sparsity"] is verdict["value"] is None
    assert verdict["message"] == (
        "No winning ticket: every pruned round is worse than the dense run's 20 (tolerance 10%); "
        "the best is round 2 with psnr 16."
    )


def test_a_verdict_says_its_direction_and_lower_is_the_default():
    assert one_seed(20.0, 21.0, better="higher")["better"] == "higher"
    assert one_seed(20.0, 21.0)["better"] == "lower"
    seeds = table(r0=(1.0, 2.0), r1=(1.0, 3.0))
    assert judge_seeds(seeds, METRIC, "ratio", 0.1, 0.95)["better"] == "lower"
    assert judge_seeds(seeds, METRIC, "ratio", 0.1, 0.95, better="higher")["better"] == "higher"


def test_the_p_value_is_that_of_welchs_formula_on_the_other_side():
    dense, sparse = np.array([10.0, 11.0, 12.5, 9.0]), np.array([9.5, 12.0, 10.0, 10.5])
    limit = 0.8 * dense
    errors = [side.var(ddof=1) / 4 for side in (sparse, limit)]
    t = (sparse.mean() - limit.mean()) / np.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(error**2 / 3 for error in errors)
    verdict = judge_seeds(table(r0=dense, r1=sparse), METRIC, "ratio", 0.2, 0.95, better="higher")
    assert verdict["threshold"] == pytest.approx(limit.mean())
    assert verdict["rounds"][1]["p_value"] == pytest.approx(stats.t.sf(t, freedom))
    assert 0.01 < verdict["rounds"][1]["p_value"] < 0.1


def test_the_winner_over_seeds_is_the_sparsest_round_shown_to_be_high_enough():
    groups = {"r0": (10.0, 10.2, 9.8), "r1": (9.9, 10.1, 10.0), "r2": (11.0, 7.5, 10.6), "r3": (6.0, 6.2, 6.1)}
    verdict = judge_seeds(table(**groups), METRIC, "ratio", 0.1, 0.95, better="higher")
    p_values = [row["p_value"] for row in verdict["rounds"]][1:]
    assert p_values[0] < 0.05 < p_values[1] < 0.5 < p_values[2]
    assert (verdict["winning_round"], verdict["sparsity"]) == (1, 0.5)
    assert verdict["message"].startswith("Winning ticket: round 1 at 50.00% sparsity")


def test_judging_negated_metrics_is_judging_in_the_other_direction():
    groups = {"r0": (10.0, 10.2, 9.8), "r1": (9.9, 10.1, 10.0), "r2": (9.0, 12.5, 9.4)}
    lower = judge_seeds(table(**groups), METRIC, "ratio", 0.0, 0.95)
    negated = {name: tuple(-value for value in group) for name, group in groups.items()}
    higher = judge_seeds(table(**negated), METRIC, "ratio", 0.0, 0.95, better="higher")
    for one, other in zip(lower["rounds"][1:], higher["rounds"][1:], strict=True):
        assert one["p_value"] == pytest.approx(other["p_value"])
        assert (one["mean"], one["low"], one["high"]) == pytest.approx((-other["mean"], -other["high"], -other["low"]))


@pytest.mark.parametrize(("value", "wins"), [(9.5, True), (8.5, False)])
def test_where_nothing_varies_the_values_decide(value, wins):
    verdict = judge_seeds(table(r0=(10.0, 10.0), r1=(value, value)), METRIC, "ratio", 0.1, 0.95, better="higher")
    assert verdict["rounds"][1]["wins"] == wins
    assert verdict["winning_round"] == (1 if wins else None)
