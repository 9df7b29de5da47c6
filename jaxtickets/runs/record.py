"""What a run records beside its rounds: references, the verdict, the ticket file and the weights that are kept."""

import contextlib
import threading
from collections.abc import Callable

import jax

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import snapshots, tickets, train, trained
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.progress import say
from jaxtickets.runs import saved
from jaxtickets.runs.verdict import judge
from jaxtickets.workdir import Workdir

KEEP_ALL = "all"


def row(run, round_: int, masks, metrics: dict, seconds, steps_per_second, columns: dict) -> dict:
    """The row of a round in `rounds.csv`.

    Args:
      metrics: by column.
      seconds, steps_per_second: of its training; None where they are not known.
      columns: further ones.
    """
    params, (weights, kept) = run.networks.params, mask_lib.counts(masks)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {
        "round": round_,
        "sparsity": mask_lib.sparsity(masks),
        "sparsity_all": mask_lib.sparsity_all(masks, params),
        "density": kept / weights,
        **metrics,
        "flops_dense": run.networks.flops(),
        "flops_effective": run.networks.flops(masks),
        "params_kept": parameters - weights + kept,
        "train_seconds": None if seconds is None else round(seconds, 3),
        "steps_per_second": None if steps_per_second is None else round(steps_per_second, 3),
        "step_bytes": run.setup.step_bytes,
        **columns,
    }


def describe(row: dict, metric: str) -> str:
    """What is said of a round that is recorded."""
    step, seconds = row.get("diverged_step"), row["train_seconds"]
    found = f"{metric} {row[metric]:.4g}" if step is None else f"diverged at step {step}"
    took = "" if seconds is None else f", {seconds:.1f} s of training"
    return f"round {row['round']}: {row['sparsity']:.2%} sparse, {found}{took}"


def write_references(run) -> None:
    """Measures the untrained network, and held-out images in the place of its samples, unless that is done already."""
    try:
        if run.place.read_references():
            return
    except DamagedError as error:
        say(f"{error}; it is measured again")
    run.place.write_references(_measured(run, _untrained(run)))


def _untrained(run):
    return jax.device_put(train.evaluated(run.initial_state))


def _measured(run, untrained):
    found, counts = run.setup.evaluator.references(*untrained, run.seed), run.setup.counts
    return {name: {"held_out": None, **counts, **numbers} for name, numbers in found.items()}


def evaluates_beside_training() -> bool:
    """Whether devices have room for both. CPUs have not: what one takes is the other's time."""
    return jax.default_backend() != "cpu"


def references_beside_training(run) -> Callable[[], None] | None:
    """Measures the references in a thread, so that all programs of an evaluation are compiled when it is over.

    Returns a function that waits for the thread and writes them; None where there is nothing to be measured, or no room
    for it. An error is not told: what has failed is done again where it is needed, and fails there.
    """
    is_measured, is_alone = run.is_inner or run.place.references.exists(), run.setup.config.seeds == 1
    if is_measured or not is_alone or run.setup.hosts or not evaluates_beside_training():
        return None
    found = []

    def measure():
        with contextlib.suppress(Exception):
            untrained = _untrained(run)
            found.append(_measured(run, untrained))
            run.setup.evaluator.samples(*untrained, run.seed)

    # A daemon: a process that ends does not wait for it.
    thread = threading.Thread(target=measure, name="references", daemon=True)
    thread.start()

    def write():
        thread.join()
        if found:
            run.place.write_references(found[0])

    return write


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
    verdict = judge(rows, *how, references=_references(run), is_alone=is_alone)
    verdict["data"] = run.setup.data
    save_ticket(run.setup, place, run.initial_state, verdict)
    if rows[0].get("diverged_step") is None:
        _write_dense_weights(run)
    _tell_lost_weights(run, rows, verdict)
    place.write_verdict(verdict)
    if is_alone:
        keep_ends(config, place, verdict["winning_round"])
    return verdict


def _write_dense_weights(run):
    """Writes the weights of the dense run if it has only its train state, as an older version has left it."""
    place = run.place
    if place.weights(0).exists() or not snapshots.exists(place.snapshot("dense")):
        return
    try:
        params, batch_stats = train.evaluated(run.dense)
    except DamagedError as error:
        say(f"{error}; there are no weights of round 0")
        return
    masks = run.saved_masks(0) or run.dense_masks
    trained.save(place.weights(0), params, batch_stats, masks, run.networks.json_network)


