"""What all runs of a config share, whatever their seed: networks, data, compiled steps, metrics."""

from collections.abc import Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import config as config_lib
from jaxtickets import data, metrics, models, train
from jaxtickets import masks as mask_lib
from jaxtickets.compact import compacted_config
from jaxtickets.data import batches
from jaxtickets.devices import Devices, here, replicate, whole_count
from jaxtickets.examples import example_keys, training_images
from jaxtickets.experiments import METHODS
from jaxtickets.experiments.dense import DENSE
from jaxtickets.hosts import Hosts
from jaxtickets.optimizers import make_optimizers
from jaxtickets.pruning import SCORES
from jaxtickets.pruning.score import needs
from jaxtickets.runs import feature_networks
from jaxtickets.runs.meeting import Seat
from jaxtickets.runs.networks import Networks
from jaxtickets.runs.programs import Programs
from jaxtickets.stopping import Stop

# Fields that change no compiled program, beside those of methods, scores and metrics.
NO_PROGRAM = {
    *(
        "tickets_per_host",
        "tickets_per_device",
        "experiment",
        "seed",
        "seeds",
        "confidence",
        "tolerance",
        "rewind_step",
        "keep_weights",
        "trained_in_ticket",
        "latent_pictures",
    ),
    *("train.log_every", "train.checkpoint_every", "train.on_divergence"),
    *("prune.score", "prune.rounds", "prune.rate", "prune.schedule", "prune.sparsities", "prune.scope"),
    *("prune.structure", "prune.target", "prune.channel_multiple", "prune.min_per_layer"),
}


