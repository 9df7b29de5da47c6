"""The report of one run as a single HTML file that needs no other file."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from jaxtickets.report.notes import notes
from jaxtickets.report.plots import metric_plot, shown_searches
from jaxtickets.report.ratios import RATIO
from jaxtickets.report.reading import (
    TIME,
    Results,
    describe,
    heading,
    is_finite,
    is_higher_better,
    is_time,
    judged_rounds,
    method_columns,
    metric_columns,
    percent,
    ratio,
    significant,
    winner,
    winning_round,
)
from jaxtickets.report.table import (
    flops_percent,
    kept_parameters,
    measured_columns,
    ratio_of,
    reference_rows,
    round_mark,
)
from jaxtickets.statistics import ratio_limit

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --soft: #656d76; --line: #d8dee4; --card: #f6f8fa;
  --win: #fdeee4; --accent: #d9480f; --good: #2f7d3b; }
@media (prefers-color-scheme: dark) { :root { --page: #16181d; --ink: #e3e6ea; --soft: #99a1ab; --line: #343941;
  --card: #1f2229; --win: #3a271b; --accent: #ff9457; --good: #7fc98a; }
  img.plot { filter: invert(0.91) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .8rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.verdict { margin: 1.4rem 0; padding: 1rem 1.2rem; background: var(--card); border-left: 4px solid var(--line);
  border-radius: 0 8px 8px 0; font-size: 1.08rem; }
.verdict.wins { border-color: var(--accent); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem 1.6rem; margin: 0; }
dl.facts div { display: flex; flex-direction: column; justify-content: space-between; }
dl.facts dt { color: var(--soft); font-size: .85rem; }
dl.facts dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; width: 100%; }
th, td { padding: .34rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
table.tight { font-size: .85rem; }
table.tight :is(th, td) { padding: .34rem .5rem; }
th { font-weight: 600; max-width: 11rem; color: var(--soft); vertical-align: bottom; }
td:last-child, th:last-child { text-align: left; }
tr.wins td { background: var(--win); font-weight: 600; }
tr.wins td:last-child { color: var(--accent); }
.within, td.wins { color: var(--good); }
.worse, .not, .nothing, .diverged, tr.reference td { color: var(--soft); }
figure { margin: 0 0 1.8rem; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.2rem; }
.pair img { width: 100%; }
img.grid { image-rendering: pixelated; }
img.strip { width: 100%; background: #fff; }
img.heatmap { background: #fff; }
pre { background: var(--card); padding: .9rem 1.1rem; border-radius: 8px; overflow-x: auto; font-size: .85rem; }
a { color: var(--accent); }
summary { cursor: pointer; }
"""

CAPTIONS = {
    RATIO: "Each dot is a seed: the metric of its round over that of its own dense run. Bars: the geometric mean and"
    " its confidence interval. Filled: shown to be within the tolerance.",
    "losses": "Training curves, one line per round. Long curves are averaged over stretches of steps, and the vertical"
    " axis leaves out the most extreme 1 % of the points.",
    "layers": "Weights pruned in each prunable layer, in percent. In brackets, the layer's weights before pruning.",
    "samples": "The first two rows of each round's grid: the same latents, or images and their reconstructions.",
}


def page(run: Results, plots: Mapping[str, bytes]) -> str:
    """The report's HTML.

    Args:
      run: the results of the run.
      plots: the content of PNG files, by the names that `plots.figures` gives them.
    """
    title = escape(f"{method_title(run)}: {config_name(run)}")
    of_seed = f" of seed {min(run.seeds)}" if run.seeds else ""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            f'<div class="soft">{escape(str(run.workdir.path))}</div>',
            *_verdict(run),
            *_section("Rounds", _rounds(run)),
            *_section("Seeds", _seeds(run)),
            *_section(f"Samples{of_seed}", _grids(run)),
            *_section(f"Search for the ticket{of_seed}", _search(run, plots)),
            *_section("Plots", _plots(run, plots)),
            *_section("How to reproduce", _origin(run)),
            *_section("Config", _config(run)),
            "</body></html>\n",
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


def _verdict(run: Results) -> Iterable[str]:
    if run.verdict is None:
        complete = Counter(row["seed"] for row in run.seed_rounds)
        of_seeds = ", ".join(f"{count} of seed {seed}" for seed, count in sorted(complete.items()))
        yield f'<p class="verdict">Not finished yet. Rounds complete so far: {of_seeds or len(run.rounds)}.</p>'
        return
    wins = winning_round(run.verdict) is not None
    message = escape(str(run.verdict.get("message", "")))
    yield f'<p class="verdict{" wins" if wins else ""}">{message}</p>'
    yield '<dl class="facts">'
    for name, value in _facts(run.verdict, wins):
        yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    yield "</dl>"
    note = heading(run)
    if run.seed_rounds:
        note += " " + _test_note(run.verdict)
    yield f'<p class="soft">{escape(note)}</p>'


