"""One run in one workdir: the parts that the recipes in this folder are made of."""

import math
import shutil
import time
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxtickets import config as config_lib
from jaxtickets import data, evaluation, models, snapshots, tickets, train, workdir
from jaxtickets import masks as mask_lib
from jaxtickets.data import batches
from jaxtickets.errors import UserError
from jaxtickets.experiments.verdict import judge
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.progress import Progress
from jaxtickets.train import TrainState


class Run:
    """Trains, records and restores rounds. A round that is finished is never done again.

    Attributes:
      config: the validated config.
      steps: the steps of a whole training.
      rewind_step: the step of the rewind point.
      dense_masks: the masks that keep everything.
      trained: the state at the end of the latest round, its pruned weights exactly zero.
    """

    def __init__(self, config, path: Path):
        self.config, self.path = config, path
        shared = {"dtype": jnp.dtype(config.dtype), "axis_name": train.AXIS if config.sync_batch_norm else None}
        conditional, channels = config.model.conditional, data.channels(config.data.name)
        classes = data.classes(config.data.name, config.data.dir or None) if conditional else 0
        components = models.build(config.model, channels, classes, **shared)
        self._uses = models.kernel_uses(components)
        self._objective = OBJECTIVES[config.objective.name](components, config.objective)
        optimizers = train.make_optimizers(self._objective, config.optimizer)
        params = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))[0]
        self.dense_masks = mask_lib.ones(params, config.prune.include, config.prune.exclude)

        load = partial(
            data.load, config.data.name, image_size=config.model.image_size, data_dir=config.data.dir or None
        )
        training, held_out = load(split="train"), load(split="test").images
        self._images, self._labels = training.images, training.labels if conditional else None
        self.steps = config_lib.resolve_steps(config, len(self._images))
        self.rewind_step = config_lib.resolve_rewind_step(config, self.steps)

        workdir.create(path, config_lib.to_dict(config))
        self.initial_state = jax.device_get(train.init_state(self._objective, optimizers, config.seed))
        if not snapshots.exists(path / "snapshots" / "init"):
            snapshots.save(path / "snapshots" / "init", self.initial_state)
        self._rows = workdir.read_csv(path / "rounds.csv")
        self._layers = [row for row in workdir.read_csv(path / "layers.csv") if row["round"] < len(self._rows)]
        self._last = snapshots.LastState(path / "snapshots" / "last")
        self._resumed = self._last.restore(self.initial_state)
        self.trained: TrainState | None = self._resumed[1] if self._resumed else None
        self._scalars = workdir.Scalars(path, keep=self._is_behind)
        self._evaluator = evaluation.make_evaluator(self._objective, config, self._images, held_out)
        rounds = config.prune.rounds if config.experiment != "dense" else 0
        self._progress = Progress(rounds + 1, self.steps)
        settings = {"flip": config.data.flip, "ema_decay": config.objective.ema_decay}
        self._steps = {  # One for each set of players that move together.
            moving: self._compile(train.make_step(self._objective, optimizers, moving, **settings))
            for moving in {train.movers(self._objective, step): None for step in range(config.objective.n_critic)}
        }

    def __enter__(self):
        self._progress.__enter__()
        return self

    def __exit__(self, *exception):
        self._progress.__exit__(*exception)
        self._scalars.close()
        self._last.close()

    def _is_behind(self, round_, step):
        """Whether a logged step lies before the point where this run goes on."""
        going_on = self._resumed and self._resumed[0] == len(self._rows)
        return round_ < len(self._rows) or (going_on and round_ == len(self._rows) and step <= self._resumed[1].step)

    # Batches and the compiled step.

    @cached_property
    def _resident_data(self):
        """The images and labels on the devices, or None if they stream from the host."""
        placement = self.config.data.placement
        on_device = placement == "device" or (placement == "auto" and batches.fits_on_device(self._images))
        return train.replicate((np.asarray(self._images), self._labels)) if on_device else None

    def _batches(self, start, stop):
        config, devices = self.config, jax.local_device_count()
        chosen = batches.indices(config.seed, start, stop, len(self._images), config.train.batch_size)
        if self._resident_data is None:
            return batches.streamed((self._images, self._labels), chosen, devices)
        return batches.resident(self._resident_data, chosen, devices)

    def _compile(self, step):
        """Ahead of time and once: a later round of another shape is an error, not a second compilation."""
        started = time.perf_counter()
        state, masks = train.replicate(self.initial_state), train.replicate(self.dense_masks)
        compiled = step.lower(state, masks, *next(self._batches(0, 1))).compile()
        self._progress.say(f"compiled the train step in {time.perf_counter() - started:.1f} s")
        return compiled

    # Rounds.

    def saved_masks(self, round_: int):
        """The masks that the round has started with, or None if it has not started."""
        path = self._masks_path(round_)
        return snapshots.restore_masks(path, self.dense_masks) if snapshots.exists(path) else None

    def _masks_path(self, round_):
        return self.path / "masks" / f"{round_:03d}"

    @cached_property
    def rewind_point(self) -> TrainState:
        """The dense run's state at `rewind_step`; only there after that step."""
        return snapshots.restore(self.path / "snapshots" / "rewind", self.initial_state)

    def round(self, round_: int, masks, start: TrainState) -> None:
        """Trains from `start` under `masks` to the end and records the result; nothing if it is recorded already."""
        if round_ < len(self._rows):
            return
        snapshots.save_masks(self._masks_path(round_), masks)
        first_step, seconds = int(start.step), 0.0
        if self._resumed and self._resumed[0] == round_:
            _, start, seconds = self._resumed
        self.trained, seconds = self._train(round_, masks, start, seconds)
        self._last.save(round_, self.trained, seconds)
        self._record(round_, masks, seconds, (self.steps - first_step) / seconds)

    def _train(self, round_, masks, start, seconds):
        config, step = self.config.train, int(start.step)
        self._progress.start_round(round_, mask_lib.sparsity(masks), step)
        if round_ == 0 and step == self.rewind_step:
            snapshots.save(self.path / "snapshots" / "rewind", start)
        state, masks = train.replicate(start), train.replicate(masks)
        started, unread = time.perf_counter() - seconds, None
        for data_, indices in self._batches(step, self.steps):
            state, scalars = self._steps[train.movers(self._objective, step)](state, masks, data_, indices)
            step += 1
            if step % config.log_every == 0 or step == self.steps:
                # What was computed a while ago is read now, so that the devices never wait for the host.
                self._log(unread)
                unread = (round_, step, time.perf_counter() - started, scalars)
            if round_ == 0 and step == self.rewind_step:
                snapshots.save(self.path / "snapshots" / "rewind", train.unreplicate(state))
            if config.checkpoint_every and step % config.checkpoint_every == 0 and step < self.steps:
                self._log(unread)  # A run that goes on from here will not compute these again.
                unread = None
                self._last.save(round_, train.unreplicate(state), time.perf_counter() - started)
        self._log(unread)
        return train.unreplicate(state), time.perf_counter() - started

    def _log(self, unread):
        if unread is None:
            return
        round_, step, seconds, scalars = unread
        scalars = {name: float(values[0]) for name, values in scalars.items()}
        for name, value in scalars.items():
            if not math.isfinite(value):
                raise UserError(
                    f"training diverged: {name} is {value} at step {step} of round {round_}; "
                    "a lower config.optimizer.learning_rate may help"
                )
        self._scalars.write(round_, step, "train", seconds, scalars)
        self._progress.update(round_, step, scalars)

    def _record(self, round_, masks, seconds, steps_per_second):
        params, batch_stats = train.evaluated(self.trained)
        params = mask_lib.apply(params, masks)
        metrics = self._evaluator.evaluate(params, batch_stats)
        samples = self._evaluator.samples(params, batch_stats)
        self._save_samples(round_, samples)

        layers = mask_lib.layer_counts(masks)
        weights, kept = mask_lib.counts(masks)
        n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        sizes = {name: leaf.size for name, leaf in mask_lib.named_leaves(params).items()}
        left = sizes | {name: layer.kept for name, layer in layers.items()}
        row = {
            "round": round_,
            "sparsity": mask_lib.sparsity(masks),
            "sparsity_all": mask_lib.sparsity_all(masks, params),
            "density": kept / weights,
            **metrics,
            "flops_dense": sum(2 * uses * sizes[name] for name, uses in self._uses.items()),
            "flops_effective": sum(2 * uses * left[name] for name, uses in self._uses.items()),
            "params_kept": n_params - weights + kept,
            "train_seconds": round(seconds, 3),
            "steps_per_second": round(steps_per_second, 3),
        }
        self._scalars.write(round_, self.steps, "test", seconds, metrics)
        self._scalars.write_round(round_, row, samples)
        self._layers += [
            {"round": round_, "layer": name, "weights": layer.weights, "kept": layer.kept}
            for name, layer in layers.items()
        ]
        workdir.write_csv(self.path / "layers.csv", self._layers)
        # A round counts as finished once its row is there, so the state that the next round needs comes first.
        self._last.wait()
        self._rows.append(row)
        workdir.write_csv(self.path / "rounds.csv", self._rows)
        main = self._evaluator.metric
        self._progress.say(
            f"round {round_}: {row['sparsity']:.2%} sparse, {main} {metrics[main]:.4g}, {seconds:.1f} s of training"
        )

    def _save_samples(self, round_, samples):
        path = self.path / "samples" / f"round_{round_:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(samples).save(path)

    def finish(self) -> dict:
        """The verdict over all rounds, saved as `verdict.json`, with the winning ticket in a file if there is one."""
        verdict = judge(self._rows, self._evaluator.metric, self._evaluator.label, self.config.tolerance)
        winner = self.path / "ticket.safetensors"
        winner.unlink(missing_ok=True)
        if verdict["winning_round"] is not None:
            metadata = {"config": config_lib.to_dict(self.config), "verdict": verdict}
            tickets.save_ticket(winner, self.saved_masks(verdict["winning_round"]), self.rewind_point, metadata)
        workdir.write_json(self.path / "verdict.json", verdict)
        return verdict


def discard_from(path: Path, round_: int) -> None:
    """Takes a workdir back to the start of `round_`: its masks stay, its results and all later rounds go.

    Raises:
      UserError: the round has not been finished.
    """
    rows = workdir.read_csv(path / "rounds.csv")
    if not 0 <= round_ < len(rows):
        finished = f"0 to {len(rows) - 1}" if rows else "none yet"
        raise UserError(f"--from_round={round_}: no such finished round in {path}; allowed are {finished}")
    # The tables first: a round without a row is run again whatever else is there.
    for name in ("rounds.csv", "layers.csv"):
        workdir.write_csv(path / name, [row for row in workdir.read_csv(path / name) if row["round"] < round_])
    results = [path / "verdict.json", path / "ticket.safetensors", *sorted((path / "samples").iterdir())[round_:]]
    for result in results:
        result.unlink(missing_ok=True)
    for later in sorted((path / "masks").iterdir())[round_ + 1 :]:
        shutil.rmtree(later)
    shutil.rmtree(path / "snapshots" / "last" if round_ else path / "snapshots")
