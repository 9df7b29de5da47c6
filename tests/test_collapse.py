"""The diversity of samples, against point sets whose nearest neighbours are known, and what is said of a collapse."""

import numpy as np
import pytest

from jaxtickets import collapse
from jaxtickets.metrics import Features
from jaxtickets.metrics.diversity import MOST, diversity
from jaxtickets.report.table import round_mark
from jaxtickets.runs import judge, judge_seeds


def grid(spacing, n=10):
    """`[n * n, 3]`: points in a plane, each with a neighbour at a distance of `spacing`."""
    points = spacing * np.stack(np.meshgrid(np.arange(n), np.arange(n), [0.0]), axis=-1).reshape(-1, 3)
    return np.random.default_rng(0).permutation(points).astype(np.float32)


def of(generated, held_out):
    return diversity(np.asarray(generated, np.float32), Features(lambda: [np.asarray(held_out, np.float32)]))


@pytest.mark.parametrize("spacing", [0.5, 1.0, 3.0])
def test_the_diversity_is_the_ratio_of_the_distances_to_the_nearest_other_image(spacing):
    assert of(grid(spacing), grid(1.0)) == pytest.approx(spacing, rel=1e-4)


@pytest.mark.parametrize("copies", [1, 3, 10])
def test_copies_of_few_images_have_no_diversity_however_different_these_are(copies):
    real = np.random.default_rng(0).normal(size=(300, 8))
    assert of(np.tile(real[:copies], (300 // copies, 1)), real) == 0
    near = np.tile(real[:copies], (300 // copies, 1)) + np.random.default_rng(1).normal(size=(300, 8)) / 50
    assert 0 < of(near, real) < collapse.LIMIT / 3


def test_images_of_the_same_distribution_have_a_diversity_of_one():
    rng = np.random.default_rng(0)
    assert of(rng.normal(size=(800, 8)), rng.normal(size=(800, 8))) == pytest.approx(1, abs=0.05)


def test_as_many_samples_as_held_out_images_are_compared():
    # More points of one distribution are nearer to one another.
    rng = np.random.default_rng(0)
    assert of(rng.normal(size=(MOST + 500, 4)), rng.normal(size=(100, 4))) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("held_out", [np.zeros((1, 3)), np.zeros((0, 3)), np.ones((40, 3)), np.tile(np.eye(3), (9, 1))])
def test_without_different_held_out_images_there_is_no_diversity(held_out):
    assert of(grid(1.0), held_out) is None


LOW, GOOD = {"diversity_digits": 0.05}, {"diversity_digits": 0.8}


def rows(**seed):
    return [
        {"round": 0, "sparsity": 0.0, "fd": 1.0, **GOOD, **seed},
        {"round": 1, "sparsity": 0.5, "fd": 1.0, **LOW, **seed},
        {"round": 2, "sparsity": 0.7, "fd": 1.0, "diversity_digits": None, **seed},
    ]


def test_a_collapse_is_told_in_the_verdict_and_in_the_table():
    verdict = judge(rows(), "fd", "FD", 0.1)
    assert "collapsed to few images in round 1 (diversity_digits 0.05)" in verdict["message"]
    assert [round_mark(row, verdict) for row in rows()] == [
        "dense",
        "within tolerance; samples collapsed",
        "sparsest within tolerance",
    ]
    both = judge_seeds([*rows(seed=3), *rows(seed=4)], "fd", "FD", 0.1, 0.95)["message"]
    assert "in round 1 of seed 3 (diversity_digits 0.05), round 1 of seed 4 (diversity_digits 0.05); held-out" in both
    assert "collapsed" not in judge([row | GOOD for row in rows()], "fd", "FD", 0.1)["message"]


def test_any_feature_network_can_see_a_collapse():
    assert collapse.has_collapsed({"fd": 1.0, "diversity_a": 0.9, "diversity_b": collapse.LIMIT - 0.01})
    assert not collapse.has_collapsed({"fd": 0.0, "diversity_a": collapse.LIMIT, "diversity_b": None})