def _test_note(verdict: Mapping[str, Any]) -> str:
    """What the columns of a run over several seeds mean."""
    seeds, confidence = len(verdict["seeds"]), f"{verdict['confidence']:.0%}"
    judged = list(judged_rounds(verdict).values())
    if not any("ratio" in row for row in judged):  # The verdict of an older version.
        note = f"Means over {seeds} seeds, with their {confidence} confidence intervals."
        return f"{note} p: one-sided Welch test that the mean is within the tolerance."
    tested = [row for row in judged if row["p_value"] is not None]
    test = (
        "paired one-sided t test"
        if all(row["pairs"] for row in tested)
        else "one-sided t test, Welch's where seeds differ,"
    )
    ratios = (
        " x dense: geometric mean of the ratio to the dense run of the same seed, with its"
        f" {confidence} confidence interval."
    )
    has_ratios = any(row["ratio"] is not None for row in tested)
    what = "ratio" if has_ratios else "difference from the dense run"
    return (
        f"Means over {seeds} seeds.{ratios if has_ratios else ''} p: {test} that the {what} is within the tolerance,"
        f" adjusted for the number of rounds; below {1 - verdict['confidence']:.2g} the round wins."
    )


def _facts(verdict: Mapping[str, Any], wins: bool) -> Iterable[tuple[str, str]]:
    metric = str(verdict.get("metric"))
    if wins and is_finite(verdict.get("sparsity")):
        yield "weights pruned", f"{percent(verdict['sparsity'])} %"
        yield "weights kept, one in", f"{1 / (1 - verdict['sparsity']):.1f}"
        yield f"{metric}, {winner(verdict)}", significant(verdict.get("value"))
    judged = judged_rounds(verdict)
    yield f"{metric}, {'mean of the dense runs' if judged else 'dense run'}", significant(verdict.get("dense"))
    if judged and is_finite(judged[0].get("spread")):
        yield "spread of the dense runs", f"{judged[0]['spread']:.1%}"
    if wins and (entry := ratio({"round": verdict["winning_round"]}, verdict, metric)):
        yield "times the dense run", ratio_of(entry)
    way = "down" if is_higher_better(verdict) else "up"
    if any(entry.get("ratio") is not None for entry in judged.values()):
        yield f"ratio within tolerance {way} to", f"{ratio_limit(verdict['tolerance'], verdict['better']):g}"
    else:
        yield f"within tolerance {way} to", significant(verdict.get("threshold"))


def _section(title: str, lines: Iterable[str]) -> Iterable[str]:
    lines = list(lines)
    if lines:
        yield f"<h2>{title}</h2>"
        yield from lines


def _rounds(run: Results) -> Iterable[str]:
    if not run.rounds:
        return
    columns = measured_columns(run.rounds, run.verdict, run.seed_rounds, run.about)
    times = {name: header for name, header in method_columns(run.rounds, run.about).items() if is_time(header)}
    header = ["round", "sparsity [%]", "of all parameters [%]", "parameters kept", "FLOPs [% of dense]"]
    header += [*map(escape, columns), "training [s]"]
    header += [*map(escape, times.values()), "step [MB]", ""] if times else [""]
    kind = ' class="tight"' if run.seed_rounds or times else ""
    yield f'<div class="scroll"><table{kind}><thead><tr>'
    yield "".join(f"<th>{cell}</th>" for cell in header)
    yield "</tr></thead><tbody>"
    for index, row in enumerate(run.rounds):
        mark = round_mark(row, run.verdict)
        cells = [
            str(row["round"]),
            percent(row["sparsity"]),
            percent(row["sparsity_all"]) if is_finite(row.get("sparsity_all")) else "-",
            kept_parameters(row),
            flops_percent(row),
            *(cells[index] for cells in columns.values()),
            _tenths(row.get("train_seconds")),
        ]
        if times:
            cells += [*(_tenths(row.get(name)) for name in times), _tenths(row.get("step_bytes"), 1e6)]
        yield '<tr class="wins">' if row["round"] == winning_round(run.verdict) else "<tr>"
        yield "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f'<td class="{escape(mark.partition(" ")[0])}">{escape(mark)}</td></tr>'
    for cells, name in reference_rows(list(columns), run.references):
        cells = [*[""] * 5, *cells, *[""] * (len(header) - 6 - len(columns))]
        yield f'<tr class="reference">{"".join(f"<td>{cell}</td>" for cell in cells)}<td>{name}</td></tr>'
    yield "</tbody></table></div>"
    for line in notes(metric_columns(run.rounds, run.about), run.about.metrics or {}):
        yield f'<p class="soft">{escape(line)}</p>'
    if times:
        parts = escape(", ".join(header.removesuffix(TIME) for header in times.values()))
        note = f"{parts}: part of the training. step: memory of one training step, as XLA counts it."
        yield f'<p class="soft">{note}</p>'