def _references(run):
    try:
        return run.place.read_references()
    except DamagedError:
        write_references(run)
        return run.place.read_references()


def save_ticket(setup, place: Workdir, like: train.TrainState, verdict: dict) -> None:
    """Writes the ticket file of a verdict's `winning_round`, in the place of the one that is there; none without it.

    Args:
      setup, place: of the run with the round.
      like: any train state of the run.
      verdict: on this run, or on all of several seed runs.
    """
    round_ = verdict["winning_round"]
    if round_ is None:
        place.ticket.unlink(missing_ok=True)
        return
    is_whole = _has_trained_weights(place.ticket, round_)
    if not place.weights(round_).exists() and is_whole:
        return  # It has what is gone.
    if not snapshots.exists(place.masks(round_)):
        if is_whole:
            say(f"{place.masks(round_)}: is missing; {place.ticket.name} has the same masks")
        else:  # A narrow network has no masks.
            place.ticket.unlink(missing_ok=True)
        return
    went_on = setup.timeline.search_steps and setup.config.rewind == "none"
    try:
        masks = snapshots.restore_masks(place.masks(round_), setup.dense_masks)
        point = snapshots.restore(place.search_end(round_) if went_on else place.snapshot("rewind"), like)
    except DamagedError as error:
        if is_whole:
            say(f"{error}; {place.ticket.name} has the same")
            return
        raise DamagedError(f"{error}; {saved.remedy(setup.config, place, 0)}") from None
    has_weights = setup.config.trained_in_ticket and place.weights(round_).exists()
    # The dense run, which whoever trains the ticket again trains first, has the moments too. At step 0 they take no
    # room, and the running averages may be those of transferred weights.
    is_of_dense_run = not went_on and 0 < int(point.step) == setup.timeline.rewind_step
    tickets.save_ticket(
        place.ticket,
        masks,
        point,
        trained=trained.load(place, round_) if has_weights else None,
        metadata=_provenance(place, verdict),
        axis_names=setup.axis_names.params,
        network=setup.json_network,
        moments=not is_of_dense_run,
    )


def _provenance(place, verdict):
    """The metadata of a ticket: its round, and where it comes from. Of the verdict's rounds it has its own alone."""
    round_, origin = verdict["winning_round"], place.read_origin() or {}
    if "rounds" in verdict:
        verdict = {**verdict, "rounds": [one for one in verdict["rounds"] if one["round"] == round_]}
    (row,) = [row for row in place.read_rounds() if row["round"] == round_]
    row = {name: value for name, value in row.items() if not name.endswith(("seconds", "per_second"))}
    about = origin.get("about") or {}
    features = {"features": about["features"]} if about.get("features") else {}
    own = {name: origin.get(name) for name in ("command", "versions", "devices", "cpu_count", "git_revision")}
    return {"config": place.read_config(), "verdict": verdict, "row": row, **features, **own}


def _has_trained_weights(ticket, round_):
    """Whether a ticket file is intact, and has the trained weights of a round."""
    try:
        _, metadata = tickets.load_trained(ticket)
    except UserError:
        return False
    return metadata.get("verdict", {}).get("winning_round") == round_


def _tell_lost_weights(run, rows, verdict):
    """Says which files of weights are gone that a finished run keeps; an older version has written none."""
    place, kept = run.place, run.place.list_weights()
    ends = [row for row in rows if row["round"] in (0, verdict["winning_round"], rows[-1]["round"])]
    for row in ends if kept else ():
        if row["round"] not in kept and row.get("diverged_step") is None:
            remedy = saved.remedy(run.setup.config, place, row["round"], run.is_inner)
            if row["round"] == 0 and not snapshots.exists(place.snapshot("dense")):
                remedy = "the run that the dense one is taken from has none"
            say(f"{place.weights(row['round'])}: is missing; {remedy}")


def keep_ends(config, place: Workdir, *winners: int | None) -> None:
    """Deletes the weights of all rounds but the dense one, the winners and the last one, unless all are kept.

    Args:
      winners: rounds; None stands for no winner.
    """
    if config.keep_weights != KEEP_ALL:
        place.keep_weights({0, place.read_rounds()[-1]["round"], *winners})
