"""The metrics on samples against closed forms, NumPy by brute force, SciPy and scikit-learn."""

import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats
from ml_collections import ConfigDict

from jaxtickets.errors import UserError
from jaxtickets.metrics import METRICS, Features, Sets
from jaxtickets.metrics.bootstrap import intervals
from jaxtickets.metrics.distances import count_inside, nearest
from jaxtickets.metrics.frechet import Moments
from jaxtickets.metrics.metric import Metric

OPTIONS = {
    "features": "digits",
    "samples": 400,
    "bootstrap": 0,
    "kid_subsets": 3,
    "kid_subset_size": 300,
    "inception_splits": 4,
    "precision_neighbours": 3,
    "coverage_neighbours": 5,
}


def config(**changes):
    return ConfigDict({"eval": OPTIONS | changes})


def features(array, parts=1):
    return Features(lambda: np.array_split(np.asarray(array, np.float32), 3), parts)


def sets(generated, training, held_out=None, parts=1):
    return Sets(
        *(features(array, parts) for array in (generated, training, training if held_out is None else held_out))
    )


def measure(name, *arrays, parts=1, **changes):
    return dict(METRICS[name].row(METRICS[name].measure(sets(*arrays, parts=parts), config(**changes)), config()))


def normal(seed, n, size=8, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, size=(n, size)).astype(np.float32)


def distances(first, second):
    return scipy.spatial.distance.cdist(np.asarray(first, np.float64), np.asarray(second, np.float64))


# Distances in blocks.


@pytest.mark.parametrize("n", [7, 1024, 1500])
def test_nearest_neighbours_are_those_of_scikit_learn(n, monkeypatch):
    neighbors = pytest.importorskip("sklearn.neighbors")
    monkeypatch.setattr("jaxtickets.metrics.distances.BLOCK", 500)
    queries, points = normal(0, n, shift=3), normal(1, 1300, shift=3)
    expected, indices = neighbors.NearestNeighbors(n_neighbors=4).fit(points).kneighbors(queries)
    found = nearest(queries, points, 4)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    np.testing.assert_array_equal(found[1], indices)


def test_a_point_is_not_its_own_neighbour_where_that_is_asked_for():
    points = np.concatenate([normal(0, 1300), normal(0, 1)])  # The last is a copy of the first.
    expected = np.sort(distances(points, points), axis=1)[:, 1:3]
    found = nearest(points, points, 2, leave_out_self=True)
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=2e-3)
    assert (found[1][0, 0], found[1][-1, 0]) == (1300, 0)


def test_the_balls_that_a_point_is_in_are_counted(monkeypatch):
    monkeypatch.setattr("jaxtickets.metrics.distances.BLOCK", 256)
    queries, points = normal(0, 1100), normal(1, 700)
    radii = np.random.default_rng(2).uniform(0.5, 3, 700)
    expected = (distances(queries, points) <= radii).sum(axis=1)
    assert expected.max() > 10
    np.testing.assert_array_equal(count_inside(queries, points, radii), expected)


def test_distances_far_from_the_origin_lose_no_digits():
    queries, points = normal(0, 200, shift=300), normal(1, 200, shift=300)
    expected = np.sort(distances(queries, points), axis=1)[:, :1]
    np.testing.assert_allclose(nearest(queries, points, 1)[0], expected, rtol=1e-4)


# Streamed moments.


def test_streamed_moments_are_numpys_even_where_the_mean_is_large():
    values = normal(0, 1000, size=5, scale=1e-2).astype(np.float64) + 1e4
    moments = Moments()
    for batch in np.array_split(values, 7):
        moments.add(batch)
    np.testing.assert_allclose(moments.gaussian.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.gaussian.covariance, np.cov(values.T), rtol=1e-6, atol=1e-10)


# KID.


