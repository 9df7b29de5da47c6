"""The tests over seeds, against SciPy's, closed forms and simulations."""

import itertools
import math

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxtickets import statistics

ALPHA = 0.05
DENSE = np.array([23.3, 20.1, 25.5, 22.0, 21.4, 24.9])
TICKET = np.array([21.6, 20.9, 24.1, 20.3, 22.2, 22.4])
OTHER = np.array([26.1, 20.2, 23.9, 24.0])


def by_seed(values, first=0):
    return dict(enumerate(map(float, values), first))


@pytest.mark.parametrize("alternative", ["less", "greater", "two-sided"])
def test_with_the_same_seeds_the_test_is_the_paired_one_of_the_logs(alternative):
    found = statistics.compare(by_seed(TICKET), by_seed(DENSE), 1.1, alternative, 0.9)
    logs = np.log(TICKET / DENSE)
    expected = stats.ttest_rel(np.log(TICKET), np.log(1.1 * DENSE), alternative=alternative)
    assert found.pairs and found.p_value == pytest.approx(expected.pvalue)
    assert found.p_value == pytest.approx(stats.ttest_1samp(logs, math.log(1.1), alternative=alternative).pvalue)
    assert found.ratio == pytest.approx(stats.gmean(TICKET) / stats.gmean(DENSE))
    interval = stats.ttest_1samp(logs, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(interval)))
    assert found.spread == pytest.approx(logs.std(ddof=1))
    wilcoxon = stats.wilcoxon(logs - math.log(1.1), alternative=alternative, method="exact")
    assert found.p_wilcoxon == pytest.approx(wilcoxon.pvalue)


def test_the_order_of_the_seeds_does_not_matter():
    shuffled = dict(reversed(by_seed(TICKET).items()))
    assert statistics.compare(shuffled, by_seed(DENSE)) == statistics.compare(by_seed(TICKET), by_seed(DENSE))


@pytest.mark.parametrize("alternative", ["less", "greater", "two-sided"])
def test_with_other_seeds_the_test_is_welchs_of_the_logs(alternative):
    found = statistics.compare(by_seed(OTHER, 30), by_seed(DENSE), 1.1, alternative, 0.9)
    logs = np.log(OTHER), np.log(DENSE)
    shifted = stats.ttest_ind(logs[0] - math.log(1.1), logs[1], equal_var=False, alternative=alternative)
    assert found.p_value == pytest.approx(shifted.pvalue)
    assert not found.pairs and found.p_wilcoxon is None
    assert found.ratio == pytest.approx(stats.gmean(OTHER) / stats.gmean(DENSE))
    interval = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(interval)))


def test_the_test_is_over_the_seeds_that_both_sides_have():
    alone = statistics.compare(by_seed(TICKET), by_seed(DENSE), 1.1, "less")
    ours, theirs = by_seed(TICKET) | {70: 1e6}, by_seed(DENSE) | {80: 1e-6, 81: 1e6}
    assert statistics.compare(ours, theirs, 1.1, "less") == alone
    one_in_common = statistics.compare({0: 1.0, 1: 2.0}, {1: 3.0, 2: 4.0})
    assert not one_in_common.pairs


def test_a_round_needs_no_fewer_seeds_than_the_denser_ones_that_its_level_counts_on():
    seeds = range(5)
    dense = dict.fromkeys(seeds, 1.0)
    noisy, clear, worse = (
        {s: mean + step * (s - 2) for s in seeds} for mean, step in ((1.06, 0.1), (0.95, 0.05), (1.5, 0.1))
    )
    tested = statistics.against_dense(dense, [noisy, clear, worse], 1.1)
    first, second, third = statistics.seeds_for_each(tested)
    assert third is None
    assert first == second == statistics.seeds_needed(tested[0].comparison.effect, tested[0].level)
    assert statistics.seeds_needed(tested[1].comparison.effect, tested[1].level) < first
    assert statistics.seeds_for_each(statistics.against_dense(dense, [clear, worse], 1.1))[0] < first


def test_differences_that_are_rounding_alone_do_not_vary():
    dense = {s: float(v) for s, v in enumerate((1, 2, 3, 5, 7))}
    found = statistics.compare({s: 0.9 * v for s, v in dense.items()}, dense, 1.1, "less")
    assert found.p_value == 0 and statistics.seeds_needed(found.effect, ALPHA) == 2


def test_the_ratio_turned_over_has_the_interval_turned_over():
    there = statistics.compare(by_seed(TICKET), by_seed(DENSE), 1.1, "less")
    back = statistics.compare(by_seed(DENSE), by_seed(TICKET), 1 / 1.1, "greater")
    assert there.p_value == pytest.approx(back.p_value) and there.effect == pytest.approx(back.effect)
    assert (there.ratio, there.low, there.high) == pytest.approx((1 / back.ratio, 1 / back.high, 1 / back.low))


