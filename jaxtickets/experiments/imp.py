"""Iterative magnitude pruning with late rewinding."""

from jaxtickets.experiments.method import REWIND, Method, any_score, check_rewind, title_with_score
from jaxtickets.experiments.protocol import Run


def imp(run: Run) -> None:
    """Finds tickets of growing sparsity (Frankle et al. 2020, algorithm 2; for generative models Kalibhat et al. 2021).

    Train the dense network; then, round after round, prune the smallest of the remaining weights, take
    the kept ones back to the rewind point, and train again.
    """
    masks, start = run.dense_masks, run.initial_state
    for round_ in range(len(run.levels)):
        if round_ > 0:
            trained = run.trained_before(round_)
            masks = run.pruned(round_, masks, trained)
            start = run.rewound(masks, trained)
        run.round(round_, masks, start)


IMP = Method(
    "imp",
    imp,
    fields=(REWIND,),
    check=check_rewind,
    scores=any_score,
    provides=("dense",),
    rewinds_late=True,
    title=title_with_score,
    is_chained=lambda config: config.rewind in ("learning_rate", "none"),
)
