"""The report of one run as a single HTML file that needs no other file."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

from jaxtickets.report import descriptions
from jaxtickets.report.answer import answer
from jaxtickets.report.costs import costs
from jaxtickets.report.elements import Row, csv_link, paragraph, plot, plots, save_link, section, table
from jaxtickets.report.latent import latent
from jaxtickets.report.notes import notes
from jaxtickets.report.overlap import OVERLAP, overlap_words
from jaxtickets.report.plots import (
    LAYERS,
    curve_names,
    curve_plot,
    curve_rows,
    layer_sparsities,
    metric_plot,
    metric_rows,
    search_plot,
    shown_metrics,
    shown_searches,
)
from jaxtickets.report.ratios import RATIO, ratio_rows
from jaxtickets.report.reading import (
    Results,
    describe,
    is_finite,
    main_metric,
    metric_columns,
    percent,
    winning_round,
)
from jaxtickets.report.samples import samples
from jaxtickets.report.script import REFRESH, SCRIPT
from jaxtickets.report.search import search_rows
from jaxtickets.report.table import measured_columns, reference_rows, round_mark
from jaxtickets.report.theme import STYLE

RATIO_CAPTION = (
    "Each dot is a seed: the metric of its round over that of its own dense run. Bars: the geometric mean and its"
    " confidence interval. Filled: shown to be within the tolerance."
)


class Drawn(NamedTuple):
    """What a page shows beside the numbers of a run.

    Attributes:
      plots: the contents of SVG files, by the names that `plots.figures` gives them.
      overlaps: the rows of `overlap.overlaps`.
    """

    plots: Mapping[str, str]
    overlaps: list[dict[str, Any]]


def page(run: Results, drawn: Drawn, state: str | None = None, has_links: bool = True) -> str:
    """The report's HTML.

    Args:
      state: of a page that is served, what `/state` answers while it is up to date (`serving`).
      has_links: whether it leads to the pages of seeds, as one beside them does.
    """
    of_seed = f" of seed {min(run.seeds)}" if run.seeds else ""
    parts = [
        section("Metric against sparsity", "metric", _metrics(run, drawn)),
        section(f"Samples{of_seed}", "samples", samples(run)),
        section("Rounds", "rounds", _rounds(run)),
        section("Seeds", "seeds", _seeds(run, has_links)),
        section("Costs", "costs", costs(run)),
        section(f"Search for the ticket{of_seed}", "search", _search(run, drawn)),
        section("Training", "training", _curves(run, drawn)),
        section("Sparsity by layer", "layers", _layers(run, drawn)),
        section("Overlap of the masks", "overlap", _overlap(run, drawn)),
        section(f"Latent space{of_seed}", "latent-space", latent(run)),
        section("How to reproduce", "reproduce", _origin(run)),
    ]
    first = [paragraph(str(run.workdir.path)), *answer(run)]
    return document(f"{method_title(run)}: {config_name(run)}", first, parts, state)


def document(title: str, first: Iterable[str], parts: Iterable[list[str]], state: str | None = None) -> str:
    """A page that needs no other file: its title, its first part, links to the others, and these.

    Args:
      parts: sections, as `elements.section` gives them.
      state: see `page`.
    """
    parts = [part for part in parts if part]
    heads = [re.match(r'<section id="([^"]*)"><h2>(.*)</h2>', part[0]).groups() for part in parts]
    links = [f'<a href="#{name}">{heading}</a>' for name, heading in heads]
    served = "" if state is None else f' data-state="{escape(state)}"'
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # Else a browser asks a server for one.
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body{served}><main>",
            f"<h1>{escape(title)}</h1>",
            *first,
            *(['<nav aria-label="Sections">', *links, "</nav>"] if links else []),
            *(line for part in parts for line in part),
            f"</main><script>{SCRIPT}{'' if state is None else REFRESH}</script></body></html>\n",
        ]
    )


def method_title(run: Results) -> str:
    """The method's title in config.json; without one, the config's experiment, or "run" if it names none."""
    title = run.config.get("experiment") if run.about.title is None else run.about.title
    return title if isinstance(title, str) else "run"


def config_name(run: Results) -> str:
    """The config file and variant in the run's command; the workdir's name if there is none."""
    match = re.search(r"--?config[= ](\S+)", str(run.origin.get("command", "")))
    return match[1].strip("'\"").rpartition("/")[2] if match else run.workdir.path.resolve().name


def _metrics(run: Results, drawn: Drawn) -> Iterable[str]:
    shown = []
    if RATIO in drawn.plots:
        seen = descriptions.of_ratios(run, main_metric(run.rounds, run.verdict, run.about))
        shown.append(plot(drawn.plots[RATIO], RATIO, seen, RATIO_CAPTION, csv_link("ratio.csv", ratio_rows(run))))
    for metric in shown_metrics(run):
        name, told = metric_plot(metric), describe(metric, run.verdict, run.about)
        named = f"{metric}." if told.label in (metric, metric.replace("_", " ")) else f"{metric}: {told.label}."
        caption = f"{named} {told.direction.capitalize()}." if told.better else named
        link = csv_link(f"{name}.csv", metric_rows(run, metric))
        shown.append(plot(drawn.plots[name], name, descriptions.of_metric(run, metric), caption, link))
    return plots(shown)


def _rounds(run: Results) -> Iterator[str]:
    if not run.rounds:
        return
    columns = measured_columns(run.rounds, run.verdict, run.seed_rounds, run.about)
    main = main_metric(run.rounds, run.verdict, run.about)
    first = [name for name in columns if _belongs(name, main)]
    later = [name for name in columns if name not in first]
    # What decides comes first, so that it is in sight on a phone.
    header = ["round", *first, "", "sparsity [%]", "of all parameters [%]", *later]
    rows, mark = [], 1 + len(first)
    for index, row in enumerate(run.rounds):
        said = round_mark(row, run.verdict)
        cells = [
            str(row["round"]),
            *(columns[name][index] for name in first),
            said,
            percent(row["sparsity"]),
            percent(row["sparsity_all"]) if is_finite(row.get("sparsity_all")) else "-",
            *(columns[name][index] for name in later),
        ]
        kind = "wins" if row["round"] == winning_round(run.verdict) else ""
        rows.append(Row(cells, kind, {mark: f"mark {said.partition(' ')[0]}"}, {mark + 1: row["sparsity"]}))
    for values, name in reference_rows([*first, *later], run.references):
        rows.append(Row(["", *values[: len(first)], name, "", "", *values[len(first) :]], "reference"))
    link = csv_link("rounds.csv", run.seed_rounds or run.rounds)
    yield table(header, rows, "The rounds and what their metrics are to be compared with.", link, text=(mark,))
    for line in notes(metric_columns(run.rounds, run.about), run.about.metrics or {}):
        yield paragraph(line)


def _belongs(header: str, main: str | None) -> bool:
    """Whether a column has the main metric or what the verdict says of it."""
    return header.partition(" [")[0] == main or header == "p" or header.startswith(("x dense [", "seed "))


def _seeds(run: Results, has_links: bool) -> Iterable[str]:
    if not run.seeds:
        return
    links = []
    for seed, workdir in run.seeds.items():
        link = workdir.report_page.relative_to(run.workdir.path).as_posix()
        is_there = workdir.report_page.exists()
        shown = f'<a href="{link}">seed {seed}</a>' if has_links else f"seed {seed}"
        links.append(shown if is_there else f"seed {seed} (not finished)")
    yield f"<p>Each seed is a run of its own, with its own report: {', '.join(links)}.</p>"


def _search(run: Results, drawn: Drawn) -> Iterator[str]:
    searches = shown_searches(run.searches)
    if not searches:
        return
    figures = []
    for number, search in searches.items():
        name = search_plot(number)
        link = csv_link(f"{name}.csv", search_rows(search))
        figures.append(plot(drawn.plots[name], name, descriptions.of_search(search), "", link))
    yield from plots(figures)
    newest = run.searches[max(run.searches)]
    caption = (
        f"Each cell compares the masks of two epochs: the share of {newest['unit']} that one mask keeps and the other"
        " prunes, the normalised Hamming distance. Masks that have stopped moving make a light block at the upper"
        " right. The ticket (diamond) has"
        f" emerged when the last {newest['queue']:g} masks are all closer to the newest one than the threshold: the"
        " white line, here and on the colour bar."
    )
    if "moved" in newest:
        caption += (
            " The strip below shows how far each mask is from the mask of step 0, over the distance of a random mask;"
            " the ticket must be above the line."
        )
    if len(searches) < len(run.searches):
        caption += f" {len(searches)} of {len(run.searches)} rounds are shown."
    yield paragraph(caption)


def _curves(run: Results, drawn: Drawn) -> Iterator[str]:
    figures = []
    for name in curve_names(run.metrics):
        link = csv_link(f"{curve_plot(name)}.csv", curve_rows(run.metrics, name))
        seen = descriptions.of_curve(run.metrics, name)
        figures.append(plot(drawn.plots[curve_plot(name)], curve_plot(name), seen, "", link))
    if figures:
        yield from plots(figures)
        yield paragraph(
            "One line per round. Long curves are averaged over stretches of steps, and the vertical axis leaves out the"
            " most extreme 1 % of the points."
        )


def _layers(run: Results, drawn: Drawn) -> Iterator[str]:
    if not run.layers:
        return
    found = layer_sparsities(run.layers)
    caption = "Weights pruned in each prunable layer, in percent."
    link = csv_link("layers.csv", run.layers)
    yield from plots([plot(drawn.plots[LAYERS], LAYERS, descriptions.of_layers(found), caption, link)])
    rows = []
    for layer, weights, shares in zip(found.layers, found.weights, found.shares, strict=True):
        known = {2 + place: share for place, share in enumerate(shares) if is_finite(share)}
        cells = [percent(share) if is_finite(share) else "-" for share in shares]
        rows.append(Row([layer, f"{weights:,.0f}", *cells], shares=known))
    header = ["layer", "weights", *(f"round {number}" for number in found.rounds)]
    yield "<details><summary>The numbers</summary>"
    yield table(header, rows, "Weights pruned in each layer, in percent, by round.", text=(0,))
    yield "</details>"


def _overlap(run: Results, drawn: Drawn) -> Iterator[str]:
    if not drawn.overlaps:
        return
    words, link = overlap_words(run, drawn.overlaps), csv_link("overlap.csv", drawn.overlaps)
    if OVERLAP in drawn.plots:
        yield from plots([plot(drawn.plots[OVERLAP], OVERLAP, words, words, link)])
    else:
        yield f"<p>{escape(words)} {link}</p>"


def _origin(run: Results) -> Iterator[str]:
    if run.origin.get("command"):
        yield f'<pre tabindex="0">{escape(str(run.origin["command"]))}</pre>'
    versions = run.origin.get("versions") or {}
    data = run.config["data"].get("name") if isinstance(run.config.get("data"), dict) else None
    digests = (run.verdict or {}).get("data") or {}
    facts = {
        "Seed": ", ".join(map(str, run.seeds)) or run.config.get("seed"),
        "Data": " ".join([str(data), *(f"({split}: SHA-256 {digest[:16]}...)" for split, digest in digests.items())]),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Devices": ", ".join(map(str, run.origin.get("devices") or [])),
        "Git revision": run.origin.get("git_revision"),
    }
    for name, value in facts.items():
        yield paragraph(f"{name}: {'unknown' if value in (None, '') else value}")
    text = json.dumps(run.config, indent=2)
    link = save_link("config.json", text.encode(errors="backslashreplace"), "application/json", "JSON")
    yield f"<details><summary>The config: all {_leaves(run.config)} fields</summary>{link}"
    yield f'<pre tabindex="0">{escape(text)}</pre></details>'


def _leaves(tree: Any) -> int:
    return sum(map(_leaves, tree.values())) if isinstance(tree, Mapping) else 1