@pytest.mark.parametrize("limit, alternative", [(1.1, "less"), (0.9, "greater")])
def test_without_logs_the_differences_from_the_limit_are_tested(limit, alternative):
    dense, ticket = np.array([-5.0, -4.0, -6.5, 0.5]), np.array([-5.2, -3.6, -6.0, 0.0])
    found = statistics.compare(by_seed(ticket), by_seed(dense), limit, alternative)
    limits = np.array([-4.5, -3.6, -5.85, 0.55] if limit > 1 else [-5.5, -4.4, -7.15, 0.45])
    assert found.p_value == pytest.approx(stats.ttest_rel(ticket, limits, alternative=alternative).pvalue)
    assert found.ratio is found.low is found.high is found.spread is None
    others = statistics.compare(by_seed(ticket, 10), by_seed(dense), limit, alternative)
    welch = stats.ttest_ind(ticket, limits, equal_var=False, alternative=alternative)
    assert others.p_value == pytest.approx(welch.pvalue)


@pytest.mark.parametrize("ratio, p_value", [(1.05, 0.0), (1.15, 1.0)])
def test_where_nothing_varies_the_values_decide(ratio, p_value):
    found = statistics.compare(by_seed([ratio] * 3), by_seed([1.0] * 3), 1.1, "less")
    assert (found.p_value, found.ratio, found.spread) == (p_value, pytest.approx(ratio), 0)
    assert found.low == found.high == pytest.approx(ratio)
    unpaired = statistics.compare(by_seed([ratio] * 3, 1), by_seed([1.0] * 3), 1.1, "less")
    assert (unpaired.p_value, unpaired.spread) == (p_value, 0)
    assert statistics.seeds_needed(found.effect, ALPHA) == (2 if p_value == 0 else None)


def test_equal_values_do_not_differ():
    found = statistics.compare(by_seed(DENSE), by_seed(DENSE))
    assert (found.p_value, found.p_wilcoxon, found.ratio) == (1, 1, 1)


def test_one_seed_shows_nothing_and_has_no_interval():
    found = statistics.compare({0: 0.5}, {0: 1.0}, 1.1, "less")
    assert (found.p_value, found.ratio) == (1, 0.5)
    assert found.low is found.high is found.spread is found.effect is None
    assert statistics.compare({1: 0.5}, {0: 1.0}, 1.1, "less").p_value == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_shows_nothing(value):
    for pair in (({0: value, 1: 1.0}, {0: 1.0, 1: 1.0}), ({0: 1.0, 1: 1.0}, {0: value, 1: 1.0})):
        found = statistics.compare(*map(dict, pair), 1.1, "less")
        assert found.p_value == 1 and found.ratio is None


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9), st.sampled_from(["less", "greater", "two-sided"]))
@settings(max_examples=60, deadline=None)
def test_the_signed_rank_test_counts_every_assignment_of_signs(values, alternative):
    values = np.array(values, float)
    kept = values[values != 0]
    ranks = stats.rankdata(np.abs(kept))
    signs = np.array(np.meshgrid(*[(0, 1)] * len(kept))).reshape(len(kept), -1) if len(kept) else np.zeros((0, 1))
    sums, own = ranks @ signs, ranks[kept > 0].sum()
    less, greater = np.mean(sums <= own + 1e-9), np.mean(sums >= own - 1e-9)
    expected = {"less": less, "greater": greater, "two-sided": min(1, 2 * min(less, greater))}[alternative]
    assert statistics.signed_rank_test(values, alternative) == pytest.approx(expected)


def test_the_t_test_of_many_samples_is_scipys():
    samples = np.random.default_rng(0).normal(0.2, 1, (7, 3, 5))
    for alternative in ("less", "greater", "two-sided"):
        expected = stats.ttest_1samp(samples, 0, axis=-1, alternative=alternative).pvalue
        np.testing.assert_allclose(statistics.t_test(samples, alternative), expected)


# Many rounds.

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def wiens(p_values, weights, alpha):
    """The rejections of the fallback procedure as it is published: one level after another, carried on."""
    rejected, carried = [], 0.0
    for p_value, weight in zip(p_values, weights, strict=True):
        level = carried + weight * alpha
        rejected.append(p_value <= level)
        carried = level if rejected[-1] else 0.0
    return rejected


@given(P_VALUES, st.floats(0.001, 0.999))
@settings(max_examples=200, deadline=None)
def test_the_adjusted_p_values_reject_what_the_fallback_procedure_rejects(p_values, alpha):
    weights = statistics.halving_weights(len(p_values))
    adjusted = statistics.fallback(np.array(p_values), weights)
    if np.abs(adjusted - alpha).min() > 1e-9:
        assert list(adjusted <= alpha) == wiens(p_values, weights, alpha)
    assert (adjusted >= np.array(p_values) - 1e-12).all() and (adjusted <= 1).all()


@given(P_VALUES)
def test_with_all_weight_on_the_first_round_testing_is_in_a_fixed_sequence(p_values):
    weights = np.eye(len(p_values))[0]
    adjusted = statistics.fallback(np.array(p_values), weights)
    np.testing.assert_allclose(adjusted, np.maximum.accumulate(p_values))


