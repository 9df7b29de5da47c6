"""Writes what a trained network makes: `python -m jaxtickets.sample --workdir=DIR --n=10000 --out=DIR`.

Images go to a directory or a zip of PNG files, or to an .npz whose `arr_0` is uint8 [n, height, width, 3]; grids for
the eye go to PNG files. With --seed of the run (the default) image k is sample k of the run's own metrics.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from absl import flags

from jaxtickets import cli, ending, files, image_writing, opening
from jaxtickets.errors import UserError
from jaxtickets.examples import to_float, to_uint8
from jaxtickets.latent_space import PICTURES
from jaxtickets.local_paths import local_path
from jaxtickets.metrics import generation
from jaxtickets.metrics.grid import GRID, image_grid
from jaxtickets.metrics.spread import in_batches, replicated, spread
from jaxtickets.opening import Opened
from jaxtickets.progress import show
from jaxtickets.workdir import Workdir

TEXTS = {
    "workdir": "The workdir of a run; of one over several seeds, the first seed's network is taken.",
    "ticket": "A ticket file, in the place of a workdir: the network that was trained from it.",
    "round": "The round: a number, winner, dense or last (default: the winner; dense where there is none).",
    "out": f"Where the samples are written: {image_writing.PLACES}.",
    "labels": "Conditional networks: the classes that are sampled in turn, as in 0,3,5 (default: as in the metrics).",
    "grid": "A PNG file for a grid of the first 64 samples.",
    "interpolate": "A PNG file: rows that go from one image to another, through the latents.",
    "traverse": "A PNG file, of a VAE: rows in each of which one latent goes from -2 to 2, the most used first.",
    "reconstruct": "A PNG file: rows of held-out images, each above its reconstructions.",
    "nearest": "A PNG file: samples, each beside its nearest training images in the features of the run's metrics.",
}
NUMBERS = {
    "n": "The number of samples in --out (default: config.eval.samples).",
    "seed": "The seed of the samples (default: that of the run).",
    "batch_size": "The number of images that are made at a time (default: config.eval.batch_size).",
}
OVERWRITE = "Replace what is there; a directory only if it holds nothing but samples."
KINDS = {  # Of pictures, by the names of their flags.
    "interpolate": "interpolation",
    "traverse": "traversal",
    "reconstruct": "reconstruction",
    "nearest": "nearest",
}
GRIDS = ("grid", *KINDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    for name, text in TEXTS.items():
        flags.DEFINE_string(name, None, text, flag_values=defined)
    for name, text in NUMBERS.items():
        flags.DEFINE_integer(name, None, text, flag_values=defined)
    flags.DEFINE_bool("overwrite", False, OVERWRITE, flag_values=defined)
    return cli.call(partial(_run, defined), defined, arguments, __doc__)


def _run(given, others):
    if others:
        raise UserError(f"{others[0]}: not a flag; allowed are {', '.join(f'--{name}' for name in [*TEXTS, *NUMBERS])}")
    wanted = {
        name: local_path(given[name].value, f"--{name}") for name in ("out", *GRIDS) if given[name].value is not None
    }
    if not wanted:
        raise UserError(f"nothing to write is given; give one of {', '.join(f'--{name}' for name in ('out', *GRIDS))}")
    for name, low in (("n", 1), ("seed", 0), ("batch_size", 1)):
        if given[name].value is not None and given[name].value < low:
            raise UserError(f"--{name}={given[name].value}: allowed is a whole number of at least {low}")
    for name, path in wanted.items():
        image_writing.check(path, f"--{name}={path}", given.overwrite, name == "out")
    opened = _open(given.workdir, given.ticket, given.round)
    config, objective = opened.config, opened.objective
    config.eval.batch_size = given.batch_size or config.eval.batch_size
    seed = config.seed if given.seed is None else given.seed
    for name, path in wanted.items():
        _check_possible(name, path, objective, config)
    labels = labels_of(given.labels, objective, "--labels")
    show(f"{opened.title}, seed {seed}")
    if "out" in wanted:
        n = given.n or config.eval.samples
        image_writing.write(wanted["out"], samples(opened, seed, n, labels), n, _classes(labels, n, objective))
        show(f"{n:,} samples: {wanted['out']}")
    for name in GRIDS:
        if name in wanted:
            make = PICTURES[KINDS[name]].make if name in KINDS else grid
            files.replace(wanted[name], image_writing.png(make(opened, seed, labels)))
            show(f"{name}: {wanted[name]}")


def _open(workdir, ticket, round_) -> Opened:
    if (workdir is None) == (ticket is None):
        raise UserError("give either --workdir or --ticket")
    if ticket is not None:
        if round_:
            raise UserError(f"--round={round_}: a ticket file has one round; allowed with --workdir")
        return opening.open_ticket(local_path(ticket, "--ticket"))
    whole = Workdir(local_path(workdir, "--workdir"))
    place = next(iter(opening.seed_runs(whole).values()))
    if round_ is None:
        round_ = "dense" if opening.winner(whole) is None else "winner"
    found = opening.rounds(round_, "--round", whole, place)
    if len(found) > 1:
        raise UserError(f"--round={round_}: allowed is one round")
    return opening.open_round(place, found[0])


def labels_of(given, objective, name: str) -> np.ndarray | None:
    """The classes that a user asks for, int32 `[n]`, n at least 1; None, the network's own choice, for None.

    Args:
      given: one class or several: numbers, or a text such as "0,3,5".
      name: what gives them, for the message.

    Raises:
      UserError: the network has no classes, or one of these is none of them.
    """
    if given is None:
        return None
    words = given.split(",") if isinstance(given, str) else [str(one) for one in np.atleast_1d(np.array(given, object))]
    what = f"{name}={','.join(words):.60}"
    if not objective.classes:
        raise UserError(f"{what}: the network is not conditional; allowed is no {name}")
    if not words or not all(word.isdecimal() and int(word) < objective.classes for word in words):
        raise UserError(f"{what}: allowed are classes from 0 to {objective.classes - 1}, as in 0,3,5")
    return np.int32(words)


def _classes(labels, n, objective):
    """The class of each of `n` samples; None if the network is not conditional."""
    if not objective.classes:
        return None
    return generation.classes(objective, np.arange(n)) if labels is None else np.resize(labels, n)


def _check_possible(name, path, objective, config):
    """Refuses what the network can't make."""
    # Nearest images are those of samples, which --out and --grid need.
    lacks = {flag: PICTURES[KINDS.get(flag, "nearest")].lacks(objective) for flag in ("out", *GRIDS)}
    if lacks[name]:
        others = ", ".join(f"--{flag}" for flag in lacks if not lacks[flag])
        raise UserError(
            f"--{name}={path}: config.objective.name={config.objective.name!r} {lacks[name]}; allowed are {others}"
        )


