"""What all runs of a config share, whatever their seed: networks, data, compiled steps, metrics."""

import threading
import time
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import config as config_lib
from jaxtickets import data, evaluation, models, train
from jaxtickets import masks as mask_lib
from jaxtickets.compact import compacted_config
from jaxtickets.data import batches
from jaxtickets.experiments.networks import Networks
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.progress import say
from jaxtickets.pruning import channels

# One after the other: what one group of devices has compiled is there for the next, where JAX's compilation cache
# does not tell devices apart (GPUs), so that all run the same program.
_COMPILING = threading.Lock()


class StoppedError(Exception):
    """Another seed's run has ended with an error, or the user has interrupted all."""


class Setup(Networks):
    """The parts of a run that are made once and serve every seed and round.

    Attributes, beside those of `Networks`:
      images: the training images.
      steps: the steps of a whole training.
      steps_per_call: the steps that one call of a program does, where nothing is to be done between them.
      rewind_step: the step of the rewind point.
      update_steps: the steps before which masks may change in training.
      search_steps: the steps after which the search for an early-bird ticket draws a mask.
      evaluator: the metrics and the sample grid.
      devices: what each batch is split over.
      stopped: once it is set, trainings end at their next step with `StoppedError`.
    """

    def __init__(self, config, like: "Setup | None" = None, devices: train.Devices = None):
        """With `like`, for another network or on other devices, with the same data, which it shares."""
        super().__init__(config)
        self.devices = devices or (like.devices if like else None)
        self.stopped = like.stopped if like else threading.Event()
        self._optimizers = train.make_optimizers(self.objective, config.optimizer)
        if like:
            self.images, self._labels, self._held_out = like.images, like._labels, like._held_out
            if self.devices == like.devices:
                self._resident_data = like._resident_data
        else:
            load = partial(
                data.load, config.data.name, image_size=config.model.image_size, data_dir=config.data.dir or None
            )
            training, self._held_out = load(split="train"), load(split="test").images
            self.images, self._labels = training.images, training.labels if config.model.conditional else None
        self.steps = config_lib.resolve_steps(config, len(self.images))
        self.steps_per_call = config_lib.resolve_steps_per_call(config, jax.default_backend())
        self.rewind_step = config_lib.resolve_rewind_step(config, self.steps)
        self.update_steps = config_lib.resolve_update_steps(config, self.steps)
        per_epoch = len(self.images) // config.train.batch_size
        self.search_steps = config_lib.resolve_search_steps(config, self.steps, per_epoch)
        self._step_bytes = None
        track_movement = config.prune.score == "movement"
        self._init = jax.jit(partial(train.init_state, self.objective, self._optimizers, track_movement=track_movement))
        self.evaluator = evaluation.make_evaluator(self.objective, config, self.images, self._held_out)

    def init(self, seed: int) -> train.TrainState:
        """The state before the first step, on the host."""
        return jax.device_get(self._init(np.uint32(seed)))

    def compacted(self, channel_masks) -> "Setup":
        """The setup of the dense network with the kept channels only, on the same data."""
        config, defaults = compacted_config(self.config, channel_masks), config_lib.get_config()
        config.update(experiment="dense", rewind=defaults.rewind, rewind_step=defaults.rewind_step)
        config.update(prune=defaults.prune, early_bird=defaults.early_bird)
        return Setup(config, like=self)

    # Batches and the compiled steps.

    @cached_property
    def _resident_data(self):
        """The images and labels on the devices, or None if they stream from the host."""
        placement = self.config.data.placement
        on_device = placement == "device" or (placement == "auto" and batches.fits_on_device(self.images))
        return self.replicate((np.asarray(self.images), self._labels)) if on_device else None

    def replicate(self, tree):
        """A copy of a pytree on each of the devices, as the compiled step takes it."""
        return train.replicate(tree, self.devices)

    def _indices(self, seed, start, stop):
        return batches.indices(seed, start, stop, len(self.images), self.config.train.batch_size)

    def batches(self, seed: int, start: int, stop: int):
        """`(block, data, indices)` for each call of a program that the steps `start` to `stop` take.

        `block` is the range of its steps: one, or `steps_per_call` where nothing is to be done between them.
        """
        options = self.config.train
        updates = self.update_steps if self.config.experiment in config_lib.CHANGING else ()

        def is_due(step):
            is_saved = options.checkpoint_every and step % options.checkpoint_every == 0
            return is_saved or step % options.log_every == 0 or step == self.rewind_step or step in updates

        return self._batches(seed, batches.blocks(start, stop, self.steps_per_call, is_due))

    def _batches(self, seed, blocks):
        chosen, devices = partial(self._indices, seed), train.device_count(self.devices)
        if self._resident_data is None:
            return batches.streamed((self.images, self._labels), chosen, blocks, devices, group=self.devices)
        rows = -(-batches.ROWS // self.steps_per_call) * self.steps_per_call
        return batches.resident(self._resident_data, chosen, blocks, devices, rows, self.devices)

    def step(self, number: int, searching: bool = False, steps: int = 1):
        """The compiled program of the `steps` steps after `number` steps.

        There is one for each set of players that move in a step, and one for `steps_per_call` steps.

        searching: with the penalty of `config.early_bird`.
        """
        is_penalized = searching and self.config.early_bird.gamma_penalty > 0
        moving = train.movers(self.objective, number) if steps == 1 else train.period(self.objective)
        return (self._compiled_penalized if is_penalized else self._compiled)[moving]

    @cached_property
    def _compiled(self):
        return self._compile()

    @cached_property
    def _compiled_penalized(self):
        weight = self.config.early_bird.gamma_penalty
        is_gamma = channels.is_gamma(self.params, self.axis_names.params, self.batch_stats)
        weights = {component: weight if jax.tree.leaves(own) else None for component, own in self.dense_masks.items()}
        l1 = {
            component: jax.tree.map(lambda gamma, weight=weights[component]: weight if gamma else None, layers)
            for component, layers in is_gamma.items()
        }
        return self._compile(l1)

    def _compile(self, l1=None):
        """Ahead of time and once: a later round of another shape is an error, not a second compilation."""
        config = self.config
        settings = {"flip": config.data.flip, "ema_decay": config.objective.ema_decay}
        settings |= {"final_rate": config.optimizer.final_rate, "steps": self.steps, "l1": l1}
        state = jax.eval_shape(self._init, np.uint32(config.seed))
        n_devices = train.device_count(self.devices)
        trees = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((n_devices, *leaf.shape), leaf.dtype),
            (state, self.dense_masks, self.teacher(state, np.float32(0))),
        )
        period, compiled = train.period(self.objective), {}
        programs = dict.fromkeys(period, 1)
        if self.steps_per_call > 1:
            programs[period] = self.steps_per_call
        settings |= {"devices": self.devices}
        for moving, steps in programs.items():
            _, *batch = next(self._batches(config.seed, [range(steps)]))
            step = train.make_step(self.objective, self._optimizers, moving, steps, **settings)
            with _COMPILING:
                started = time.perf_counter()
                lowered = step.lower(*trees[:2], *batch, trees[2])
                compiled[moving] = lowered.compile(train.compiler_options(config.train.rematerialize))
            what = "the train step" if steps == 1 else f"{steps} train steps together"
            say(f"compiled {what} in {time.perf_counter() - started:.1f} s")
        return compiled

    @property
    def step_bytes(self) -> int | None:
        """The memory of one train step on a device, by XLA's own account: arguments, results and what lies between.

        None where the back end gives none.
        """
        if self._step_bytes is None:
            sizes = [train.program_bytes(program) for program in self._compiled.values()]
            self._step_bytes = max(sizes) if all(sizes) else None
        return self._step_bytes

    def release(self) -> None:
        """Gives back the compiled steps and what they hold; the next step compiles anew."""
        for name in ("_compiled", "_compiled_penalized"):
            self.__dict__.pop(name, None)

    def teacher(self, state: train.TrainState, weight: float):
        """The discriminator of `state`, to be followed with that weight; None if the config distils nothing."""
        if not self.config.objective.distillation:
            return None
        trees = {"params": state.params["discriminator"], "batch_stats": state.batch_stats["discriminator"]}
        return {**trees, "weight": np.float32(weight)}

    # What scores read.

    @cached_property
    def losses(self):
        """`{components of a player: loss}` for `jaxtickets.pruning.scores`; batches are those of `scoring_batch`."""
        return self._losses()

    @cached_property
    def tempered_losses(self):
        """The same with a discriminator's outputs over `config.prune.temperature`."""
        has_outputs = "discriminator" in self.objective.components
        return self._losses(**({"temperature": self.config.prune.temperature} if has_outputs else {}))

    def _losses(self, **options):
        # Scores are computed on one device, outside the mapped axis.
        components = self.components()
        objective = OBJECTIVES[self.config.objective.name](components, self.config.objective, **options)

        def loss_of(tag, player):
            def loss(own, batch):
                examples = jnp.arange(len(batch["images"]))
                keys = train.example_keys(batch["seed"], batch["step"], tag, examples)
                images = train.training_images(
                    batch["images"], batch["seed"], batch["step"], examples, self.config.data.flip
                )
                params = {**batch["params"], **own}
                return player.loss(params, batch["batch_stats"], images, keys, batch["labels"])[0]

            return loss

        return {player.components: loss_of(tag, player) for tag, _, player in train.tagged_players(objective)}

    def scoring_batch(self, state: train.TrainState, masks, step: int):
        """What the losses need beside a player's own parameters: the images and the random numbers of a step."""
        (chosen,) = self._indices(int(state.seed), step, step + 1)
        return {
            "params": mask_lib.apply(state.params, masks),
            "batch_stats": state.batch_stats,
            "images": np.asarray(self.images[chosen]),
            "labels": None if self._labels is None else self._labels[chosen],
            "seed": state.seed,
            "step": np.int32(step),
        }

    @cached_property
    def flows(self):
        """`{component: flow}` for SynFlow, with the batch statistics of the initialisation: means 0, variances 1."""
        return models.flows(self.components(), self.init(self.config.seed).batch_stats)
