"""Scores trained networks again, with any metrics: `python -m jaxtickets.evaluate --workdir=DIR --metrics=fid,kid`.

Of the run of one seed or of several, every round whose trained weights are kept; --rounds chooses. Or two sets of
images, without a network: `python -m jaxtickets.evaluate --real=DIR --fake=DIR`, directories, archives or data sets,
with the metrics fd, fid, kid, inception_score, precision_recall and density_coverage.
Nothing is written but the table that --out names.
"""

import json
import re
import statistics
from collections.abc import Sequence
from functools import partial

from absl import flags

from jaxtickets import cli, data, ending, files, opening
from jaxtickets import config as config_lib
from jaxtickets import metrics as metrics_lib
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.metrics import FEATURE_NETWORKS, METRICS, networks
from jaxtickets.metrics.bootstrap import ends_of
from jaxtickets.names import near
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.opening import Opened
from jaxtickets.progress import say, show
from jaxtickets.runs import feature_networks
from jaxtickets.tables import MAX_WIDTH, aligned, table_width, wrapped
from jaxtickets.workdir import Workdir

TEXTS = {
    "workdir": "The workdir of a run, of one seed or of several.",
    "rounds": "Rounds as in 0,3,winner,last, or all whose weights are kept (default: all).",
    "real": "In the place of a workdir: real images, a directory, an archive, or the name of a data set.",
    "fake": "The images that are compared with them; like --real.",
    "out": "A .csv file for the table.",
}
IMAGE_SIZE = "With --real: crop and resize all images to this size (default: as they are; all must be of one size)."
PATHS = ("out", "workdir")
GROUP = "eval."  # The fields of the config that are flags here.
OF_IMAGES = ("on_broken", "background")  # Of the group data., with --real.


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    for name, text in TEXTS.items():
        flags.DEFINE_string(name, None, text, flag_values=defined)
    flags.DEFINE_integer("image_size", None, IMAGE_SIZE, flag_values=defined)
    flags.DEFINE_bool("overwrite", False, "Replace what --out names.", flag_values=defined)
    for name, field in _fields().items():
        text = f"{field.help} (default: that of the run)"
        flags.DEFINE_string(name, None, text, flag_values=defined)
    for name in OF_IMAGES:
        field = config_lib.fields()[f"data.{name}"]
        text = f"With --real: {field.help} (default: {field.default})"
        flags.DEFINE_string(name, None, text, flag_values=defined)
    return cli.call(partial(_run, defined), defined, arguments, __doc__)


def _fields():
    """The fields of metrics by the names of their flags."""
    found = config_lib.fields().items()
    return {name.removeprefix(GROUP): field for name, field in found if name.startswith(GROUP)}


def _run(given, others):
    try:
        _score(given, others)
    except UserError as error:
        error.args = (_with_flags(str(error)),)
        raise


def _with_flags(text):
    """A message about fields of the config, with the flags of this command in their places."""
    known = [f"eval.{name}" for name in _fields()] + [f"data.{name}" for name in OF_IMAGES]
    field = rf"(?:--)?config\.(?:{'|'.join(map(re.escape, known))})\b(?:=(\([^)]*\)|\[[^]]*\]|'[^']*'))?"

    def flag(match):
        name = match[0].partition("=")[0].rpartition(".")[2]
        value = "" if match[1] is None else "=" + re.sub(r"[\s'()\[\]]", "", match[1]).strip(",")
        return f"--{name}{value}"

    return re.sub(field, flag, text)


def _score(given, others):
    if others:
        raise UserError(f"{others[0]}: not a flag; allowed are {', '.join(f'--{name}' for name in TEXTS)}")
    chosen = {name: given[name].value for name in _fields() if given[name].value is not None}
    out, workdir = (None if given[name].value is None else local_path(given[name].value, f"--{name}") for name in PATHS)
    if out and out.suffix != ".csv":
        raise UserError(f"--out={out}: allowed is a file that ends in .csv")
    if out and out.exists() and not (given.overwrite and out.is_file()):
        raise UserError(f"--out={out}: is there already; give another file, or --overwrite to replace it")
    if (workdir is None) == (given.real is None and given.fake is None):
        raise UserError("give either --workdir, or --real and --fake")
    if workdir:
        for name in ("image_size", *OF_IMAGES):
            if given[name].value is not None:
                raise UserError(f"--{name}={given[name].value}: allowed with --real and --fake; a run has its own")
        rows, text = rounds(Workdir(workdir), given.rounds or "all", chosen)
    else:
        if given.rounds or not (given.real and given.fake):
            raise UserError("two sets of images need --real and --fake, and have no --rounds")
        from jaxtickets import two_sets  # It imports this module.

        of_images = {name: given[name].value for name in OF_IMAGES if given[name].value is not None}
        rows, text = two_sets.compare(given.real, given.fake, chosen, given.image_size, of_images)
    show(text)
    if out:
        files.write_csv(out, rows)
        show(f"\n{out}")


