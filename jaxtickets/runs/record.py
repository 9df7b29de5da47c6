"""What a run records beside its rounds: references, the verdict, the ticket file and the weights that are kept."""

import jax

from jaxtickets import config as config_lib
from jaxtickets import snapshots, tickets, train
from jaxtickets.runs.verdict import judge
from jaxtickets.workdir import Workdir

KEEP_ALL = "all"


def write_references(run) -> None:
    """Measures the untrained network, and held-out images in the place of its samples, unless that is done already."""
    if run.place.references.exists():
        return
    untrained = jax.device_put(train.evaluated(run.initial_state))
    found = run.setup.evaluator.references(*untrained, run.seed)
    counts = run.setup.counts
    run.place.write_references({name: {"held_out": None, **counts, **numbers} for name, numbers in found.items()})


def finish(run, rows: list[dict]) -> dict:
    """Saves the verdict of a run, and the ticket file of its `winning_round`, if any; returns the verdict.

    Of a run that is not one of several seed runs, whose verdict is still to come, the weights of all other rounds than
    the dense one, the winner and the last one are deleted, unless `config.keep_weights` says "all".

    Args:
      rows: the rows of `rounds.csv`.
    """
    evaluator, place, config = run.setup.evaluator, run.place, run.config
    is_alone = run.setup.config.seeds == 1
    how = (evaluator.metric, evaluator.label, config.tolerance, config_lib.subject(config), evaluator.better)
    verdict = judge(rows, *how, references=place.read_references(), is_alone=is_alone)
    save_ticket(run.setup, place, run.initial_state, verdict)
    place.write_verdict(verdict)
    if is_alone:
        keep_ends(config, place, verdict["winning_round"])
    return verdict


def save_ticket(setup, place: Workdir, like: train.TrainState, verdict: dict) -> None:
    """Writes the ticket file of a verdict's `winning_round`, in the place of the one that is there; none without it.

    Args:
      setup, place: of the run with the round.
      like: any train state of the run.
      verdict: on this run, or on all of several seed runs.
    """
    round_ = verdict["winning_round"]
    if round_ is None or not snapshots.exists(place.masks(round_)):
        place.ticket.unlink(missing_ok=True)
        return
    masks = snapshots.restore_masks(place.masks(round_), setup.dense_masks)
    went_on = setup.timeline.search_steps and setup.config.rewind == "none"
    point = snapshots.restore(place.search_end(round_) if went_on else place.snapshot("rewind"), like)
    metadata = {"config": place.read_config(), "verdict": verdict}
    tickets.save_ticket(place.ticket, masks, point, metadata, place.weights(round_))


def keep_ends(config, place: Workdir, *winners: int | None) -> None:
    """Deletes the weights of all rounds but the dense one, the winners and the last one, unless all are kept.

    Args:
      winners: rounds; None stands for no winner.
    """
    if config.keep_weights != KEEP_ALL:
        place.keep_weights({0, place.read_rounds()[-1]["round"], *winners})
