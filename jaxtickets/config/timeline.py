"""The steps of a training, and the steps at which something is done in it."""

from dataclasses import dataclass

from jaxtickets.config.schema import method
from jaxtickets.fields import refuse

# `train.steps_per_call` where it is 0. XLA's CPU back end is slow in a loop around convolutions, as
# benchmarks/steps_per_call.py measures; on accelerators a loop has no gaps between launches.
STEPS_PER_CALL = {"cpu": 1, "gpu": 8, "tpu": 8}


@dataclass(frozen=True)
class Timeline:
    """The steps of a training at which something is done, the same in every round. Step 0 is the initialisation.

    Attributes:
      steps: the length of training.
      per_epoch: the steps of an epoch; images after the last whole batch are dropped.
      rewind_step: the step of the rewind point.
      update_steps: the steps before which masks may change; empty where the method changes none in training.
      search_steps: the steps after which a search draws a mask; empty where the method does not search.
      steps_per_call: the number of steps that one program does where nothing is due between them.
    """

    steps: int
    per_epoch: int
    rewind_step: int
    update_steps: range
    search_steps: range
    steps_per_call: int


def make_timeline(config, images: int, platform: str = "cpu", period: int = 1) -> Timeline:
    """The timeline of a config's trainings.

    Args:
      images: the number of training images.
      platform: JAX's name of the back end.
      period: the number of steps after which the players' moves repeat; one program does whole periods.

    Raises:
      UserError: the steps of the config do not fit the number of images, or each other.
    """
    per_epoch = images // config.train.batch_size
    if not per_epoch:
        refuse("train.batch_size", config.train.batch_size, f"at most the {images} training images")
    steps, chosen = config.train.steps or config.train.epochs * per_epoch, method(config)
    per_call = config.train.steps_per_call or STEPS_PER_CALL.get(platform, 1)
    return Timeline(
        steps=steps,
        per_epoch=per_epoch,
        rewind_step=rewind_step(config, steps),
        update_steps=chosen.update_steps(config, steps) if chosen.update_steps else range(0),
        search_steps=chosen.search_steps(config, steps, per_epoch) if chosen.search_steps else range(0),
        steps_per_call=per_call if per_call == 1 else -(-per_call // period) * period,
    )


def check_steps(config) -> None:
    """Refuses steps that do not fit each other, as far as that shows without the data.

    Raises:
      UserError: the rewind point or the updates of masks do not lie within `config.train.steps`.
    """
    if config.train.steps:
        rewind_step(config, config.train.steps)
        if update_steps := method(config).update_steps:
            update_steps(config, config.train.steps)


def rewind_step(config, steps: int) -> int:
    """The step of the rewind point: the initialisation with a method that rewinds no later."""
    value = config.rewind_step
    step = round(value * steps) if value < 1 else int(value)
    if not method(config).rewinds_late:
        step = 0
    if step >= steps:
        refuse("rewind_step", value, f"a step before the end of training, which is step {steps}")
    return step