# Images.


def sampler(objective, convert: Callable = to_uint8) -> Callable:
    """The program of `samples`, which keeps what it has compiled; `convert` is what images in [-1, 1] go through."""

    def make(shared, rows):
        return convert(generation.sample(objective, *shared, *rows))

    return spread(make)


def samples(
    opened: Opened, seed: int, n: int, labels: np.ndarray | None = None, program: Callable | None = None
) -> Iterator[np.ndarray]:
    """Batches of samples `[batch, h, w, c]` uint8, made on all local devices in constant memory.

    Sample k depends on the network, the seed and k alone, and is the one that the run's metrics were taken over.

    Args:
      n: the number of all samples.
      labels: the classes of consecutive samples, which are repeated; None: those of `generation.sample`.
      program: a `sampler` of the objective, for further calls; None: a new one.
    """

    def rows(numbers):
        return (np.int32(numbers), *(() if labels is None else (labels[numbers % len(labels)],)))

    shared = replicated((opened.params, opened.batch_stats, np.uint32(seed)))
    return in_batches(program or sampler(opened.objective), shared, rows, n, opened.config.eval.batch_size)


def grid(opened: Opened, seed: int, labels) -> np.ndarray:
    """The first 64 samples as a grid `[h, w, 3]` uint8."""
    return image_grid(to_float(np.concatenate(list(samples(opened, seed, GRID * GRID, labels)))))


if __name__ == "__main__":
    ending.run(lambda _: main())
