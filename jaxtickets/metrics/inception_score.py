"""The Inception score (Salimans et al. 2016, section 4): samples are of clear classes, and of many."""

import numpy as np

from jaxtickets.fields import Field, refuse, whole
from jaxtickets.metrics.metric import Metric, Sets

SPLITS = Field("eval.inception_splits", 10, whole(1), "The number of groups of samples of the Inception score.")
SEED = 2020  # Of the order of the samples; torch-fidelity's, so that its score of the same logits is the same.


def score(logits) -> float:
    """exp(E KL(p(y | x) || p(y))) for logits `[n, classes]`, in float64."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    probabilities = np.exp(logs)
    marginal = probabilities.mean(axis=0)
    divergences = (probabilities * (logs - np.log(np.where(marginal > 0, marginal, 1)))).sum(axis=1)
    return float(np.exp(divergences.mean()))


def draws(sets: Sets, config) -> np.ndarray:
    """The score of each of `config.eval.inception_splits` groups of the samples, taken in a random order."""
    logits = sets.generated.array
    n, splits = len(logits), config.eval.inception_splits
    logits = logits[np.random.RandomState(SEED).permutation(n)]
    return np.array([score(logits[i * n // splits : (i + 1) * n // splits]) for i in range(splits)])


def inception_score(sets: Sets, config):
    """The mean over the groups."""
    return (np.mean(draws(sets, config)),)


def check(config) -> None:
    """Refuses groups without samples."""
    samples, splits = config.eval.samples, config.eval.inception_splits
    if samples < splits:
        refuse(
            "eval.samples", samples, f"at least {splits}, config.eval.inception_splits, with the metric inception_score"
        )


INCEPTION_SCORE = Metric(
    "inception_score",
    "Inception score, {eval.samples:,} samples in {eval.inception_splits} groups, seed {draws_seed}",
    features="inception_logits",
    columns=("inception_score",),
    measure=inception_score,
    better="higher",
    fields=(SPLITS,),
    check=check,
    arrays=("generated",),
    draws=draws,
    draws_seed=SEED,
)