def set_fields(config, chosen: dict[str, str]) -> None:
    """Sets the fields of metrics that flags give, as texts, and checks the chosen metrics.

    Raises:
      UserError: a text is no value of its field, the metrics can't be taken, or none of them reads a field.
    """
    known = _fields()
    for name, text in chosen.items():
        try:
            value = _value(text, known[name].default)
        except ValueError:
            value = text
        if not known[name].check.possible(value):
            check = known[name].check
            raise UserError(f"--{name}={text}: allowed is {check.allowed()}{near(text.split(','), check.names())}")
        config.eval[name] = value
    game = OBJECTIVES[config.objective.name]
    possible = metrics_lib.possible(game)
    if unserved := [name for name in config.eval.metrics if name not in possible]:
        allowed = f"{', '.join(possible)} with config.objective.name={game.name!r}"
        raise UserError(f"--metrics={','.join(unserved)}: allowed are {allowed}{near(unserved, possible)}")
    used = metrics_lib.chosen(config, game)
    used += FEATURE_NETWORKS.chosen([one.features_of(config) for one in used])
    plugins = [*METRICS.values(), *FEATURE_NETWORKS.values()]
    for name, text in chosen.items():
        readers = [one.name for one in plugins if _reads(one, name)]
        if readers and not any(_reads(one, name) for one in used):
            raise UserError(f"--{name}={text}: is read by {', '.join(readers)} alone; allowed is no --{name}")


def _reads(plugin, name):
    return any(field.name == GROUP + name for field in plugin.fields)


def _value(text, default):
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(default, tuple | list):
        return tuple(filter(None, text.split(",")))
    return type(default)(text)


# Rounds.


def evaluator(opened: Opened) -> metrics_lib.Evaluator:
    """The evaluator of a network, with the metrics of its config.

    Raises:
      UserError: the metrics can't be taken.
    """
    config = opened.config
    metrics_lib.check(config, OBJECTIVES[config.objective.name])
    resolve(config)
    images = (opening.dataset(opened, split).images for split in data.SPLITS)
    return metrics_lib.make_evaluator(opened.objective, config, *images, has_spread=True)


def resolve(config) -> None:
    """Puts the name of a feature network in the place of `eval.features="auto"`."""
    if config.eval.features == feature_networks.AUTO:
        config.eval.features = networks.resolve(config)


def rounds(whole: Workdir, chosen_rounds: str, chosen: dict[str, str]) -> tuple[list[dict], str]:
    """Scores the rounds of a run: `(one row per seed and round, the table as text)`.

    The samples are those of the run: the same seed and, if they are as many, the same images.

    Args:
      chosen_rounds: see `opening.rounds`.
      chosen: see `set_fields`.

    Raises:
      UserError: there is no such run, it has no weights of a round, or a metric can't be taken.
    """
    evaluators, rows = {}, []

    def evaluator_of(opened):
        set_fields(opened.config, chosen)
        network = json.dumps(config_lib.to_dict(opened.config)["model"])
        if network not in evaluators:  # Rounds of one network share what is compiled for it.
            evaluators[network] = evaluator(opened)
        return evaluators[network]

    places = opening.seed_runs(whole)
    todo = [(seed, place, opening.rounds(chosen_rounds, "--rounds", whole, place)) for seed, place in places.items()]
    for seed, place, numbers in todo:
        sparsities = {row["round"]: row["sparsity"] for row in place.read_rounds()}
        for round_ in numbers:
            opened = opening.open_round(place, round_)
            one = evaluator_of(opened)
            measured = one.evaluate(opened.params, opened.batch_stats, seed)
            counts = {
                "samples": opened.config.eval.samples,
                "held_out_images": len(opening.dataset(opened, "test").images),
                **settings(opened.config, one.columns, one.features),
            }
            rows.append({"seed": seed, "round": round_, "sparsity": sparsities[round_], **measured, **counts})
            say(f"seed {seed}, round {round_}: {', '.join(f'{name} {value:.4g}' for name, value in measured.items())}")
    seed, place, _ = todo[0]
    initial = opening.open_initial(place)
    one = evaluator_of(initial)
    references = one.references(initial.params, initial.batch_stats, seed)
    size = opening.dataset(initial, "test").images[0].size
    return rows, _text(rows, references, one, opening.winner(whole), size)