class Setup(Networks):
    """The parts of a run that are made once and serve every seed and round.

    Attributes, beside those of `Networks`:
      images: the training images.
      data: the digests of the data by the name of the split (`data.identity`).
      timeline: the length of a training, and the steps at which something is done in it.
      evaluator: the metrics and the sample grid.
      devices: what each batch is split over.
      hosts: those that train together, or None.
      stopped: the request to end, which every training obeys.
      seat: where its run meets others that train in the same programs; None: it trains alone.
    """

    def __init__(
        self,
        config,
        like: "Setup | None" = None,
        devices: Devices = None,
        stopped: Stop | None = None,
        seat: Seat | None = None,
        hosts: Hosts | None = None,
    ):
        """
        Args:
          like: a setup whose data this one shares. Compiled programs are shared too if no field that differs affects
            them (`programmed`).
          devices: what each batch is split over; None: those of `like`, or all local devices.
          stopped: None: that of `like`, or one of its own.
          hosts: whose devices each batch is split over; None: those of `like`, or this one alone.
        """
        super().__init__(feature_networks.resolved(config))
        config, self.seat, self.tickets = self.config, seat, seat.meeting.seats if seat else 1
        self.hosts = hosts or (like.hosts if like else None)
        self.devices = devices or (like.devices if like else hosts and hosts.devices)
        self._programmed = programmed(config)
        is_same = like and like.devices == self.devices and like._programmed == self._programmed
        if self.hosts and like and not is_same:
            raise ValueError("the other hosts train the programs of the run's own config only")
        self._same = (like._same or like) if is_same else None  # The first of a chain, so that others can go.
        self.stopped = like.stopped if like else stopped or Stop()
        self._optimizers = make_optimizers(self.objective, config.optimizer)
        if like:
            self.images, self._labels, self._held_out = like.images, like._labels, like._held_out
            self.data, self._count = like.data, like._count
            if self.devices == like.devices:
                self._resident_data = like._resident_data
        else:
            training, held_out = self._read_data()
            self.data = {"train": training.digest, "test": held_out.digest}
            self.images, self._held_out = training.images, held_out.images
            self._labels = training.labels if config.model.conditional else None
            self._count = self._count_images()
        period = len(train.period(self.objective))
        self.timeline = config_lib.make_timeline(config, self._count, jax.default_backend(), period)
        if self._same:
            self._init, self._made = like._init, like._made
        else:
            tracked = _tracks_movement(config)
            self._init = jax.jit(partial(train.init_state, self.objective, self._optimizers, track_movement=tracked))
            self._made = {}
        is_shared = self._same and like.tickets == self.tickets
        self.programs = like.programs if is_shared else self._programs_of(None, 1.0)
        if self.hosts and not self.hosts.leads:
            self.evaluator = None  # The leader measures.
        elif self._same and like.config.eval == config.eval:
            self.evaluator = like.evaluator
        else:
            images = self.images, self._held_out
            self.evaluator = self._make_evaluator(*images)
        if seat and self.evaluator:
            self.evaluator = seat.one_at_a_time(self.evaluator)

    def _read_data(self):
        return [data.of_config(self.config, split) for split in data.SPLITS]

    def _count_images(self):
        """The number of images that epochs are counted by."""
        return len(self.images)

    def _make_evaluator(self, images, held_out):
        return metrics.make_evaluator(self.objective, self.config, images, held_out, here(self.devices))

    def init(self, seed: int) -> train.TrainState:
        """The state before the first step, on the host."""
        return jax.device_get(self._init(np.uint32(seed)))

    def compacted(self, channel_masks) -> "Setup":
        """The setup of the dense network with the kept channels only, on the same data."""
        return Setup(as_dense(compacted_config(self.config, channel_masks)), like=self)

    @property
    def about(self) -> dict:
        """What reports need to know of the experiment beside its config: see docs/workdir.md, config.json."""
        method = config_lib.method(self.config)
        title, columns = method.title(self.config), dict(method.columns)
        read = {"features": self.evaluator.features, "data": self.data}
        return {"title": title, "columns": columns, "metrics": self.evaluator.columns, **read}

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of images that metrics are taken over."""
        return {"held_out_images": len(self._held_out), "training_images": len(self.images)}

    # Batches and the compiled steps.

    @cached_property
    def _resident_data(self):
        """The images and labels on the devices, or None if they stream from the host."""
        placement = self.config.data.placement
        on_device = placement == "device" or (placement == "auto" and batches.fits_on_device(self.images))
        return replicate((np.asarray(self.images), self._labels), self.devices) if on_device else None

    def indices(self, seed: int, start: int, stop: int):
        """The `[batch_size]` indices of the images of each step from `start` to `stop`."""
        return batches.indices(seed, start, stop, len(self.images), self.config.train.batch_size)

    def batches(self, seeds: Sequence[int], blocks):
        """`(block, data, indices)` for each of the blocks of steps, as `train.train` takes them.

        Args:
          seeds: of the data order of each ticket; with several, `indices` have an axis of tickets.
        """
        devices = whole_count(self.devices)

        def chosen(start, stop):
            orders = zip(*(self.indices(seed, start, stop) for seed in seeds), strict=True)
            return (np.stack(order) if len(seeds) > 1 else order[0] for order in orders)

        if self._resident_data is None:
            return batches.streamed((self.images, self._labels), chosen, blocks, devices, group=self.devices)
        rows = -(-batches.ROWS // self.timeline.steps_per_call) * self.timeline.steps_per_call
        return batches.resident(self._resident_data, chosen, blocks, devices, rows, self.devices)

    def _programs(self, l1, rate):
        config = self.config

        def arguments():
            state = jax.eval_shape(self._init, np.uint32(config.seed))
            return state, self.dense_masks, self.teacher(state, np.float32(0))

        return Programs(
            self.objective,
            self._optimizers,
            arguments,
            partial(self.batches, [config.seed] * self.tickets),
            self.timeline.steps_per_call,
            self.devices,
            config.train.rematerialize,
            self.tickets,
            flip=config.data.flip,
            final_rate=config.optimizer.final_rate,
            steps=self.timeline.steps,
            l1=l1,
            rate=rate,
        )

    def programs_of(self, l1=None, rate: float = 1.0) -> Programs:
        """The programs with a penalty on the parameters' absolute values and with a factor on every learning rate.

        `l1` and `rate` are those of `train.step_function`.
        """
        return self.programs if l1 is None and rate == 1 else self._programs_of(l1, rate)

    def _programs_of(self, l1, rate):
        weights = tuple(sorted(mask_lib.named_leaves(l1).items()))
        # Threads that ask at a time are given the same.
        return self._made.setdefault((weights, rate, self.tickets), self._programs(l1, rate))

    @cached_property
    def step_bytes(self) -> int | None:
        """The memory of one train step on a device, by XLA's own account: arguments, results and what lies between.

        Of tickets that train together it is that of all.

        None where the back end gives none.
        """
        return self.programs.step_bytes()

    def release(self) -> None:
        """Gives back the compiled steps and what they hold; the next step compiles anew."""
        for programs in (self.programs, *self._made.values()):
            programs.release()

    def teacher(self, state: train.TrainState, weight: float):
        """The components of `state` that the losses are given (`Batch.teacher`); None if they need none."""
        if not (names := self.objective.teacher):
            return None
        trees = {field: {name: getattr(state, field)[name] for name in names} for field in ("params", "batch_stats")}
        return {**trees, "weight": np.float32(weight)}

    # What scores read.

    @cached_property
    def losses(self):
        """`{components of a player: loss}` for `jaxtickets.pruning.scores`; batches are those of `scoring_batch`."""
        return self._same.losses if self._same else self._losses()

    @cached_property
    def tempered_losses(self):
        """The losses with the outputs of classifiers in them divided by `config.prune.temperature`."""
        temperature = self.config.prune.temperature
        if self._same and self._same.config.prune.temperature == temperature:
            return self._same.tempered_losses
        return self._losses(temperature)

    def _losses(self, temperature=1):
        # Scores are computed on one device, outside the mapped axis.
        objective = self.make_objective()

        def loss_of(tag, player):
            player_loss = player.loss
            if temperature != 1 and player.tempered:
                player_loss = player.tempered(temperature)

            def loss(own, batch):
                examples = jnp.arange(len(batch["images"]))
                keys = example_keys(batch["seed"], batch["step"], tag, examples)
                images = training_images(batch["images"], batch["seed"], batch["step"], examples, self.config.data.flip)
                params = {**batch["params"], **own}
                return player_loss(params, batch["batch_stats"], train.Batch(images, keys, batch["labels"]))[0]

            return loss

        return {player.components: loss_of(tag, player) for tag, _, player in train.tagged_players(objective)}

    def scoring_batch(self, state: train.TrainState, masks, step: int):
        """What the losses read beside a player's own parameters: the images and the random numbers of a step."""
        (chosen,) = self.indices(int(state.seed), step, step + 1)
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
        if self._same and self._same.config.seed == self.config.seed:
            return self._same.flows
        return models.flows(self.components(), self.init(self.config.seed).batch_stats)


def as_dense(config):
    """The config of the dense run of the same networks: one training that prunes nothing."""
    dense, defaults = config.copy_and_resolve_references(), config_lib.get_config()
    dense.update(experiment=DENSE.name, prune=defaults.prune, rewind_step=defaults.rewind_step)
    dense.update_from_flattened_dict({field.name: field.default for field in config_lib.method(config).fields})
    return dense


def _tracks_movement(config):
    return "movement" in needs(SCORES[config.prune.score].weights)


def programmed(config) -> dict:
    """The values of all fields that may change a compiled program: every field except those in `NO_PROGRAM`.

    Fields that only methods and scores bring change none either.
    """
    kinds = {True: set(), False: set()}
    for registry in config_lib.registries():
        for plugin in registry.values():
            kinds[registry is METHODS or registry is SCORES] |= {field.name for field in plugin.fields}
    brought = kinds[True] - kinds[False]
    values = {
        name: value
        for name, value in config_lib.flat(config).items()
        if name not in brought | NO_PROGRAM and not name.startswith("eval.")
    }
    return values | {"tracks_movement": _tracks_movement(config)}
