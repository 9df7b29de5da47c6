"""Running an experiment: one seed run, or several one after another or at a time."""

import queue
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxtickets import config as config_lib
from jaxtickets import data
from jaxtickets.data import identity
from jaxtickets.errors import UserError
from jaxtickets.experiments.finished import Finished
from jaxtickets.hosts import Hosts
from jaxtickets.progress import Progress, bars, say, speaking_as
from jaxtickets.runs import feature_networks, memory, plan, record, saved
from jaxtickets.runs.meeting import Meeting, Seat
from jaxtickets.runs.networks import Networks
from jaxtickets.runs.run import Run
from jaxtickets.runs.setup import Setup
from jaxtickets.runs.verdict import judge_seeds
from jaxtickets.stopping import Stop, StoppedError
from jaxtickets.workdir import Workdir

ADVICE = "give another --workdir, or the data as they were"


def seed_paths(config, path: Path) -> dict[int, Path]:
    """The workdir of each seed run: `path` itself, or one in it for each of several seeds."""
    if config.seeds == 1:
        return {config.seed: path}
    return {seed: Workdir(path).seed_dir(seed).path for seed in range(config.seed, config.seed + config.seeds)}


def run(
    config,
    path: Path,
    from_round: int | None = None,
    stopped: Stop | None = None,
    make_setup: Callable[[Any], Setup] | None = None,
    shown_in=None,
    hosts: Hosts | None = None,
) -> dict:
    """Runs or resumes the experiment for every seed in the workdir `path`; returns the verdict.

    Args:
      from_round: a finished round, which is discarded with all later ones and run again.
      stopped: once it is set, every training saves its state and ends.
      make_setup: `(config) -> setup`, for one of several runs that train together.
      shown_in: the display of these runs (`progress.bars`).
      hosts: those that train with this one, which leads them.

    Raises:
      StoppedError: `stopped` is set.
      UserError: what can only be seen once the data is there is wrong, or the round can't be run again; nothing has
        been written or discarded then.
    """
    whole = Workdir(path)
    config = feature_networks.resolved(config, whole)
    if from_round is not None:
        _check_way_back(config, path, from_round)
    elif whole.is_started:
        whole.check_same(config_lib.to_dict(config), config_lib.missing_values(config), config_lib.refused)
    places = {seed: Workdir(own) for seed, own in seed_paths(config, path).items()}
    _check_takes_up(config, whole, places.values())
    digests = data.digests(config)
    for place in dict.fromkeys((whole, *places.values())):
        identity.check(place.read_data(), digests, f"--workdir={place.path}", ADVICE)
    rounds, origins = _sources(Networks(config), places)  # Before a setup trains feature networks.
    setup = make_setup(config) if make_setup else Setup(config, stopped=stopped, hosts=hosts)
    for seed, place in places.items():
        if from_round is not None or not place.is_finished:
            feature_networks.check(setup, place, seed, f"--workdir={place.path}")
        if seed in origins:
            feature_networks.check(setup, origins[seed], seed, f"the run in {origins[seed].path}")
    setups = [setup]
    if config.tickets_per_host > 1:
        setups = [Setup(config, like=setup, devices=own) for own in device_groups(config.tickets_per_host)]
    memory.check(setups[0], config.tickets_per_device)
    if from_round is not None:
        go_back(config, path, from_round)
    for line in plan.start(setups[0], whole, places, rounds):
        say(f"{line.what}: {line.text}")
    for place in dict.fromkeys((whole, *places.values())):
        place.add_data(digests)
    if config.seeds == 1:
        return _run_seed(config.seed, setup, whole, shown_in)
    whole.create(config_lib.to_dict(config), setup.json_defaults, setup.about, config_lib.refused)

    def run_seed(seed, setup, shown_in=None):
        say(f"seed {seed}, in {places[seed].path}")
        with speaking_as(f"seed {seed}: " if shown_in else ""):
            return _run_seed(seed, setup, places[seed], shown_in)

    together = groups(places, config.tickets_per_device)
    tabulate = partial(_tabulate, whole, places)
    if len(setups) == config.tickets_per_device == 1:
        for seed in places:
            run_seed(seed, setup)
            tabulate()
    else:
        with bars() as shown_in:
            run_at_once(partial(run_seed, shown_in=shown_in), together, setups, tabulate)
    evaluator, subject = setup.evaluator, config_lib.subject(config)
    how = (evaluator.metric, evaluator.label, config.tolerance, config.confidence, subject, evaluator.better)
    references = {seed: place.read_references() for seed, place in places.items()}
    verdict = judge_seeds(whole.read_rounds(), *how, references=references) | {"data": setup.data}
    whole.write_verdict(verdict)
    for seed, place in places.items():
        if verdict["winning_round"] is not None:  # Else each seed's own observation stays.
            record.save_ticket(setup, place, setup.init(seed), verdict)
        record.keep_ends(config, place, verdict["winning_round"], place.read_verdict()["winning_round"])
    return verdict