def test_kid_is_the_mean_over_all_pairs_of_the_polynomial_kernel():
    first, second = normal(0, 60, 4), normal(1, 60, 4, shift=0.5)

    def kernel(a, b):
        return (float(a.astype(float) @ b.astype(float)) / 4 + 1) ** 3

    own = [
        np.mean([kernel(group[i], group[j]) for i in range(60) for j in range(60) if i != j])
        for group in (first, second)
    ]
    between = np.mean([kernel(a, b) for a in first for b in second])
    found = measure("kid", first, second, kid_subset_size=60, kid_subsets=1)
    assert found == {"kid_digits": pytest.approx(sum(own) - 2 * between, rel=1e-4)}


def test_kid_agrees_with_scikit_learns_kernel_and_is_the_mean_over_the_parts():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    first, second = normal(0, 200, 6), normal(1, 200, 6, shift=0.3)

    def by_hand(a, b):
        kernels = [
            pairwise.polynomial_kernel(*pair, degree=3, gamma=1 / a.shape[1], coef0=1) for pair in ((a, a), (b, b))
        ]
        own = sum((kernel.sum() - np.trace(kernel)) / (200 * 199) for kernel in kernels)
        return own - 2 * pairwise.polynomial_kernel(a, b, degree=3, gamma=1 / a.shape[1], coef0=1).mean()

    arrays = [array.astype(np.float64) for array in (first, second)]
    expected = np.mean([by_hand(*(array[:, part] for array in arrays)) for part in (slice(0, 3), slice(3, 6))])
    found = measure("kid", first, second, parts=2, kid_subset_size=200, kid_subsets=1)
    assert found["kid_digits"] == pytest.approx(expected, rel=1e-4)


