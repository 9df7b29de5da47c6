"""The run of one seed in one workdir: it trains, records and restores rounds for the recipes in `experiments/`."""

from functools import cached_property

import jax

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import pruning, snapshots, train, trained
from jaxtickets.finite import DivergedError
from jaxtickets.progress import Progress
from jaxtickets.runs import diverging, nested, record, rewinding, saved, scoring, training
from jaxtickets.runs.setup import Setup
from jaxtickets.snapshots import Last
from jaxtickets.train import TrainState
from jaxtickets.workdir import Workdir


class Run:
    """What `experiments.protocol.Run` promises. A round that is finished is never done again.

    Attributes, beside those of the protocol:
      setup: what it shares with the runs of other seeds.
      is_inner: whether it trains a round of another run.
      rows: the rows of `rounds.csv`.
      resumed: the saved state from which the run goes on, or None.
      divergences: the rows of `metrics.jsonl` that tell of divergence in the round that is not finished.
      progress: where its steps and its rounds are shown.
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
        self.setup, self.networks, self.place, self.is_inner = setup, setup, place, is_inner
        self.config = setup.config.copy_and_resolve_references()
        self.seed = setup.config.seed if seed is None else seed
        self.config.update(seed=self.seed, seeds=1, tickets_per_host=1, tickets_per_device=1)
        self.config.confidence = config_lib.get_config().confidence  # Read over several seeds only.
        self.levels, self.timeline, self.dense_masks = setup.levels, setup.timeline, setup.dense_masks
        place.create(config_lib.to_dict(self.config), setup.json_defaults, setup.about, config_lib.refused)
        saved.recover(place)
        made = self.fresh_state(self.seed) if initial_state is None else initial_state
        self.initial_state = saved.initial_state(self, made)
        self.rows = place.read_rounds()
        self._layers = [row for row in place.read_layers() if row["round"] < len(self.rows)]
        self._last, self.resumed = saved.last(self, "last")
        self.trained: TrainState | None = self.resumed.state if self.resumed else None
        searches = bool(self.timeline.search_steps)
        self._last_search, self._resumed_search = saved.last(self, "search") if searches else (None, None)
        if (search := self._resumed_search) and not self.has_searched(search.round):
            self._resumed_search = search if saved.is_whole_search(self, search) else None
        self.divergences = diverging.noted(self, (self.resumed, self._resumed_search))
        self._scalars = place.open_scalars(keep=self._is_behind)
        self.progress = progress or Progress(len(self.levels), self.timeline.steps)

    def __enter__(self):
        self.progress.__enter__()
        return self

    def __exit__(self, *exception):
        self.progress.__exit__(*exception)
        saved.close(filter(None, (self._scalars, self._last, self._last_search)), has_failed=exception[0] is not None)

    def _is_behind(self, row):
        """Whether a logged row lies before the point where this run goes on."""
        if row["round"] != len(self.rows):
            return row["round"] < len(self.rows)
        if row["split"] == "test":  # It is written again with the row of the table, before which a kill has come.
            return False
        if row["split"] == diverging.SPLIT:
            return row in self.divergences
        if row["split"] == "search" and self.has_searched(row["round"]):
            return True
        if row["split"] == "train" and (step := diverging.skipped_at(self, row["round"])):
            return row["step"] < step
        last = self._resumed_search if row["split"] == "search" else self.resumed
        return last is not None and last.round == row["round"] and row["step"] <= last.state.step

    def expect(self, rounds: int) -> None:
        """Tells how many rounds there will be, where that is not the number of levels."""
        self.progress.expect(rounds)

    def within(self, round_: int, setup: Setup, place: Workdir, initial_state=None) -> "Run":
        """A run of another setup that trains a round of this run, in a workdir within this one's."""
        return Run(setup, place, self.seed, self.progress.within(round_), initial_state, is_inner=True)

    # Masks and the states that rounds start from.

    def fresh_state(self, seed: int) -> TrainState:
        """The train state before the first step with the weights of a seed."""
        return self.setup.init(seed)

    def saved_masks(self, round_: int):
        """The masks that the round was trained under (those that it has started with, while it is not finished).

        None if it has not started.
        """
        return saved.masks(self, round_)

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
        return saved.state(self, "rewind")

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
        return saved.state(self, "dense")

    def trained_before(self, round_: int) -> TrainState:
        """The state at the end of the round before (`saved.trained_before`)."""
        return saved.trained_before(self, round_)

    def drawn(self, round_: int):
        """The masks that the search of `round_` has drawn (`Workdir.read_search`)."""
        return saved.search(self, round_)

    def rewound(self, masks, trained: TrainState) -> TrainState:
        """`trained` rewound as `config.rewind` says, under `masks`.

        state: all goes back to the rewind point. weights: parameters, batch statistics and the step; moments start at
        zero. learning_rate: the step alone, and with it the learning rate (Renda, Frankle, Carbin 2020).
        none: nothing, so that training goes on at the last learning rate (fine-tuning).
        Components that the objective keeps (`Objective.kept`) are those of the trained dense run.
        """
        return rewinding.rewound(self, masks, trained)

    # Rounds.

    def is_finished(self, round_: int) -> bool:
        """Whether the round is recorded."""
        return round_ < len(self.rows)

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
        if update and not self.timeline.update_steps:
            raise ValueError(f"{self.config.experiment}: masks are to change in training, at no update steps")
        point = Last(round_, diverging.kept_start(self, round_, start), masks, first_step + length, seconds)
        while not self.is_finished(round_):
            try:
                self._complete(point, length, update, columns or {})
            except DivergedError as error:
                if diverging.policy(self, round_, error, self._last) == diverging.LOWER:
                    self._restart(point, error)
                else:
                    self._leave(point, error, update, columns or {})

    def _complete(self, point, length, update, columns):
        """Trains a round from `point`, or from the newest state in it, for `length` steps in all, and records it."""
        round_, rate = point.round, diverging.rate(self, point.round)
        if step := diverging.skipped_at(self, round_):  # And killed before it was recorded.
            raise DivergedError(step, "training diverged")
        resumed = self.resumed if self.resumed and self.resumed.round == round_ else point
        write_references = self._references_beside_training if round_ == 0 else None

        def save(state, masks, seconds):
            if round_ == 0:
                snapshots.save(self.place.snapshot("dense"), state)
            if update:
                snapshots.save_masks(self.place.masks(round_), masks)
            self._last.save(round_, state, masks, resumed.stop, seconds)

        self.trained, masks, seconds = training.trained(self, resumed, self._last, rate, update, ended=save)
        if write_references:
            write_references()
        factor = {} if rate == 1 else {"learning_rate_factor": rate}
        self._evaluate(round_, masks, seconds, length / (seconds - point.seconds), columns | factor)

    @cached_property  # Measured once, however often the round starts again.
    def _references_beside_training(self):
        return record.references_beside_training(self)

    def _restart(self, point, error, is_search=False):
        """Takes a round, or a search, back to its start."""
        last = self._last_search if is_search else self._last
        last.save(*point)
        last.wait()
        diverging.note(self, point.round, error, {"learning_rate_factor": diverging.lowered(self, point.round)})
        if is_search:
            self._resumed_search = point
        else:
            self.resumed = point
        self._scalars.close()
        self._scalars = self.place.open_scalars(keep=self._is_behind)

    def _leave(self, point, error, update, columns):
        """Ends a round that has diverged: its last finite state is `trained`, and is what later rounds go on from."""
        if not diverging.skipped_at(self, point.round):
            diverging.note(self, point.round, error, {"skipped": 1})
        newest = diverging.newest(self, self._last, point)
        state, masks, seconds = diverging.last_finite(self, newest, self._last, error.step, update)
        self.trained = state
        snapshots.save_masks(self.place.masks(point.round), masks)
        self._last.save(point.round, state, masks, point.stop, seconds)
        self.skip(point.round, masks, error, columns, seconds)

    def skip(self, round_: int, masks, error: DivergedError, columns=None, seconds: float | None = None) -> None:
        """Records a round as diverged: without metrics, with the step of the divergence."""
        self._last.wait()
        self.place.weights(round_).unlink(missing_ok=True)  # If a metric was not finite.
        metrics = dict.fromkeys(self.setup.evaluator.columns)
        columns = {**(columns or {}), "diverged_step": error.step}
        row = record.row(self, round_, masks, metrics, seconds, None, columns)
        self.record(row, nested.counts_of_layers(masks), None)

    def _check_next(self, round_, columns):
        """Refuses what a recipe must not do: leave out a round, or add a column that its method has not declared."""
        if round_ != len(self.rows):
            raise ValueError(f"{self.config.experiment}: round {round_} can't follow; the next is {len(self.rows)}")
        if undeclared := columns.keys() - config_lib.method(self.config).columns.keys():
            raise ValueError(f"{self.config.experiment}: `Method.columns` lacks {', '.join(sorted(undeclared))}")

    def search(self, round_: int, draw, l1=None, seconds: float = 0.0) -> TrainState:
        """Trains the dense network from its initialisation until `draw(state, seconds)` says that it is enough.

        `draw` is called at the timeline's `search_steps`. A search that was interrupted goes on from the last saved
        state. Returns the state at the end. `l1` is that of `train.step_function`; `seconds` have been spent before.

        Raises:
          DivergedError: it has diverged, and `skip` is to end the round.
        """
        point = Last(round_, self.initial_state, self.dense_masks, self.timeline.search_steps[-1], seconds)
        while True:
            resumed = self._resumed_search
            here = resumed if resumed and resumed.round == round_ else point
            try:
                rate = diverging.rate(self, round_)
                return training.trained(self, here, self._last_search, rate, draw=draw, l1=l1)[0]
            except DivergedError as error:
                if diverging.policy(self, round_, error, self._last_search, "search") == diverging.SKIP:
                    raise
                self._restart(point, error, is_search=True)

    def has_searched(self, round_: int) -> bool:
        """Whether the search of a round has ended with a result."""
        return snapshots.exists(self.place.masks(round_))

    def end_search(self, round_: int, masks, state: TrainState) -> None:
        """Saves what a search has ended with, so that it is not done again."""
        snapshots.save(self.place.search_end(round_), state)
        snapshots.save_masks(self.place.masks(round_), masks)

    def search_end(self, round_: int) -> TrainState:
        """Restores the train state saved when the search of `round_` ended."""
        return snapshots.restore(self.place.search_end(round_), self.initial_state)

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
        diverging.check_metrics(metrics, int(self.trained.step))
        samples = self.setup.evaluator.samples(params, batch_stats, self.seed)
        row = record.row(self, round_, masks, metrics, seconds, steps_per_second, columns)
        self.log(round_, int(self.trained.step), "test", seconds, metrics)
        # A round counts as finished once its row is there, so the state that the next round needs comes first.
        self._last.wait()
        self.record(row, nested.counts_of_layers(masks), samples)

    def log(self, round_: int, step: int, split: str, seconds: float, scalars: dict[str, float]) -> None:
        """Writes a row of `metrics.jsonl`."""
        self._scalars.write(round_, step, split, seconds, scalars)

    def record(self, row: dict, layers: list[dict], samples) -> None:
        """Records a round: its row of `rounds.csv`, its rows of `layers.csv` and its samples `[h, w, 3]`, if any."""
        round_ = row["round"]
        if self.is_finished(round_):
            return
        self._check_next(round_, {})
        if round_ == 0 and not self.is_inner:
            record.write_references(self)
        if samples is not None:
            self.place.write_samples(round_, samples)
        self._scalars.write_round(round_, row, samples)
        self._layers += [{"round": round_, **layer} for layer in layers]
        self.place.write_layers(self._layers)
        self.rows.append(row)
        self.place.remove_verdict()  # Of fewer rounds: a control or a transfer whose run has gone on.
        self.place.write_rounds(self.rows)
        self.progress.say(record.describe(row, self.setup.evaluator.metric))

    def adopt(self, place: Workdir, row: dict, round_: int) -> None:
        """Records the round `row` of another workdir as a round of this run."""
        nested.adopt(self, place, row, round_)

    def finish(self) -> dict:
        """The verdict over all rounds, saved in the workdir, with the ticket file and the weights that are kept."""
        if not self.rows:
            raise ValueError(f"{self.config.experiment}: its recipe has trained no round")
        if not self.place.is_finished and not self.is_inner:
            record.write_references(self)  # A run that an older version has begun has none.
        return record.finish(self, self.rows)
