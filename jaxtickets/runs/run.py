"""The run of one seed in one workdir: it trains, records and restores rounds for the recipes in `experiments/`."""

from functools import cached_property, partial

import jax

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import pruning, snapshots, train, trained
from jaxtickets.progress import Progress
from jaxtickets.runs import hooks, nested, record, scoring
from jaxtickets.runs.setup import Setup
from jaxtickets.train import TrainState
from jaxtickets.workdir import Workdir


class Run:
    """What `experiments.protocol.Run` promises. A round that is finished is never done again.

    Attributes, beside those of the protocol:
      setup: what it shares with the runs of other seeds.
    """

    def __init__(
        self,
        setup: Setup,
        place: Workdir,
        seed: int | None = None,
        progress=None,
        initial_state=None,
        is_inner: bool = False,
    ):
        """A run within another's round (`is_inner`) shows its progress as a part of that one's (`Progress.within`).

        It may start from an `initial_state` in the place of the seed's initialisation, and has no references.
        """
        self.setup, self.networks, self.place, self._is_inner = setup, setup, place, is_inner
        self.config = setup.config.copy_and_resolve_references()
        self.config.update(seeds=1, tickets_per_host=1, seed=setup.config.seed if seed is None else seed)
        self.config.confidence = config_lib.get_config().confidence  # Read over several seeds only.
        self.seed, self.levels, self.timeline = self.config.seed, setup.levels, setup.timeline
        self.dense_masks = setup.dense_masks
        place.create(config_lib.to_dict(self.config), setup.json_defaults, setup.about)
        self.initial_state = self.fresh_state(self.seed) if initial_state is None else initial_state
        if snapshots.exists(place.snapshot("init")):  # An older version may have initialised in another way.
            self.initial_state = snapshots.restore(place.snapshot("init"), self.initial_state)
        else:
            snapshots.save(place.snapshot("init"), self.initial_state)
        self._rows = place.read_rounds()
        self._layers = [row for row in place.read_layers() if row["round"] < len(self._rows)]
        self._last, self._resumed = self._open("last")
        self.trained: TrainState | None = self._resumed.state if self._resumed else None
        self._last_search, self._resumed_search = self._open("search") if self.timeline.search_steps else (None, None)
        self._scalars = place.open_scalars(keep=self._is_behind)
        self._progress = progress or Progress(len(self.levels), self.timeline.steps)

    def _open(self, name):
        """The saved states of that name, and the newest of them."""
        last = snapshots.LastState(self.place.snapshot(name))
        return last, last.restore(self.initial_state, self.dense_masks)

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
        if row["split"] == "search" and snapshots.exists(self.place.masks(row["round"])):
            return True
        last = self._resumed_search if row["split"] == "search" else self._resumed
        return last is not None and last.round == row["round"] and row["step"] <= last.state.step

    def expect(self, rounds: int) -> None:
        """Tells how many rounds there will be, where that is not the number of levels."""
        self._progress.expect(rounds)

    def within(self, round_: int, setup: Setup, place: Workdir, initial_state=None) -> "Run":
        """A run of another setup that trains a round of this run, in a workdir within this one's."""
        return Run(setup, place, self.seed, self._progress.within(round_), initial_state, is_inner=True)

    # Masks and the states that rounds start from.

    def fresh_state(self, seed: int) -> TrainState:
        """The train state before the first step with the weights of a seed."""
        return self.setup.init(seed)

    def saved_masks(self, round_: int):
        """The masks that the round was trained under (those that it has started with, while it is not finished).

        None if it has not started.
        """
        path = self.place.masks(round_)
        return snapshots.restore_masks(path, self.dense_masks) if snapshots.exists(path) else None

    def pruned(self, round_: int, masks, state: TrainState):
        """`masks` pruned to the level of the round, by the weights of `state`; nothing is scored a second time."""
        return self.saved_masks(round_) or scoring.pruned(self, state, masks, self.levels[round_])

    def gradients(self, state: TrainState, masks, step: int):
        """The gradients of the losses of the batch after `step` steps, those of pruned weights too."""
        batches = [self.setup.scoring_batch(state, masks, step)]
        return pruning.gradients(state.params, masks, self.setup.losses, batches)

    @cached_property
    def rewind_point(self) -> TrainState:
        """The dense run's state at the rewind step; only there after that step."""
        return snapshots.restore(self.place.snapshot("rewind"), self.initial_state)

    def start_from(self, point: TrainState) -> None:
        """Makes `point` the rewind point: that of another run, or another initialisation."""
        snapshots.save(self.place.snapshot("rewind"), point)
        self.rewind_point = point

    @cached_property
    def dense(self) -> TrainState:
        """The state at the end of the dense run, which is round 0.

        Raises:
          ValueError: round 0 has not been trained yet.
        """
        if not snapshots.exists(self.place.snapshot("dense")):
            raise ValueError(f"{self.config.experiment}: round 0 comes first: there is no trained dense network yet")
        return snapshots.restore(self.place.snapshot("dense"), self.initial_state)

    def rewound(self, masks, trained: TrainState) -> TrainState:
        """`trained` rewound as `config.rewind` says, under `masks`.

        state: all goes back to the rewind point. weights: parameters, batch statistics and the step; moments start at
        zero. learning_rate: the step alone, and with it the learning rate (Renda, Frankle, Carbin 2020).
        none: nothing, so that training goes on at the last learning rate (fine-tuning).
        Components that the objective keeps (`Objective.kept`) are those of the trained dense run.
        """
        point, kind = self.rewind_point, self.config.rewind
        if kind == "weights":
            point = point.replace(opt_state=self.initial_state.opt_state)
        elif kind == "learning_rate":
            point = trained.replace(step=point.step)
        start = trained if kind == "none" else point
        if kept := self.networks.objective.kept:
            players = self.networks.objective.players.items()
            names = {"params": kept, "batch_stats": kept}
            names["opt_state"] = [name for name, player in players if set(player.components) <= set(kept)]
            trees = {
                field: getattr(start, field) | {name: getattr(self.dense, field)[name] for name in own}
                for field, own in names.items()
            }
            start = start.replace(**trees)
        return train.rewind(start, masks)

    # Rounds.

    def is_finished(self, round_: int) -> bool:
        """Whether the round is recorded."""
        return round_ < len(self._rows)

    def round(self, round_: int, masks, start: TrainState, update=None, seconds: float = 0.0, columns=None) -> None:
        """Trains from `start` under `masks` to the end and records the result; nothing if it is recorded already.

        If `start` is at the last step, training adds the steps that follow the rewind point.
        `update(step, state, masks) -> masks` changes the masks before the timeline's `update_steps`. `seconds` of
        training have led to `start` within this round; `columns` are added to the row.
        """
        if self.is_finished(round_):
            return
        self._check_next(round_, columns or {})
        snapshots.save_masks(self.place.masks(round_), masks)
        steps, first_step = self.timeline.steps, int(start.step)
        length = steps - (first_step if first_step < steps else self.timeline.rewind_step)
        stop, before = first_step + length, seconds
        if self._resumed and self._resumed.round == round_:
            _, start, masks, stop, seconds = self._resumed
        if update and not self.timeline.update_steps:
            raise ValueError(f"{self.config.experiment}: masks are to change in training, at no update steps")
        self.trained, masks, seconds = self._train(round_, masks, start, stop, seconds, update=update)
        if round_ == 0:
            snapshots.save(self.place.snapshot("dense"), self.trained)
        if update:
            snapshots.save_masks(self.place.masks(round_), masks)
        self._last.save(round_, self.trained, masks, stop, seconds)
        self._evaluate(round_, masks, seconds, length / (seconds - before), columns or {})

    def _check_next(self, round_, columns):
        """Refuses what a recipe must not do: leave out a round, or add a column that its method has not declared."""
        if round_ != len(self._rows):
            raise ValueError(f"{self.config.experiment}: round {round_} can't follow; the next is {len(self._rows)}")
        declared = config_lib.method(self.config).columns
        if undeclared := columns.keys() - declared.keys():
            raise ValueError(f"{self.config.experiment}: `Method.columns` lacks {', '.join(sorted(undeclared))}")

    def search(self, round_: int, draw, l1=None) -> TrainState:
        """Trains the dense network from its initialisation until `draw(state, seconds)` says that it is enough.

        `draw` is called at the timeline's `search_steps`. A search that was interrupted goes on from the last saved
        state. Returns the state at the end. `l1` is that of `train.step_function`.
        """
        state, seconds, steps = self.initial_state, 0.0, self.timeline.search_steps
        if self._resumed_search and self._resumed_search.round == round_:
            _, state, _, _, seconds = self._resumed_search
        return self._train(round_, self.dense_masks, state, steps[-1], seconds, draw=draw, l1=l1)[0]

    def end_search(self, round_: int, masks, state: TrainState) -> None:
        """Saves what a search has ended with, so that it is not done again."""
        snapshots.save(self.place.search_end(round_), state)
        snapshots.save_masks(self.place.masks(round_), masks)

    def search_end(self, round_: int) -> TrainState:
        """Restores the train state saved when the search of `round_` ended."""
        return snapshots.restore(self.place.search_end(round_), self.initial_state)

    def _train(self, round_, masks, start, stop, seconds, update=None, draw=None, l1=None):
        """Trains to `stop`, or in a search until `draw` ends it: `(state on the host, masks, seconds)`."""
        options, setup, timeline, step = self.config.train, self.setup, self.timeline, int(start.step)
        is_search, devices = draw is not None, self.setup.devices
        split, what = ("search", "searching") if is_search else ("train", f"{mask_lib.sparsity(masks):.1%} sparse")
        self._progress.start_round(round_, what, step, stop)

        def write(step, seconds, scalars):
            self.log(round_, step, split, seconds, scalars)
            self._progress.update(round_, step, scalars)

        also = timeline.search_steps if is_search else ()
        log = hooks.Log(write, round_, options.log_every, stop, also)
        last = self._last_search if is_search else self._last
        rewind = self.place.snapshot("rewind") if round_ == 0 else None
        all_hooks = [
            log.hook,
            hooks.checkpoints(last, log, round_, options.checkpoint_every, stop),
            hooks.snapshot(rewind, timeline.rewind_step),
            hooks.mask_updates(update, timeline.update_steps, stop, devices),
        ]
        if is_search:
            all_hooks.append(hooks.search(draw, timeline.search_steps))
        programs = setup.penalized_programs(l1)
        if step < stop:
            programs.get(step)  # Compiled before the clock starts.
        end = train.train(
            programs.get,
            partial(setup.batches, self.seed),
            start,
            masks,
            stop,
            all_hooks,
            steps_per_call=timeline.steps_per_call,
            teacher=self._teacher(round_),
            seconds=seconds,
            devices=devices,
        )
        log.flush()
        return end.host_state(), end.masks, end.clock.seconds()

    def _teacher(self, round_):
        """The trained dense components that the losses ask for; in round 0 the initial ones, with weight 0."""
        if not self.networks.objective.teacher:
            return None
        return self.setup.teacher(*((self.dense, 1.0) if round_ else (self.initial_state, 0.0)))

    def compacted_round(self, round_: int, masks, start: TrainState, seconds: float = 0.0, columns=None) -> None:
        """Does what `round` does with the pruned channels taken out (`nested.train_compacted`)."""
        if not self.is_finished(round_):
            self._check_next(round_, columns or {})
        nested.train_compacted(self, round_, masks, start, seconds, columns)

    def narrow_round(self, row: dict) -> None:
        """Trains a dense network with as many parameters as a ticket's `row` keeps (`nested.train_narrow`)."""
        if not self.is_finished(row["round"]):
            self._check_next(row["round"], {})
        nested.train_narrow(self, row)

    # The record.

    def _evaluate(self, round_, masks, seconds, steps_per_second, columns):
        """Takes the metrics and samples of `trained`, and records the round."""
        params, batch_stats = train.evaluated(self.trained)
        trained.save(self.place.weights(round_), params, batch_stats, masks, self.networks.json_network)
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
            "flops_dense": self.networks.flops(),
            "flops_effective": self.networks.flops(masks),
            "params_kept": n_params - weights + kept,
            "train_seconds": round(seconds, 3),
            "steps_per_second": round(steps_per_second, 3),
            "step_bytes": self.setup.step_bytes,
            **columns,
        }
        self.log(round_, int(self.trained.step), "test", seconds, metrics)
        # A round counts as finished once its row is there, so the state that the next round needs comes first.
        self._last.wait()
        self.record(row, nested.counts_of_layers(masks), samples)

    def log(self, round_: int, step: int, split: str, seconds: float, scalars: dict[str, float]) -> None:
        """Writes a row of `metrics.jsonl`."""
        self._scalars.write(round_, step, split, seconds, scalars)

    def record(self, row: dict, layers: list[dict], samples) -> None:
        """Records a round: its row of `rounds.csv`, its rows of `layers.csv` and its sample grid `[h, w, 3]` uint8."""
        round_ = row["round"]
        if self.is_finished(round_):
            return
        self._check_next(round_, {})
        if round_ == 0 and not self._is_inner:
            record.write_references(self)
        self.place.write_samples(round_, samples)
        self._scalars.write_round(round_, row, samples)
        self._layers += [{"round": round_, **layer} for layer in layers]
        self.place.write_layers(self._layers)
        self._rows.append(row)
        self.place.write_rounds(self._rows)
        main, seconds = self.setup.evaluator.metric, row["train_seconds"]
        self._progress.say(
            f"round {round_}: {row['sparsity']:.2%} sparse, {main} {row[main]:.4g}, {seconds:.1f} s of training"
        )

    def adopt(self, place: Workdir, row: dict, round_: int) -> None:
        """Records the round `row` of another workdir as a round of this run."""
        nested.adopt(self, place, row, round_)

    def finish(self) -> dict:
        """The verdict over all rounds, saved in the workdir, with the ticket file and the weights that are kept."""
        if not self._rows:
            raise ValueError(f"{self.config.experiment}: its recipe has trained no round")
        if not self.place.is_finished and not self._is_inner:
            record.write_references(self)  # A run that an older version has begun has none.
        return record.finish(self, self._rows)
