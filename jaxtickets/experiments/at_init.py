"""Pruning at initialisation: SNIP, GraSP, SynFlow, magnitude or random."""

from jaxtickets.experiments.method import Method, title_with_score
from jaxtickets.experiments.protocol import Run
from jaxtickets.train import rewind


def at_init(run: Run) -> None:
    """For each level prunes the untrained network once, by `config.prune.score`, and trains what is left.

    Lee, Ajanthan, Torr 2019 (SNIP, algorithm 1); Wang, Zhang, Grosse 2020 (GraSP, algorithm 1); Tanaka et al. 2020
    (SynFlow, algorithm 1, in its many small steps).
    """
    train = run.compacted_round if run.config.prune.structure == "channel" else run.round
    run.round(0, run.dense_masks, run.initial_state)
    for round_ in range(1, len(run.levels)):
        masks = run.pruned(round_, run.dense_masks, run.initial_state)
        train(round_, masks, rewind(run.initial_state, masks))


def _apart(config):
    is_compacted = config.prune.structure == "channel"
    return "config.prune.structure='channel', whose networks differ in size" if is_compacted else ""


AT_INIT = Method(
    "at_init",
    at_init,
    scores=lambda score: score.weights is not None and score.at_init,
    channel_scores=lambda score: score.scores_channels and score.at_init,
    title=title_with_score,
    apart=_apart,
)
