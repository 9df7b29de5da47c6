"""What each round costs: parameters, FLOPs, memory and time."""

from collections.abc import Iterator
from typing import Any

from jaxtickets.report.elements import Row, csv_link, facts, paragraph, table
from jaxtickets.report.reading import (
    TIME,
    Results,
    flops_share,
    is_finite,
    is_time,
    method_columns,
    percent,
    winning_round,
)
from jaxtickets.report.table import flops_percent, kept_parameters

COLUMNS = (  # Of rounds.csv.
    "round",
    "sparsity",
    "flops_dense",
    "flops_effective",
    "params_kept",
    "step_bytes",
    "train_seconds",
    "steps_per_second",
)


def costs(run: Results) -> Iterator[str]:
    """The HTML of the costs: the ticket's beside the dense network's, and those of each round."""
    if not run.rounds:
        return
    yield from facts(_of_the_ticket(run))
    times = {name: header for name, header in method_columns(run.rounds, run.about).items() if is_time(header)}
    header = ["round", "FLOPs per image", "% of dense", "parameters kept", "weights pruned [%]"]
    header += ["memory of a step [MB]", "training [s]", *times.values(), "steps per second", "training up to here [s]"]
    rows, total = [], 0.0
    for row in run.rounds:
        total += row["train_seconds"] if is_finite(row.get("train_seconds")) else 0
        cells = [
            str(row["round"]),
            _count(row.get("flops_effective")),
            flops_percent(row),
            kept_parameters(row),
            percent(row["sparsity"]),
            tenths(row.get("step_bytes"), 1e6),
            tenths(row.get("train_seconds")),
            *(tenths(row.get(name)) for name in times),
            tenths(row.get("steps_per_second")),
            tenths(total),
        ]
        share = flops_share(row)
        shares = {} if share is None else {2: min(1.0, share)}
        rows.append(Row(cells, "wins" if row["round"] == winning_round(run.verdict) else "", shares=shares))
    columns = [*COLUMNS, *times]
    link = csv_link("costs.csv", [{name: row.get(name) for name in columns} for row in run.rounds])
    yield table(header, rows, "Costs of each round" + (", means over the seeds." if run.seeds else "."), link)
    note = "memory of a step: of a training step on a device, by XLA's account."
    note += (
        " training: without compilation and metrics; rounds after a late rewinding train fewer steps than the first."
    )
    if times:
        note += f" {', '.join(header.removesuffix(TIME) for header in times.values())}: part of the training."
    yield paragraph(note)


def _of_the_ticket(run: Results) -> Iterator[tuple[str, str]]:
    dense = next((row for row in run.rounds if row["round"] == 0), None)
    ticket = next((row for row in run.rounds if row["round"] == winning_round(run.verdict)), None)
    if not dense or not ticket or not ticket["round"]:
        return
    for name, column, way in (
        ("FLOPs per image", "flops_effective", "fewer"),
        ("parameters", "params_kept", "fewer"),
        ("memory of a step", "step_bytes", "less"),
    ):
        yield from _against(name, dense.get(column), ticket.get(column), way)
    # Others train arrays of the same sizes: what their seconds differ by is not the ticket's doing.
    if any(place.compact(ticket["round"]).path.is_dir() for place in (run.workdir, *run.seeds.values())):
        seconds = (
            1 / speed if is_finite(speed := row.get("steps_per_second")) and speed else None for row in (dense, ticket)
        )
        yield from _against("time of a step", *seconds, "less")


def _against(name: str, before: Any, after: Any, way: str) -> Iterator[tuple[str, str]]:
    if is_finite(before) and is_finite(after) and before > 0:
        share = after / before - 1
        text = "the same" if abs(share) < 0.005 else f"{abs(share):.0%} {way if share < 0 else 'more'}"
        yield f"{name}, ticket against dense", text


def _count(value: Any) -> str:
    """A number of operations, with a prefix."""
    if not is_finite(value):
        return "-"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.0f}"


def tenths(value: Any, unit: float = 1.0) -> str:
    """A number with one decimal, in units; "-" where it is unknown."""
    return f"{value / unit:,.1f}" if is_finite(value) else "-"