def _tenths(value: Any, unit: float = 1.0) -> str:
    return f"{value / unit:,.1f}" if is_finite(value) else "-"


def _seeds(run: Results) -> Iterable[str]:
    if not run.seeds:
        return
    links = []
    for seed, workdir in run.seeds.items():
        link = workdir.report_page.relative_to(run.workdir.path).as_posix()
        is_there = workdir.report_page.exists()
        links.append(f'<a href="{link}">seed {seed}</a>' if is_there else f"seed {seed} (not finished)")
    yield f"<p>Each seed is a run of its own, with its own report: {', '.join(links)}.</p>"


def _grids(run: Results) -> Iterable[str]:
    if not run.samples:
        return
    # Later names take precedence where one round is two of these.
    names = {max(run.samples): "Last round", 0: "Dense run"}
    if winning_round(run.verdict) is not None:
        names[winning_round(run.verdict)] = winner(run.verdict).capitalize()
    sparsities = {row["round"]: row["sparsity"] for row in run.rounds}
    yield '<div class="pair">'
    for number, name in sorted(names.items()):
        if number in run.samples:
            pruned = f", {percent(sparsities[number])} % pruned" if number in sparsities else ""
            caption = f"{name} (round {number}{pruned})"
            yield _figure(run.samples[number].read_bytes(), caption, "grid")
    yield "</div>"


def _search(run: Results, plots: Mapping[str, bytes]) -> Iterable[str]:
    if "search" not in plots:
        return
    search = run.searches[max(run.searches)]
    unit, shown = search["unit"], len(shown_searches(run.searches))
    caption = (
        f"Each cell compares the masks of two epochs: the share of {unit} that one mask keeps and the other prunes."
        " Masks that have stopped moving make a light block at the upper right. The ticket (diamond) has emerged when"
        f" the last {search['queue']:g} masks are all closer to the newest one than the threshold: the"
        " white line, here and on the colour bar."
    )
    if "moved" in search:
        caption += (
            " The strip below shows how far each mask is from the mask of step 0, over the distance of a random mask;"
            " the ticket must be above the line."
        )
    if shown < len(run.searches):
        caption += f" {shown} of {len(run.searches)} rounds are shown."
    yield _figure(plots["search"], caption, "heatmap")


def _plots(run: Results, plots: Mapping[str, bytes]) -> Iterable[str]:
    described = {
        metric_plot(metric): describe(metric, run.verdict, run.about)
        for metric in metric_columns(run.rounds, run.about)
    }
    captions = {name: f"{metric.direction.capitalize()}." for name, metric in described.items() if metric.better}
    for name, image in plots.items():
        if name != "search":  # The search has a section of its own.
            caption = (CAPTIONS | captions).get(name, "")
            yield _figure(image, caption, "strip" if name == "samples" else "plot")


def _figure(image: bytes, caption: str, kind: str) -> str:
    data = base64.b64encode(image).decode()
    text = escape(caption)
    source = f"data:image/png;base64,{data}"
    return f'<figure><img class="{kind}" alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def _origin(run: Results) -> Iterable[str]:
    if run.origin.get("command"):
        yield f"<pre>{escape(str(run.origin['command']))}</pre>"
    versions = run.origin.get("versions") or {}
    facts = {
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Devices": ", ".join(map(str, run.origin.get("devices") or [])),
        "Git revision": run.origin.get("git_revision"),
    }
    for name, value in facts.items():
        yield f'<div class="soft">{name}: {escape(str(value or "unknown"))}</div>'


def _config(run: Results) -> Iterable[str]:
    text = escape(json.dumps(run.config, indent=2))
    yield f"<details><summary>All {_leaves(run.config)} fields</summary><pre>{text}</pre></details>"


def _leaves(tree: Any) -> int:
    return sum(map(_leaves, tree.values())) if isinstance(tree, Mapping) else 1