def dry_run(config, path: Path) -> str:
    """What `run` would do, as lines; it starts, downloads and writes nothing.

    Raises:
      UserError: `run` would refuse the config or the workdir before it reads data.
    """
    whole = Workdir(path)
    config_lib.validate(config, jax.local_device_count())
    whole.check_writable()
    if whole.is_started:
        config = feature_networks.resolved(config, whole)
        whole.check_same(config_lib.to_dict(config), config_lib.missing_values(config), config_lib.refused)
    places = {seed: Workdir(own) for seed, own in seed_paths(config, path).items()}
    _check_takes_up(config, whole, places.values())
    networks = Networks(config)
    networks.data = {}  # Nobody reads them.
    rounds, origins = _sources(networks, places)
    setup = plan.Imagined(config)
    memory.check(setup, config.tickets_per_device)
    lines = plan.ahead(setup, whole, places, rounds, is_adopted=bool(origins))
    return "\n".join(f"{line.what:<9} {line.text}" for line in lines)


def rounds_of_source(config) -> int:
    """The number of rounds of a method that trains tickets of another run, which is read, unlike the data.

    Raises:
      UserError: what the method needs of that run can't be had.
    """
    networks = Networks(config)
    networks.data = {}  # Nobody reads them.
    rounds, _ = _sources(networks, range(config.seed, config.seed + config.seeds))
    return rounds[config.seed]


def _sources(networks, seeds) -> tuple[dict[int, int], dict[int, Workdir]]:
    """The number of rounds of each seed, and the workdirs of those whose dense run is that of another run.

    Raises:
      UserError: what the method needs of another run can't be had.
    """
    method, rounds, origins = config_lib.method(networks.config), {}, {}
    for seed in seeds:
        found = method.source(networks, seed) if method.source else None
        rounds[seed] = method.rounds(found) if method.rounds else len(networks.levels)
        if isinstance(found, Finished):  # Its rounds become rounds of this run.
            origins[seed] = found.place
    return rounds, origins


def _check_takes_up(config, whole, places):
    """Refuses another config where rounds can't go on and tickets can't be written again."""
    if not whole.is_started:
        return
    changes = whole.changes(config_lib.to_dict(config), config_lib.missing_values(config))
    for place in places if changes else ():
        if place.is_finished and (gone := saved.gone(place)):
            raise UserError(f"--workdir={place.path}: {'; '.join(changes)}, but {gone} are gone, which that needs")


def _run_seed(seed, setup, place, shown_in=None):
    """One seed's experiment; its display is in that of several that go on at a time, if given."""
    if place.is_finished and (gone := saved.gone(place)):
        say(f"{place.path}: {gone} are gone, and only --from_round=0 can run rounds; the results are there")
        return place.read_verdict()
    progress = Progress(len(setup.levels), setup.timeline.steps, shown_in)
    with Run(setup, place, seed, progress) as one:
        config_lib.method(setup.config).recipe(one)
        return one.finish()


def _tabulate(whole, places):
    """Writes the table of all seeds that have finished."""
    finished = [(seed, place) for seed, place in places.items() if place.is_finished]
    rows = [{"seed": seed, **row} for seed, place in finished for row in place.read_rounds()]
    if rows != whole.read_rounds():
        whole.remove_verdict()
    whole.write_rounds(rows)