def settings(config, columns, features: dict[str, str]) -> dict[str, object]:
    """What the numbers of the chosen metrics depend on, by the column of the table that --out names.

    These are the fields that the metrics and their feature networks read, by the names of their flags, the seed of
    random draws, and for each network its words and its digest.

    Args:
      columns: see `metrics.described`.
      features: the digests of the feature networks by name.
    """
    metrics = metrics_lib.chosen(config, OBJECTIVES[config.objective.name])
    read = [*metrics, *FEATURE_NETWORKS.chosen(list(features))]
    names = dict.fromkeys(field.name for plugin in read for field in plugin.fields if field.name.startswith(GROUP))
    found = {name: config.eval[name] for name in (name.removeprefix(GROUP) for name in names)}
    found |= {f"{one.name}_seed": one.draws_seed for one in metrics if one.draws_seed is not None}
    if config.eval.bootstrap:
        found["bootstrap"] = config.eval.bootstrap
    words = {one.features_of(config): columns[one.main_of(config)].get("about", "") for one in metrics}
    for name, digest in features.items():
        found |= {f"{name}_network": words[name], f"{name}_digest": digest}
    return found


def _text(rows, references, one, winner, size):
    """The table of rounds with the means over the seeds, the references below, and what the numbers were taken over."""
    from jaxtickets.report.reading import REFERENCES, percent, significant

    columns, seeds = [name for name in one.columns if name in rows[0]], {row["seed"] for row in rows}
    lines = []
    for round_ in dict.fromkeys(sorted(row["round"] for row in rows)):
        own = [row for row in rows if row["round"] == round_]
        mark = "winner" if round_ == winner else "dense" if round_ == 0 else ""
        for row in own:
            lines.append(([str(round_), percent(row["sparsity"]), str(row["seed"])], row, mark))
        if len(own) > 1:
            mean = {name: statistics.fmean(row[name] for row in own) for name in (*columns, "sparsity")}
            lines.append(([str(round_), percent(mean["sparsity"]), f"mean of {len(own)}"], mean, mark))
    for kind, title in REFERENCES.items():
        numbers = {name: entry[kind] for name, entry in references.items() if entry.get(kind) is not None}
        if numbers:
            lines.append((["", "", title], numbers, ""))
    tables = []
    while columns:  # As many columns to a table as fit.
        n = len(columns)
        while table_width(table := _table(lines, columns[:n], significant)) > MAX_WIDTH and n > 1:
            n -= 1
        tables, columns = [*tables, table], columns[n:]
    counts = f"{rows[0]['samples']:,} samples, {rows[0]['held_out_images']:,} held-out images, "
    counts += f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    return "\n\n".join([*tables, wrapped([*told(one.columns, size), counts])])


def told(columns: dict[str, dict[str, str]], size: int | None = None) -> list[str]:
    """The lines below a table: each column in words, and what must be known beside the numbers.

    Args:
      columns: see `metrics.described`.
      size: the number of pixels times channels of an image, for metrics on held-out images.
    """
    from jaxtickets.report.notes import notes

    ends = {end for name in columns for end in ends_of(name)}
    shown = {name: about for name, about in columns.items() if name not in ends}
    better = {name: f", {about['better']} is better" if "better" in about else "" for name, about in shown.items()}
    return [
        *(f"{name}: {about['label']}{better[name]}" for name, about in shown.items()),
        *notes(list(shown), shown, size),
    ]


def _table(lines, columns, write):
    header = ["round", "sparsity %", "seed", *columns, ""]
    known = [(start, row, mark) for start, row, mark in lines if row.keys() & set(columns)]
    cells = [[*start, *(write(row.get(name)) for name in columns), mark] for start, row, mark in known]
    return aligned(header, cells, left=(2, len(header) - 1))


if __name__ == "__main__":
    ending.run(lambda _: main())