def test_one_round_needs_no_adjustment_and_weights_halve():
    assert statistics.fallback(np.array([0.03]), statistics.halving_weights(1)) == pytest.approx([0.03])
    np.testing.assert_allclose(statistics.halving_weights(3), [4 / 7, 2 / 7, 1 / 7])


def test_a_round_that_wins_gives_its_level_to_the_next_one():
    weights = np.array([0.5, 0.25, 0.25])
    assert statistics.fallback_shares([True, True, False], weights) == pytest.approx([0.5, 0.75, 1.0])
    assert statistics.fallback_shares([False, True, True], weights) == pytest.approx([0.5, 0.25, 0.5])


@pytest.mark.parametrize("ratios", [(1.1,) * 6, (1.0, 1.1, 1.1, 1.1), (0.8, 0.8, 1.0, 1.1, 1.3), (1.1, 0.9, 1.1, 1.5)])
def test_a_round_that_is_worse_wins_in_at_most_one_of_twenty_runs(ratios):
    runs, seeds, spread = 20_000, 5, 0.1
    noise = np.random.default_rng(1).normal(0, spread / math.sqrt(2), (runs, len(ratios) + 1, seeds))
    logs = noise[:, 1:] - noise[:, :1] + np.log(ratios)[:, None]
    p_values = statistics.t_test(logs - math.log(1.1))
    adjusted = statistics.fallback(p_values, statistics.halving_weights(len(ratios)))
    is_worse = np.array(ratios) >= 1.1
    rate = (adjusted[:, is_worse] < ALPHA).any(axis=1).mean()
    assert rate < ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_rounds_are_tested_against_the_dense_runs_from_the_densest_on():
    rounds = [by_seed(DENSE * factor) for factor in (TICKET / DENSE, 1.4 * TICKET / DENSE)]
    tested = statistics.against_dense(by_seed(DENSE), rounds, 1.1, "lower", 0.9)
    p_values = [statistics.compare(values, by_seed(DENSE), 1.1, "less").p_value for values in rounds]
    assert [one.comparison.p_value for one in tested] == pytest.approx(p_values)
    np.testing.assert_allclose(
        [one.p_adjusted for one in tested], statistics.fallback(np.array(p_values), [2 / 3, 1 / 3])
    )
    # The first round is within the tolerance, so with enough seeds its level goes to the second one.
    assert [one.level for one in tested] == pytest.approx([0.1 * 2 / 3, 0.1])
    higher = statistics.against_dense(by_seed(1 / DENSE), [by_seed(1 / TICKET)], 1 / 1.1, "higher", 0.9)
    assert higher[0].comparison.p_value == pytest.approx(p_values[0])


# Power.


@pytest.mark.parametrize("effect, n, level", [(0.8, 5, 0.05), (1.5, 3, 0.05), (0.5, 20, 0.025)])
def test_the_power_is_the_share_of_simulated_runs_that_are_shown(effect, n, level):
    runs = 40_000
    samples = np.random.default_rng(2).normal(-effect, 1, (runs, n))
    share = (statistics.t_test(samples) < level).mean()
    assert statistics.power(effect, n, level) == pytest.approx(share, abs=4 * 0.5 / math.sqrt(runs))


def test_without_an_effect_the_power_is_the_level():
    assert statistics.power(0.0, 5, 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize("effect", [0.15, 0.6, 1.2, 4.0, 50.0])
def test_the_seeds_needed_are_the_fewest_with_the_wanted_power(effect):
    n = statistics.seeds_needed(effect, 0.05)
    assert statistics.power(effect, n, 0.05) >= statistics.POWER
    assert n == 2 or statistics.power(effect, n - 1, 0.05) < statistics.POWER


@pytest.mark.parametrize("effect", [None, math.nan, -0.1, 0.0, -math.inf, 0.01])
def test_no_number_of_seeds_shows_what_is_not_there_or_next_to_nothing(effect):
    assert statistics.seeds_needed(effect, 0.05) is None


def test_the_adjustments_of_the_benchmark_are_closed_tests(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import verdict_error_rates as rates

    n, weights = 4, statistics.halving_weights(4)
    p_values = np.random.default_rng(4).random((50, n)) ** 2

    def simes(p, _):
        return (p.shape[1] * np.sort(p, axis=1) / np.arange(1, p.shape[1] + 1)).min(axis=1)

    def bonferroni(p, _):
        return p.shape[1] * p.min(axis=1)

    def fallback(p, chosen):
        shares = [weights[last + 1 : k + 1].sum() for last, k in zip((-1, *chosen), chosen, strict=False)]
        return (p / shares).min(axis=1)

    halving = rates.ADJUSTMENTS["paired, fallback, halving weights"]
    for adjust, test in ((rates.hommel, simes), (rates.holm, bonferroni), (halving, fallback)):
        expected = np.zeros_like(p_values)
        for size in range(1, n + 1):
            for chosen in itertools.combinations(range(n), size):
                together = test(p_values[:, chosen], chosen)[:, None]
                expected[:, chosen] = np.maximum(expected[:, chosen], together)
        np.testing.assert_allclose(np.minimum(adjust(p_values), 1), np.minimum(expected, 1))