def go_back(config, path: Path, round_: int) -> None:
    """Takes the run, that of every seed, back to the start of a finished round (`Workdir.discard_from`).

    Raises:
      UserError: the workdir is another run's, or a seed has not finished the round; nothing is discarded then.
    """
    whole, places = _check_way_back(config, path, round_)
    whole.remove_verdict()
    for place in places:
        place.discard_from(round_)


def _check_way_back(config, path, round_):
    """Refuses to go back as `go_back` says; returns the workdir of the whole and those of the seed runs."""
    whole, defaults = Workdir(path), config_lib.missing_values(config)
    whole.check_same(config_lib.to_dict(feature_networks.resolved(config, whole)), defaults, config_lib.refused)
    if config_lib.method(config).is_chained(config) and round_ > 1:
        raise UserError(
            f"--from_round={round_}: allowed are 0 and 1 with config.rewind={config.rewind!r}, which goes on from "
            "weights that only the round before had"
        )
    places = [Workdir(own) for own in seed_paths(config, path).values()]
    for place in places:
        place.check_finished(round_)
        saved.check_way_back(config, place, round_)
    return whole, places


# Several seeds at a time: on devices of their own, or in one program.


def device_groups(at_once: int) -> list[tuple[jax.Device, ...]]:
    """The local devices in `at_once` groups of equal size."""
    return groups(jax.local_devices(), len(jax.local_devices()) // at_once)


def groups(items: Iterable, size: int) -> list[tuple]:
    """The items in groups of a size, in their order; the last group may be smaller."""
    items = tuple(items)
    return [items[start : start + size] for start in range(0, len(items), size)]


def run_at_once(
    run_seed: Callable[[int, Setup], dict],
    together: Sequence[tuple[int, ...]],
    setups: list[Setup],
    finished: Callable[[], None],
) -> None:
    """Calls `run_seed(seed, setup)` for every seed, each in a thread, as many groups at a time as there are setups.

    Each setup runs one group of seeds at a time; its work outside the train step runs on its first device.
    `finished()` is called here, after each group. If a seed fails, or the user interrupts, the others save and end
    after their step, and the first error is raised.

    Args:
      together: groups of seeds; those of one group train in one program.
      setups: made from one another (`Setup(like=...)`), so that one event stops them all.
    """
    free = queue.SimpleQueue()
    for setup in setups:
        free.put(setup)

    def run_where_free(seeds):
        setup = free.get()
        try:
            if len(seeds) == 1:
                run_one(seeds[0], setup)
            else:
                run_together(run_one, seeds, setup)
        finally:
            free.put(setup)

    def run_one(seed, setup):
        try:
            with jax.default_device((setup.devices or jax.local_devices())[0]):
                run_seed(seed, setup)
        except UserError as error:
            raise type(error)(f"seed {seed}: {error}") from None

    with ThreadPoolExecutor(len(setups)) as pool:
        futures = [pool.submit(run_where_free, seeds) for seeds in together]
        try:
            for future in as_completed(futures):
                future.result()
                finished()
        except BaseException:
            setups[0].stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            say("stopping: every other seed ends after the step that it is in")
            raise


def run_together(run_seed: Callable[[int, Setup], None], seeds: Sequence[int], setup: Setup) -> None:
    """Calls `run_seed(seed, own setup)` for several seeds, each in a thread; they meet to train (`runs.meeting`).

    If one fails, the others save and end, and its error is raised.
    """
    meeting = Meeting(len(seeds), setup.stopped)
    setups = [Setup(setup.config, like=setup, seat=Seat(meeting, number)) for number in range(len(seeds))]

    def run(number):
        try:
            run_seed(seeds[number], setups[number])
        except BaseException:
            setup.stopped.set()
            raise
        finally:
            meeting.leave(number)

    with ThreadPoolExecutor(len(seeds)) as pool:
        errors = [future.exception() for future in [pool.submit(run, number) for number in range(len(seeds))]]
    # Those that end because another one has failed are no cause.
    if errors := sorted(filter(None, errors), key=lambda error: isinstance(error, StoppedError)):
        raise errors[0]
