"""Trains within a run: a round, or the search for its ticket."""

from functools import partial

from jaxtickets import loop
from jaxtickets import masks as mask_lib
from jaxtickets.runs import following, hooks
from jaxtickets.runs.meeting import Request, alone
from jaxtickets.train import TrainState


def trained(
    run, point, last, rate: float = 1.0, update=None, draw=None, l1=None, is_again: bool = False, ended=None
) -> tuple[TrainState, object, float]:
    """Trains from `point`, a `snapshots.Last`, to its stop, or in a search until `draw` ends it.

    Args:
      last: the `snapshots.LastState` in which the newest train state is kept.
      rate: a factor on the learning rate of every player.
      update, draw: see `Run.round` and `Run.search`.
      l1: that of `train.step_function`.
      ended: called with what is returned at the end, and saves it: until then a process that is asked to end waits.
      is_again: whether these steps have been done before and are known to be finite: nothing is logged or saved.

    Returns:
      `(state on the host, masks, seconds)`.

    Raises:
      DivergedError: a loss, a gradient or a train state is not finite.
    """
    round_, start, masks, stop, seconds = point
    options, setup, timeline, step = run.config.train, run.setup, run.timeline, int(start.step)
    is_search, devices = draw is not None, setup.devices
    split, what = ("search", "searching") if is_search else ("train", f"{mask_lib.sparsity(masks):.1%} sparse")
    run.progress.start_round(round_, what, step, stop)

    def write(step, seconds, scalars):
        if not is_again:
            run.log(round_, step, split, seconds, scalars)
        run.progress.update(round_, step, scalars)

    also = timeline.search_steps if is_search else ()
    log = hooks.Log(write, options.log_every, stop, also)
    rewind = run.place.snapshot("rewind") if round_ == 0 and not is_again else None
    all_hooks = [
        log.hook,
        hooks.checkpoints(None if is_again else last, log, round_, options.checkpoint_every, stop),
        hooks.snapshot(rewind, log, timeline.rewind_step),
        hooks.mask_updates(update, log, timeline.update_steps, stop, devices),
    ]
    if is_search:
        all_hooks.append(hooks.search(draw, log, timeline.search_steps))
    programs = setup.programs_of(l1, rate)

    def train_all(requests):
        return loop.train(
            program,
            partial(setup.batches, [request.seed for request in requests]),
            [request.training for request in requests],
            stop,
            steps_per_call=timeline.steps_per_call,
            devices=devices,
            is_stopped=setup.stopped.is_set,
        )

    one = loop.Training(start, masks, all_hooks, _teacher(run, round_), seconds, log.seen)
    due = timeline, options.log_every, options.checkpoint_every
    request = Request((round_, step, stop), (programs, due), one, train_all, run.seed)
    whole = following.Training(run.seed, rate, step, stop, frozenset())
    with following.led(setup, whole, all_hooks, programs) as program, setup.stopped.saves():
        end = setup.seat.train(request) if setup.seat else alone(request)
        state, seconds = log.host_state(end), end.clock.seconds()
        if ended and not setup.stopped.is_set():
            ended(state, end.masks, seconds)
        if setup.stopped.is_set():
            last.save(round_, state, end.masks, stop, seconds)
            last.wait()
    return state, end.masks, seconds


def _teacher(run, round_):
    """The trained dense components that the losses ask for; in round 0 the initial ones, with weight 0."""
    if not run.networks.objective.teacher:
        return None
    return run.setup.teacher(*((run.dense, 1.0) if round_ else (run.initial_state, 0.0)))
