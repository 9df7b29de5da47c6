"""One run in one workdir: the parts that the recipes in this folder are made of."""

import math
import shutil
import time
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import snapshots, tickets, train, workdir
from jaxtickets.errors import UserError
from jaxtickets.experiments.scoring import pruned
from jaxtickets.experiments.setup import Setup, StoppedError
from jaxtickets.experiments.verdict import judge
from jaxtickets.progress import Progress
from jaxtickets.train import TrainState


class Run:
    """Trains, records and restores rounds. A round that is finished is never done again.

    Attributes:
      setup: what it shares with the runs of other seeds.
      config: the validated config, with this run's seed.
      levels: the level of each round.
      initial_state: the state before the first step.
      trained: the state at the end of the latest round, its pruned weights exactly zero.
    """

    def __init__(self, setup: Setup, path: Path, seed: int | None = None, progress=None, initial_state=None):
        """A run within another's round shows its progress as a part of that one's (`Run.progress_within`).

        It may start from an `initial_state` in the place of the seed's initialisation.
        """
        self.setup, self.path = setup, path
        self.config = setup.config.copy_and_resolve_references()
        self.config.update(seeds=1, tickets_per_host=1, seed=setup.config.seed if seed is None else seed)
        self.config.confidence = config_lib.get_config().confidence  # Read over several seeds only.
        self.seed, self.levels = self.config.seed, setup.levels
        workdir.create(path, config_lib.to_dict(self.config))
        self.initial_state = setup.init(self.seed) if initial_state is None else initial_state
        if not snapshots.exists(path / "snapshots" / "init"):
            snapshots.save(path / "snapshots" / "init", self.initial_state)
        self._rows = workdir.read_csv(path / "rounds.csv")
        self._layers = [row for row in workdir.read_csv(path / "layers.csv") if row["round"] < len(self._rows)]
        self._last = snapshots.LastState(path / "snapshots" / "last")
        self._resumed = self._last.restore(self.initial_state, setup.dense_masks)
        self.trained: TrainState | None = self._resumed.state if self._resumed else None
        is_search = self.config.experiment == "early_bird"
        self._last_search = snapshots.LastState(path / "snapshots" / "search") if is_search else None
        self._resumed_search = self._last_search.restore(self.initial_state, setup.dense_masks) if is_search else None
        self._scalars = workdir.Scalars(path, keep=self._is_behind)
        self._progress = progress or Progress(len(self.levels), setup.steps)

    def __enter__(self):
        self._progress.__enter__()
        return self

    def __exit__(self, *exception):
        self._progress.__exit__(*exception)
        self._scalars.close()
        self._last.close()
        if self._last_search:
            self._last_search.close()

    def _is_behind(self, row):
        """Whether a logged row lies before the point where this run goes on."""
        if row["round"] != len(self._rows):
            return row["round"] < len(self._rows)
        if row["split"] == "search" and snapshots.exists(self.masks_path(row["round"])):
            return True
        last = self._resumed_search if row["split"] == "search" else self._resumed
        return last is not None and last.round == row["round"] and row["step"] <= last.state.step

    def expect(self, rounds: int) -> None:
        """Tells how many rounds there will be, where that is not the number of levels."""
        self._progress.expect(rounds)

    def progress_within(self, round_: int):
        """What a run within that round takes as its progress."""
        return self._progress.within(round_)

    # Masks and the states that rounds start from.

    @property
    def dense_masks(self):
        """The masks that keep everything."""
        return self.setup.dense_masks

    def saved_masks(self, round_: int):
        """The masks that the round was trained under (those that it has started with, while it is not finished).

        None if it has not started.
        """
        path = self.masks_path(round_)
        return snapshots.restore_masks(path, self.dense_masks) if snapshots.exists(path) else None

    def masks_path(self, round_: int) -> Path:
        """Where the round's masks are saved."""
        return self.path / "masks" / f"{round_:03d}"

    def pruned(self, round_: int, masks, state: TrainState):
        """`masks` pruned to the sparsity of the round, by the weights of `state`; nothing is scored a second time."""
        return self.saved_masks(round_) or pruned(self, state, masks, self.levels[round_])

    @cached_property
    def rewind_point(self) -> TrainState:
        """The dense run's state at the rewind step; only there after that step."""
        return snapshots.restore(self.path / "snapshots" / "rewind", self.initial_state)

    def start_from(self, point: TrainState) -> None:
        """Makes `point` the rewind point: that of another run, or another initialisation."""
        snapshots.save(self.path / "snapshots" / "rewind", point)
        self.rewind_point = point

    def search_path(self, round_: int) -> Path:
        """Where the state at the end of the search of an early-bird round is saved."""
        return self.path / "snapshots" / f"search_{round_:03d}"

    def search_end(self, round_: int) -> TrainState:
        """That state."""
        return snapshots.restore(self.search_path(round_), self.initial_state)

    @cached_property
    def dense(self) -> TrainState:
        """The state at the end of the dense run, which is round 0."""
        return snapshots.restore(self.path / "snapshots" / "dense", self.initial_state)

    def rewound(self, masks, trained: TrainState) -> TrainState:
        """`trained` rewound as `config.rewind` says, under `masks`.

        state: all goes back to the rewind point. weights: parameters, batch statistics and the step; moments start at
        zero. learning_rate: the step alone, and with it the learning rate (Renda, Frankle, Carbin 2020).
        none: nothing, so that training goes on at the last learning rate (fine-tuning).
        """
        point, kind = self.rewind_point, self.config.rewind
        if kind == "weights":
            point = point.replace(opt_state=self.initial_state.opt_state)
        elif kind == "learning_rate":
            point = trained.replace(step=point.step)
        start = trained if kind == "none" else point
        if not self.config.rewind_discriminator:
            trees = {
                field: {**getattr(start, field), "discriminator": getattr(self.dense, field)["discriminator"]}
                for field in ("params", "batch_stats", "opt_state")
            }
            start = start.replace(**trees)
        return train.rewind(start, masks)

    # Rounds.

    def is_finished(self, round_: int) -> bool:
        """Whether the round is recorded."""
        return round_ < len(self._rows)

    def round(self, round_: int, masks, start: TrainState, update=None, seconds: float = 0.0, columns=None) -> None:
        """Trains from `start` under `masks` to the end and records the result; nothing if it is recorded already.

        A state that is at the end of training already goes on for as many steps as lie behind the rewind point.
        `update(step, state, masks) -> masks` changes the masks in the setup's `update_steps`. `seconds` of training
        have led to `start` within this round; `columns` are added to the row.
        """
        if self.is_finished(round_):
            return
        snapshots.save_masks(self.masks_path(round_), masks)
        steps, first_step = self.setup.steps, int(start.step)
        length = steps - (first_step if first_step < steps else self.setup.rewind_step)
        stop, before = first_step + length, seconds
        if self._resumed and self._resumed.round == round_:
            _, start, masks, stop, seconds = self._resumed
        self.trained, masks, seconds = self._train(round_, masks, start, stop, seconds, self._last, update)
        if round_ == 0:
            snapshots.save(self.path / "snapshots" / "dense", self.trained)
        if update:
            snapshots.save_masks(self.masks_path(round_), masks)
        self._last.save(round_, self.trained, masks, stop, seconds)
        self._record(round_, masks, seconds, length / (seconds - before), columns or {})

    def searched(self, round_: int, stops):
        """Trains the dense network from its initialisation and yields `(state, seconds)` at each of the steps `stops`.

        A search that was interrupted goes on from the last saved state, at the first stop that is not behind it.
        """
        state, seconds = self.initial_state, 0.0
        if self._resumed_search and self._resumed_search.round == round_:
            _, state, _, _, seconds = self._resumed_search
        for stop in stops:
            if stop > state.step:
                masks = self.dense_masks
                state, _, seconds = self._train(round_, masks, state, stop, seconds, self._last_search, split="search")
            if stop == state.step:
                yield state, seconds

    def _train(self, round_, masks, start, stop, seconds, last, update=None, split="train"):
        config, setup, step = self.config.train, self.setup, int(start.step)
        what = "searching" if split == "search" else f"{mask_lib.sparsity(masks):.1%} sparse"
        self._progress.start_round(round_, what, step, stop)
        if round_ == 0 and step == setup.rewind_step:
            snapshots.save(self.path / "snapshots" / "rewind", start)
        is_search = split == "search"
        if step < stop:
            setup.step(step, is_search)  # Compiled before the clock starts.
        teacher = setup.replicate(self._teacher(round_))
        state, on_device = setup.replicate(start), setup.replicate(masks)
        started, unread = time.perf_counter() - seconds, None
        for block, data_, indices in setup.batches(self.seed, step, stop):
            if setup.stopped.is_set():
                raise StoppedError
            if update and step in setup.update_steps:
                before = train.unreplicate(state)
                masks = update(step, before, masks)
                state, on_device = setup.replicate(train.rewind(before, masks)), setup.replicate(masks)
            program = setup.step(step, is_search, len(block))
            state, scalars = program(state, on_device, data_, indices, teacher)
            step = block.stop
            if step % config.log_every == 0 or step == stop:
                # What was computed a while ago is read now, so that the devices never wait for the host.
                self._log(unread)
                unread = (round_, step, split, time.perf_counter() - started, scalars)
            if round_ == 0 and step == setup.rewind_step:
                snapshots.save(self.path / "snapshots" / "rewind", train.unreplicate(state))
            if config.checkpoint_every and step % config.checkpoint_every == 0 and step < stop:
                self._log(unread)  # A run that goes on from here will not compute these again.
                unread = None
                last.save(round_, train.unreplicate(state), masks, stop, time.perf_counter() - started)
        self._log(unread)
        return train.unreplicate(state), masks, time.perf_counter() - started

    def _teacher(self, round_):
        """The dense run's discriminator; in the dense run itself one that nobody listens to."""
        weight = self.config.objective.distillation
        return self.setup.teacher(*((self.dense, weight) if round_ and weight else (self.initial_state, 0.0)))

    def _log(self, unread):
        if unread is None:
            return
        round_, step, split, seconds, scalars = unread
        scalars = {name: float(values[0]) for name, values in scalars.items()}
        for name, value in scalars.items():
            if not math.isfinite(value):
                raise UserError(
                    f"training diverged: {name} is {value} at step {step} of round {round_}; "
                    "a lower config.optimizer.learning_rate may help"
                )
        self.log(round_, step, split, seconds, scalars)
        self._progress.update(round_, step, scalars)

    def _record(self, round_, masks, seconds, steps_per_second, columns):
        params, batch_stats = train.evaluated(self.trained)
        # Moved once; arrays on the host would be sent with every batch.
        params, batch_stats = jax.device_put((mask_lib.apply(params, masks), batch_stats))
        metrics = self.setup.evaluator.evaluate(params, batch_stats, self.seed)
        samples = self.setup.evaluator.samples(params, batch_stats, self.seed)
        weights, kept = mask_lib.counts(masks)
        n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        row = {
            "round": round_,
            "sparsity": mask_lib.sparsity(masks),
            "sparsity_all": mask_lib.sparsity_all(masks, params),
            "density": kept / weights,
            **metrics,
            "flops_dense": self.setup.flops(),
            "flops_effective": self.setup.flops(masks),
            "params_kept": n_params - weights + kept,
            "train_seconds": round(seconds, 3),
            "steps_per_second": round(steps_per_second, 3),
            "step_bytes": self.setup.step_bytes,
            **columns,
        }
        self.log(round_, int(self.trained.step), "test", seconds, metrics)
        # A round counts as finished once its row is there, so the state that the next round needs comes first.
        self._last.wait()
        self.adopt(row, counts_of_layers(masks), samples)

    def log(self, round_: int, step: int, split: str, seconds: float, scalars: dict[str, float]) -> None:
        """Writes a row of `metrics.jsonl`."""
        self._scalars.write(round_, step, split, seconds, scalars)

    def adopt(self, row: dict, layers: list[dict], samples: np.ndarray) -> None:
        """Records a round: its row of `rounds.csv`, its rows of `layers.csv` and its sample grid `[h, w, 3]` uint8."""
        round_ = row["round"]
        if self.is_finished(round_):
            return
        path = self.path / "samples" / f"round_{round_:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(samples).save(path)
        self._scalars.write_round(round_, row, samples)
        self._layers += [{"round": round_, **layer} for layer in layers]
        workdir.write_csv(self.path / "layers.csv", self._layers)
        self._rows.append(row)
        workdir.write_csv(self.path / "rounds.csv", self._rows)
        main, seconds = self.setup.evaluator.metric, row["train_seconds"]
        self._progress.say(
            f"round {round_}: {row['sparsity']:.2%} sparse, {main} {row[main]:.4g}, {seconds:.1f} s of training"
        )

    def finish(self) -> dict:
        """The verdict over all rounds, saved as `verdict.json`, with the winning ticket in a file if there is one."""
        evaluator = self.setup.evaluator
        tolerance, subject = self.config.tolerance, config_lib.subject(self.config)
        verdict = judge(self._rows, evaluator.metric, evaluator.label, tolerance, subject)
        winner = self.path / "ticket.safetensors"
        winner.unlink(missing_ok=True)
        round_ = verdict["winning_round"]
        if round_ is not None and (masks := self.saved_masks(round_)) is not None:
            metadata = {"config": config_lib.to_dict(self.config), "verdict": verdict}
            went_on = self._last_search and self.config.rewind == "none"
            tickets.save_ticket(winner, masks, self.search_end(round_) if went_on else self.rewind_point, metadata)
        workdir.write_json(self.path / "verdict.json", verdict)
        return verdict