def test_kid_of_one_distribution_is_zero_in_the_mean_whatever_the_number_of_samples():
    values = [
        measure("kid", normal(seed, n), normal(seed + 100, 300))["kid_digits"] for seed in range(20) for n in (40, 150)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


# Inception score.


def test_the_inception_score_of_clear_classes_in_equal_shares_is_their_number():
    logits = 100.0 * np.eye(10)[np.arange(400) % 10]
    assert measure("inception_score", logits, logits, inception_splits=1)["inception_score"] == pytest.approx(10)
    same = np.ones((400, 10))
    assert measure("inception_score", same, same)["inception_score"] == pytest.approx(1)


def test_the_inception_score_is_scipys_entropy_in_each_group():
    logits = normal(0, 400, 10, scale=3)
    shuffled = logits[np.random.RandomState(2020).permutation(400)].astype(np.float64)
    groups = [scipy.special.softmax(group, axis=1) for group in np.split(shuffled, 4)]
    expected = [np.exp(scipy.stats.entropy(group, group.mean(axis=0), axis=1).mean()) for group in groups]
    assert measure("inception_score", logits, logits)["inception_score"] == pytest.approx(np.mean(expected), rel=1e-6)


# Precision, recall, density, coverage, memorisation.


def brute_force(generated, real, k):
    """`(distances between, radii of generated, radii of real)`."""
    radii = [np.sort(distances(group, group), axis=1)[:, k] for group in (generated, real)]
    return distances(generated, real), *radii


def test_precision_and_recall_are_those_of_all_pairs():
    generated, real = normal(0, 300, 4, scale=0.7), normal(1, 300, 4)
    between, own, of_real = brute_force(generated, real, 3)
    expected = {
        "precision_digits": (between <= of_real).any(axis=1).mean(),
        "recall_digits": (between <= own[:, None]).any(axis=0).mean(),
    }
    assert expected["precision_digits"] > expected["recall_digits"] + 0.1
    assert measure("precision_recall", generated, real) == pytest.approx(expected)


def test_density_and_coverage_are_those_of_all_pairs():
    generated, real = normal(0, 300, 4, scale=0.7), normal(1, 300, 4)
    between, _, of_real = brute_force(generated, real, 5)
    inside = between <= of_real
    expected = {"density_digits": inside.sum() / (5 * 300), "coverage_digits": inside.any(axis=0).mean()}
    assert measure("density_coverage", generated, real) == pytest.approx(expected)


def test_fresh_samples_of_the_same_distribution_have_a_density_of_one_and_the_papers_coverage():
    # Naeem et al. 2020, equation 9: the mean coverage is 1 - C(M, k) / C(M + N, k) = 1 - 2^-k for many, here 0.969.
    found = measure("density_coverage", normal(0, 2000), normal(1, 2000), samples=2000)
    assert found["density_digits"] == pytest.approx(1, abs=0.05)
    assert found["coverage_digits"] == pytest.approx(1 - 2**-5, abs=0.015)


def test_samples_of_one_of_two_modes_are_precise_and_recall_half():
    real = np.concatenate([normal(0, 200, shift=0), normal(1, 200, shift=20)])
    found = measure("precision_recall", normal(2, 400), real)
    assert found["precision_digits"] > 0.7
    assert found["recall_digits"] < 0.51


def test_as_many_training_images_count_as_samples():
    real = np.concatenate([normal(0, 400), normal(1, 400, shift=1)])
    every_second = measure("precision_recall", normal(2, 400), real[::2])
    assert measure("precision_recall", normal(2, 400), real) == every_second


def test_half_of_fresh_images_and_all_copies_are_nearer_to_the_training_set_than_held_out_images():
    training, held_out, fresh = normal(0, 1000), normal(1, 1000), normal(2, 1000)
    assert measure("memorisation", fresh, training, held_out)["memorised_digits"] == pytest.approx(0.5, abs=0.06)
    assert measure("memorisation", training[:500], training, held_out)["memorised_digits"] == 1
    assert measure("memorisation", fresh + 50, training, held_out)["memorised_digits"] == 0
    mixed = np.concatenate([fresh[:500], training[:500]])
    assert measure("memorisation", mixed, training, held_out)["memorised_digits"] == pytest.approx(0.75, abs=0.04)


# Intervals.


def test_an_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = normal(0, 400, 1)
    metric = Metric(
        "mean", "mean", features="digits", columns=("mean",), measure=lambda sets, _: (sets[0].array.mean(),)
    )
    row = {"mean": float(values.mean())}
    found = intervals(metric, sets(values, values), row, config(bootstrap=1000))
    reach = scipy.stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert found["mean_low"] == pytest.approx(row["mean"] - reach, abs=0.12 * reach)
    assert found["mean_high"] == pytest.approx(row["mean"] + reach, abs=0.12 * reach)


def test_an_interval_of_a_frechet_distance_holds_it_though_fewer_samples_are_farther():
    both = sets(normal(0, 200), normal(1, 2000, shift=0.2))
    row = METRICS["fd"].row(METRICS["fd"].measure(both, config()), config())
    found = intervals(METRICS["fd"], both, row, config(bootstrap=50))
    assert found["fd_digits_low"] < row["fd_digits"] < found["fd_digits_high"]
    assert found["fd_digits_high"] - found["fd_digits_low"] < row["fd_digits"]


# Bad input.


@pytest.mark.parametrize(
    ("name", "samples", "allowed"),
    [
        ("fd", 9, "at least 10 with the metric fd, which needs a covariance"),
        ("fid", 9, "at least 10 with the metric fid, which needs a covariance"),
        ("kid", 299, "at least 300, config.eval.kid_subset_size, with the metric kid"),
        ("inception_score", 3, "at least 4, config.eval.inception_splits, with the metric inception_score"),
        ("precision_recall", 3, "at least 4 with the metric precision_recall of 3 neighbours"),
        ("density_coverage", 5, "at least 6 with the metric density_coverage of 5 neighbours"),
    ],
)
def test_fewer_samples_than_a_metric_needs_are_refused(name, samples, allowed):
    METRICS[name].check(config(samples=samples + 1))
    with pytest.raises(UserError) as refused:
        METRICS[name].check(config(samples=samples))
    assert str(refused.value) == f"config.eval.samples={samples}: allowed is {allowed}"


def test_features_of_which_only_the_gaussian_was_kept_say_so():
    gaussian = features(normal(0, 50)).gaussian
    kept = Features.of_gaussian(gaussian)
    assert kept.gaussian is gaussian
    with pytest.raises(ValueError, match="names it in `arrays`"):
        _ = kept.array
