"""What a run does when a training of it diverges: `config.train.on_divergence` says it.

A divergence in a round that the run goes on from leaves a row of `metrics.jsonl` with the split `SPLIT`, by which a run
that was killed then does the same: with the `learning_rate_factor` of the round's next start, or with `skipped`.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping

from jaxtickets import config as config_lib
from jaxtickets import snapshots
from jaxtickets.errors import DivergenceError
from jaxtickets.finite import DivergedError
from jaxtickets.progress import say
from jaxtickets.runs import saved
from jaxtickets.runs.training import trained
from jaxtickets.train import TrainState

SKIP, LOWER = "skip_round", "lower_rate"
SPLIT = "diverged"
FACTOR = 0.5  # Of the learning rate, for each time that a round is started again.
MOST = 3  # The number of times that a round is started again.


def noted(run, resumed: Iterable[snapshots.Last | None]) -> list[dict]:
    """The rows of divergences in the round that is not finished; [] if no state of it is saved: it is done again."""
    found = [row for row in run.place.read_scalars() if row["split"] == SPLIT]
    rounds = {last.round for last in resumed if last}
    return [row for row in found if not run.is_finished(row["round"]) and row["round"] in rounds]


def note(run, round_: int, error: DivergedError, how: dict) -> None:
    """Writes the row of a divergence."""
    run.log(round_, error.step, SPLIT, 0.0, how)
    run.divergences.append({"round": round_, "step": error.step, "split": SPLIT, "seconds": 0.0, **how})


def kept_start(run, round_: int, start: TrainState) -> TrainState:
    """The start of a round, kept where a divergence may need it again and no file has it."""
    may_be_needed = run.config.train.on_divergence == LOWER
    if not (may_be_needed and round_ and config_lib.method(run.config).is_chained(run.config)):
        return start
    path = run.place.snapshot("start")
    if run.resumed and run.resumed.round == round_ and snapshots.exists(path):
        return saved.start(run, round_)
    snapshots.save(path, start)
    return start


def rate(run, round_: int) -> float:
    """The factor on the learning rate in a round."""
    rows = [row for row in run.divergences if row["round"] == round_]
    return min((row["learning_rate_factor"] for row in rows if "learning_rate_factor" in row), default=1.0)


def inherited(run, round_: int) -> list[dict]:
    """What an inner run that trains a round takes over of its divergences: the learning rate that its search had."""
    return [{"round": 0, "learning_rate_factor": rate(run, round_)}] if rate(run, round_) < 1 else []


def lowered(run, round_: int) -> float:
    """The factor with which a round starts again."""
    return FACTOR * rate(run, round_)


def skipped_at(run, round_: int) -> int | None:
    """The step at which a round has diverged that ends with this; None if there is no such step."""
    return next((row["step"] for row in run.divergences if row["round"] == round_ and "skipped" in row), None)


def check_metrics(metrics: Mapping[str, float | None], step: int) -> None:
    """Raises DivergedError at the last step of a round if a metric is not finite; None is one without meaning."""
    for name, value in metrics.items():
        if value is not None and not math.isfinite(value):
            raise DivergedError(step, f"{name} is {value}")


def policy(run, round_: int, error: DivergedError, last: snapshots.LastState, name: str = "last") -> str:
    """What is to be done about a training that has diverged: `SKIP` or `LOWER`.

    Args:
      last, name: the saved states of the training, and their name in the workdir.

    Raises:
      DivergenceError: the run stops.
    """
    chosen, now = run.config.train.on_divergence, rate(run, round_)
    if chosen == SKIP and (round_ or run.is_inner):
        return SKIP
    if chosen == LOWER and now > FACTOR**MOST:
        say(f"round {round_} diverged: {error}; it starts again with {lowered(run, round_):g} times the learning rate")
        return LOWER
    at = f" with {now:g} times the learning rate" if now < 1 else ""
    saved = newest(run, last, None)
    state = "no state of this round has been saved"
    if saved and saved.round == round_:
        where = run.place.snapshot(name)
        state = f"the last finite state that was saved, of step {int(saved.state.step)}, is in {where}"
    others = ("lower_rate",) if round_ == 0 and not run.is_inner else ("lower_rate", "skip_round")
    again = "" if chosen == LOWER else f", or the same command with --config.train.on_divergence={' or '.join(others)}"
    raise DivergenceError(
        f"training diverged: {error} of round {round_}{at}; {state}; a lower config.optimizer.learning_rate may "
        f"help{again}"
    )


def newest(run, last: snapshots.LastState, point: snapshots.Last | None) -> snapshots.Last | None:
    """The newest saved state; `point` if there is none of its round."""
    last.wait()
    saved = last.restore(run.initial_state, run.dense_masks)
    return saved if point is None or (saved and saved.round == point.round) else point


def last_finite(run, newest: snapshots.Last, last: snapshots.LastState, step: int, update):
    """`(state, masks, seconds)` before `step`, the first step that is not finite, trained again from `newest`.

    So the result does not depend on where states were saved.
    """
    found = newest.state, newest.masks, newest.seconds
    if int(newest.state.step) >= step - 1:
        return found
    with contextlib.suppress(DivergedError):  # The state overflowed before a loss or a gradient did.
        before = newest._replace(stop=step - 1)
        found = trained(run, before, last, rate(run, newest.round), update=update, is_again=True)
    return found