def counts_of_layers(masks) -> list[dict]:
    """The rows of `layers.csv` but for their round."""
    layers = mask_lib.layer_counts(masks).items()
    return [{"layer": name, "weights": layer.weights, "kept": layer.kept} for name, layer in layers]


def check_finished(path: Path, round_: int) -> None:
    """Refuses to go back to a round that the run in the workdir `path` has not finished.

    Raises:
      UserError: as said.
    """
    rows = workdir.read_csv(path / "rounds.csv")
    if not 0 <= round_ < len(rows):
        finished = f"0 to {len(rows) - 1}" if rows else "none yet"
        raise UserError(f"--from_round={round_}: no such finished round in {path}; allowed are {finished}")


def discard_from(path: Path, round_: int) -> None:
    """Takes a workdir back to the start of `round_`: its masks stay, its results and all later rounds go.

    Raises:
      UserError: the round has not been finished.
    """
    check_finished(path, round_)
    # The tables first: a round without a row is run again whatever else is there.
    for name in ("rounds.csv", "layers.csv"):
        workdir.write_csv(path / name, [row for row in workdir.read_csv(path / name) if row["round"] < round_])
    results = [path / "verdict.json", path / "ticket.safetensors", *sorted((path / "samples").iterdir())[round_:]]
    for result in results:
        result.unlink(missing_ok=True)
    masks = [place for place in (path / "masks").glob("*") if int(place.name) > round_]
    inner = [
        place
        for name in ("dense_", "compact_")
        for place in path.glob(f"{name}*")
        if int(place.name.removeprefix(name)) >= round_
    ]
    for search in path.glob("search/*"):
        if not round_ or int(search.name[:3]) > round_:
            search.unlink()
    ends = [place for place in path.glob("snapshots/search_*") if int(place.name.removeprefix("search_")) > round_]
    states = [*ends, path / "snapshots" / "search", path / "snapshots" / "last"] if round_ else [path / "snapshots"]
    for later in filter(Path.exists, (*masks, *inner, *states)):
        shutil.rmtree(later)
