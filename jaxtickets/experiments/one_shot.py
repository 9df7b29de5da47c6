"""One-shot pruning with rewinding: the ablation of iterating."""

from jaxtickets.experiments.method import REWIND, Method, any_score, check_rewind, title_with_score
from jaxtickets.experiments.protocol import Run


def one_shot(run: Run) -> None:
    """Trains the dense network, then for each sparsity prunes it once, rewinds and trains (Frankle, Carbin 2019, 2)."""
    run.round(0, run.dense_masks, run.initial_state)
    for round_ in range(1, len(run.levels)):
        masks = run.pruned(round_, run.dense_masks, run.dense)
        run.round(round_, masks, run.rewound(masks, run.dense))


ONE_SHOT = Method(
    "one_shot",
    one_shot,
    fields=(REWIND,),
    check=check_rewind,
    scores=any_score,
    provides=("dense",),
    rewinds_late=True,
    title=title_with_score,
)
