"""The report is built from a workdir's files alone, whatever state a run left them in."""

import csv
import json
import math
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from jaxtickets import report, statistics
from jaxtickets.errors import UserError
from jaxtickets.report.__main__ import main
from jaxtickets.report.compare import comparison_figure
from jaxtickets.report.drawing import metric_axis
from jaxtickets.report.levels import against_control
from jaxtickets.report.page import _facts, _test_note
from jaxtickets.report.plots import corner, curve, metric_figure, search_figure, shown_searches
from jaxtickets.report.ratios import ratio_figure
from jaxtickets.report.reading import metric_columns, read, short, significant
from jaxtickets.report.table import measured_columns
from jaxtickets.runs.verdict import judge_seeds

LAYERS = {
    "generator/project/dense/kernel": 65_536,
    "generator/up_8/conv/kernel": 147_456,
    "generator/up_16/conv/kernel": 36_864,
    "generator/out/conv/kernel": 864,
    "discriminator/down_16/conv/kernel": 864,
    "discriminator/down_8/conv/kernel": 36_864,
}
DISTANCES = [12.31, 11.84, 12.02, 12.9, 13.4, 17.2]
WINNER = 4


def write_workdir(path, *, seed=0, rate=0.3, rounds=6, finished=True, winner=WINNER, distances=DISTANCES):
    """Writes a workdir as a GAN run of `rounds` rounds leaves it."""
    random = np.random.default_rng(seed)
    (path / "samples").mkdir(parents=True)
    config = {
        "experiment": "imp",
        "seed": seed,
        "data": {"name": "digits"},
        "prune": {"rate": rate, "rounds": 5, "include": [".*<kernel>"]},
    }
    record = {
        "config": config,
        "versions": {"jax": "0.4.38", "python": "3.11"},
        "devices": ["cpu:0"],
        "git_revision": "0123abc",
        "command": "python -m jaxtickets.main --config=configs/gan_digits.py:quick",
    }
    (path / "config.json").write_text(json.dumps(record))
    weights = sum(LAYERS.values())
    rows, layers, metrics = [], [], []
    for number in range(rounds):
        density = (1 - rate) ** number
        rows.append(
            {
                "round": number,
                "sparsity": 1 - density,
                "sparsity_all": 0.99 * (1 - density),
                "density": density,
                "fd_digits": distances[number] + 0.1 * seed,
                "kid": distances[number] / 300,
                "flops_dense": 80_000_000,
                "flops_effective": int(80_000_000 * density),
                "params_kept": round(weights * density),
                "train_seconds": 31.4 + number,
                "steps_per_second": 63.5,
            }
        )
        for index, (layer, count) in enumerate(LAYERS.items()):
            kept = round(count * density ** (1.6 - 0.25 * index))
            layers.append({"round": number, "layer": layer, "weights": count, "kept": kept})
        for step in range(0, 2001, 25):
            decay = np.exp(-step / 400) * (1 + 0.1 * number)
            metrics.append(
                {
                    "round": number,
                    "step": step,
                    "split": "train",
                    "seconds": step / 60,
                    "generator_loss": 2.1 - decay + 0.1 * random.normal(),
                    "discriminator_loss": 0.6 + decay + 0.05 * random.normal(),
                }
            )
        samples_grid(random, density).save(path / "samples" / f"round_{number:03d}.png")
    write_csv(path / "rounds.csv", rows)
    write_csv(path / "layers.csv", layers)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if finished:
        verdict = {
            "metric": "fd_digits",
            "metric_label": "Frechet distance in digits features, 2,048 samples",
            "tolerance": 0.1,
            "dense": distances[0],
            "threshold": 1.1 * distances[0],
            "winning_round": winner,
            "sparsity": None if winner is None else 1 - (1 - rate) ** winner,
            "value": None if winner is None else distances[winner],
            "message": "No round after the dense one wins." if winner is None else f"Round {winner} wins.",
        }
        (path / "verdict.json").write_text(json.dumps(verdict))
    return path


def write_searches(path, *, epochs=12, emerged=(7, 5, 6, None, 4), unit="channels"):
    """Turns the workdir into that of an early-bird run, with a search in each round but the dense one.

    `emerged` has for each round the index of the ticket among the masks, which were drawn once per epoch of 31 steps.
    """
    record = json.loads((path / "config.json").read_text())
    record["config"]["experiment"] = "early_bird"
    record["command"] = "python -m jaxtickets.main --config=configs/early_bird.py:quick"
    (path / "config.json").write_text(json.dumps(record))
    (path / "search").mkdir()
    random = np.random.default_rng(record["config"]["seed"])
    steps = [31 * epoch for epoch in range(1, epochs + 1)]
    rows = read_rows(path)
    for number, (row, index) in enumerate(zip(rows, (None, *emerged), strict=False)):
        row["emergence_epoch"] = None if index is None else 31 * (index + 1) * 64 / 2000
        row["search_seconds"] = 9.5 if number else 0
        row["step_bytes"] = round(48_300_000 * float(row["density"]))
        if number == 0:
            continue
        # Scores move less and less, and so do the masks, which keep the upper 70 %.
        moves = random.normal(size=(epochs, 400)) * np.exp(-np.arange(epochs) / 2.2)[:, None]
        scores = np.cumsum(moves, axis=0)
        masks = scores > np.quantile(scores, 0.3, axis=1, keepdims=True)
        search = {
            "steps": steps,
            "epochs": [step * 64 / 2000 for step in steps],
            "distances": (masks[:, None] != masks[None]).mean(axis=2).tolist(),
            "queue": 5,
            "threshold": 0.1,
            "emerged": index,
            "unit": unit,
        }
        (path / "search" / f"{number:03d}.json").write_text(json.dumps(search))
    write_csv(path / "rounds.csv", rows)
    return path


def write_seeds(path, *, rounds=(6, 6, 6), rate=0.3, distances=DISTANCES, finished=True, emerged=None):
    """Writes a workdir as a run over several seeds leaves it; seed n has finished `rounds[n]` rounds.

    `emerged` has the `emerged` of `write_searches` for each seed, if there was a search.
    """
    rows = []
    for seed, count in enumerate(rounds):
        seed_path = path / f"seed_{seed}"
        write_workdir(seed_path, seed=seed, rate=rate, rounds=count, distances=distances, finished=False)
        if emerged:
            write_searches(seed_path, emerged=emerged[seed])
        rows += [{"seed": seed, **row} for row in read_rows(seed_path)]
        if count == max(rounds):
            (seed_path / "report.html").write_text("the report of one seed")
    record = json.loads((path / "seed_0" / "config.json").read_text())
    record["config"] |= {"seeds": len(rounds)}
    (path / "config.json").write_text(json.dumps(record))
    write_csv(path / "rounds.csv", rows)
    if finished:
        judged = [
            {
                "round": number,
                "sparsity": 1 - (1 - rate) ** number,
                "mean": distances[number] + 0.1,
                "low": distances[number] - 0.4,
                "high": distances[number] + 0.6,
                "p_value": (0.0004 if number <= WINNER else 0.734) if number else None,
                "wins": number <= WINNER if number else None,
            }
            for number in range(max(rounds))
        ]
        verdict = {
            "metric": "fd_digits",
            "metric_label": "Frechet distance in digits features, 2,048 samples",
            "tolerance": 0.1,
            "confidence": 0.95,
            "seeds": list(range(len(rounds))),
            "dense": distances[0] + 0.1,
            "threshold": 1.1 * (distances[0] + 0.1),
            "rounds": judged,
            "winning_round": WINNER,
            "sparsity": judged[WINNER]["sparsity"],
            "value": judged[WINNER]["mean"],
            "message": f"Round {WINNER} wins over {len(rounds)} seeds.",
        }
        (path / "verdict.json").write_text(json.dumps(verdict))
    return path


def samples_grid(random, density):
    """An 8 x 8 grid of 16 x 16 strokes on black, 2 pixels apart."""
    grid = np.full((8 * 18 - 2, 8 * 18 - 2), 40, np.uint8)
    y, x = np.mgrid[:16, :16] - 7.5
    for row in range(8):
        for column in range(8):
            angle, radius = random.uniform(0, np.pi), random.uniform(3, 6)
            ring = np.abs(np.hypot(x * np.cos(angle) + y * np.sin(angle), 0.6 * y) - radius)
            noise = 60 * (1 - density) * random.random((16, 16))
            cell = np.clip(255 * np.exp(-(ring**2)) + noise, 0, 255)
            grid[18 * row :][:16, 18 * column :][:, :16] = cell
    return Image.fromarray(grid)


def read_rows(path, name="rounds.csv"):
    with (path / name).open() as file:
        return list(csv.DictReader(file))


def table_of(path):
    """The lines of a run's summary without its heading."""
    return report.summary(path).partition("\n\n")[2].splitlines()


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def workdir(tmp_path):
    return write_workdir(tmp_path / "run")


@pytest.fixture
def seeds(tmp_path):
    return write_seeds(tmp_path / "seeds")


@pytest.fixture
def unfinished_seeds(tmp_path):
    return write_seeds(tmp_path / "seeds", rounds=(6, 3, 1), finished=False)


def test_a_directory_that_is_no_workdir_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="config.json"):
        read(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        read(tmp_path / "nowhere")


def test_what_a_kill_cut_short_is_left_out(workdir):
    whole = read(workdir)
    for name, cut in {"metrics.jsonl": '{"round": 5, "st', "rounds.csv": "6,0.8", "layers.csv": "6,gener"}.items():
        with (workdir / name).open("a") as file:
            file.write(cut)
    (workdir / "verdict.json").write_text('{"metric": "fd')
    assert read(workdir) == whole._replace(verdict=None)


def test_of_a_row_written_twice_the_later_one_counts(workdir):
    row = {"round": 2, "step": 100, "split": "train", "generator_loss": 77.0}
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    run = read(workdir)
    assert [r["generator_loss"] for r in run.metrics if (r["round"], r["step"]) == (2, 100)] == [77.0]
    steps = curve(run.metrics, 2, "generator_loss")[0]
    assert (np.diff(steps) > 0).all()


def test_the_table_has_one_line_per_round_and_marks_the_winner(workdir):
    run = read(workdir)
    header, _, *lines = report.rounds_table(run.rounds, run.verdict).splitlines()
    assert header.split()[:2] == ["round", "sparsity"] and "fd_digits" in header and "kid" in header
    assert len(lines) == 6
    assert [line.split()[0] for line in lines] == list("012345")
    assert [number for number, line in enumerate(lines) if line.endswith("<== sparsest within tolerance")] == [WINNER]
    assert "winning" not in "".join(lines)  # One seed is an observation.
    assert lines[0].endswith("dense") and lines[1].endswith("within tolerance") and lines[5].endswith("worse")
    assert {"30.0", "201,914", "70.0", "11.84", "32.4"} <= set(lines[1].split())


def test_the_table_stays_narrow_and_names_what_it_leaves_out(workdir):
    run = read(workdir)
    rows = [row | {f"another_metric_{i}": 1.0 for i in range(9)} for row in run.rounds]
    table = report.rounds_table(rows, run.verdict)
    assert max(map(len, table.splitlines()[:-1])) <= 110
    assert "fd_digits" in table and "another_metric_8" in table.splitlines()[-1]


def test_the_table_of_an_unfinished_run_judges_nothing(workdir):
    table = report.rounds_table(read(workdir).rounds, None)
    assert not re.search("winning|within|worse", table)
    assert report.rounds_table([], None)


@pytest.mark.parametrize(
    "value, text",
    [(12.345678, "12.35"), (0.04103, "0.04103"), (0, "0"), (float("nan"), "nan"), (None, "-"), (9e9, "9e+09")],
)
def test_metric_values_have_four_significant_digits(value, text):
    assert significant(value) == text


def test_the_page_needs_nothing_beside_it(workdir):
    html = report.build(workdir).read_text()
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", html)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import|<script|<link", html)


def test_the_page_tells_the_verdict_and_how_to_reproduce_it(workdir):
    html = report.build(workdir).read_text()
    for text in (
        "Round 4 wins.",
        "imp: gan_digits.py:quick",
        "python -m jaxtickets.main",
        "0.4.38",
        "cpu:0",
        "0123abc",
    ):
        assert text in html
    assert html.count('<tr class="wins">') == 1
    grids = ("Dense run (round 0", "Sparsest within tolerance (round 4", "Last round (round 5")
    assert all(caption in html for caption in grids)
    assert "inning" not in html and "fd_digits, sparsest within tolerance" in html


def test_the_page_escapes_everything_that_comes_from_a_file(workdir):
    evil = "<script>alert('x')</script>"
    record = json.loads((workdir / "config.json").read_text())
    record |= {"command": evil, "versions": {evil: evil}, "devices": [evil], "git_revision": evil}
    record["config"] |= {"experiment": evil, evil: evil}
    (workdir / "config.json").write_text(json.dumps(record))
    verdict = json.loads((workdir / "verdict.json").read_text())
    (workdir / "verdict.json").write_text(json.dumps(verdict | {"message": evil, "metric_label": evil}))
    rounds = (workdir / "rounds.csv").read_text()
    (workdir / "rounds.csv").write_text(rounds.replace("kid", "<script>"))
    html = report.build(workdir).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html


def test_every_plot_is_a_png_in_plots(workdir):
    report.build(workdir)
    names = {path.name for path in (workdir / "plots").iterdir()}
    assert names == {"metric_fd_digits.png", "metric_kid.png", "losses.png", "layers.png", "samples.png"}
    for name in names:
        Image.open(workdir / "plots" / name).verify()


def test_an_unfinished_run_is_reported(tmp_path):
    workdir = write_workdir(tmp_path / "run", rounds=2, finished=False)
    html = report.build(workdir).read_text()
    assert "Not finished yet" in html and '<tr class="wins">' not in html


def test_a_run_without_a_finished_round_is_reported(tmp_path):
    workdir = write_workdir(tmp_path / "run", rounds=1, finished=False)
    for name in ("rounds.csv", "layers.csv", "metrics.jsonl", "samples/round_000.png"):
        (workdir / name).unlink()
    assert "Not finished yet" in report.build(workdir).read_text()


def test_a_run_in_which_nothing_wins_is_reported(tmp_path):
    workdir = write_workdir(tmp_path / "run", winner=None)
    html = report.build(workdir).read_text()
    assert "No round after the dense one wins." in html and '<tr class="wins">' not in html


def test_a_diverged_round_is_reported(tmp_path):
    workdir = write_workdir(tmp_path / "run", distances=[*DISTANCES[:5], float("nan")])
    assert "nan" in report.build(workdir).read_text()


def test_a_report_replaces_the_earlier_one_and_leaves_no_other_file(workdir):
    report.build(workdir)
    before = sorted(workdir.rglob("*"))
    report.build(workdir)
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize("gap", [0, 1, 2])
def test_the_corner_of_a_grid_is_two_whole_rows(gap):
    side = 8 * (16 + gap) - gap
    assert corner(Image.new("L", (side, side))).shape == (2 * (16 + gap), side, 3)


def test_rounds_of_several_seeds_are_means_of_those_that_finished_them(unfinished_seeds):
    run = read(unfinished_seeds)
    values = np.full((3, 6), np.nan)
    for row in run.seed_rounds:
        values[row["seed"], row["round"]] = row["fd_digits"]
    assert np.isfinite(values).sum() == 10
    assert [row["fd_digits"] for row in run.rounds] == pytest.approx(np.nanmean(values, axis=0))
    assert [row["round"] for row in run.rounds] == list(range(6)) and "seed" not in run.rounds[0]


def test_of_a_row_of_a_seed_written_twice_the_later_one_counts(seeds):
    lines = (seeds / "rounds.csv").read_text().splitlines()
    again = lines[2].replace("11.84", "77.0")
    (seeds / "rounds.csv").write_text("\n".join([*lines, again]))
    run = read(seeds)
    assert len(run.seed_rounds) == 18
    assert {row["seed"]: row["fd_digits"] for row in run.seed_rounds if row["round"] == 1}[0] == 77.0


def test_the_table_of_several_seeds_has_intervals_and_says_which_wins_are_shown(seeds):
    header, _, *lines = table_of(seeds)
    assert "fd_digits [95% interval]" in header and "seed 0" not in header
    assert max(map(len, lines)) <= 110 and lines[-1] == "Round 4 wins over 3 seeds."
    assert "11.94 [11.44, 12.44]" in lines[1] and "<0.001" in lines[1] and "201,914" in lines[1]
    assert "0.734" in lines[5]
    ends = ["dense", "wins", "wins", "wins", "<== winning ticket", "not shown to win"]
    assert all(line.endswith(f"  {end}") for line, end in zip(lines[:6], ends, strict=True))


def test_the_table_of_unfinished_seeds_has_their_values_and_judges_nothing(unfinished_seeds):
    header, _, *lines = table_of(unfinished_seeds)
    assert [f"seed {seed}" in header for seed in range(4)] == [True, True, True, False]
    assert {"11.89", "11.84", "11.94", "-"} <= set(lines[1].split())
    assert lines[-1] == "The run is not finished." and not re.search("win|worse", "".join(lines))


def test_the_table_of_many_unfinished_seeds_stays_narrow_and_names_what_it_leaves_out(tmp_path):
    table = table_of(write_seeds(tmp_path / "run", rounds=(2,) * 12, finished=False))
    assert max(map(len, table[:4])) <= 110
    assert table[4].startswith("Also in rounds.csv: seed") and table[4].endswith("seed 11, kid.")


def test_the_page_of_several_seeds_shows_means_and_leads_to_each_seed(seeds):
    html = report.build(seeds).read_text()
    for text in ("Round 4 wins over 3 seeds.", "11.94 [11.44, 12.44]", "&lt;0.001", "Samples of seed 0", "kid"):
        assert text in html
    assert html.count('<tr class="wins">') == 1
    links = re.findall(r'href="([^"]*)"', html)
    assert links == [f"seed_{seed}/report.html" for seed in range(3)]
    assert all((seeds / link).is_file() for link in links)
    assert {path.name for path in (seeds / "plots").iterdir()} == {"metric_fd_digits.png", "metric_kid.png"}


def test_the_page_of_unfinished_seeds_says_how_far_each_is(unfinished_seeds):
    html = report.build(unfinished_seeds).read_text()
    assert "Rounds complete so far: 6 of seed 0, 3 of seed 1, 1 of seed 2." in html
    assert re.findall(r'href="([^"]*)"', html) == ["seed_0/report.html"] and "seed 2 (not finished)" in html


def test_several_seeds_without_a_finished_round_are_reported(unfinished_seeds):
    (unfinished_seeds / "rounds.csv").unlink()
    assert "Not finished yet" in report.build(unfinished_seeds).read_text()
    assert "No round has finished yet." in report.summary(unfinished_seeds)


def test_the_plot_of_several_seeds_has_the_intervals_of_the_verdict_and_one_dot_per_seed(seeds):
    run = read(seeds)
    axes = metric_figure(run.rounds, run.verdict, "fd_digits", run.seed_rounds).axes[0]
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    corners = drawn["95% interval of the mean"].get_paths()[0].vertices[:, 1]
    expected = [bound for row in run.verdict["rounds"] for bound in (row["low"], row["high"])]
    assert set(corners) == set(expected)
    assert len(drawn["each seed"].get_offsets()) == 18
    others = metric_figure(run.rounds, run.verdict, "kid", run.seed_rounds).axes[0].get_legend_handles_labels()[1]
    assert "each seed" in others and "95% interval of the mean" not in others


# The verdict over several seeds, as it is written today; `write_seeds` writes one of before.

RATIOS = (1, 0.9, 0.8, 0.95, 1.0, 1.5)  # Of each round to the dense run, in the mean over the seeds.


def write_ratios(path, *, ratios=RATIOS, spread=0.03, seeds=5, **options):
    """Writes a workdir as a run over several seeds leaves it, with the verdict that this version gives."""
    write_seeds(path, rounds=(len(ratios),) * seeds)
    random = np.random.default_rng(3)
    rows = read_rows(path)
    levels = np.exp(random.normal(2.5, 0.2, seeds))
    for row in rows:
        noise = math.exp(spread * random.normal())
        row["fd_digits"] = levels[int(row["seed"])] * ratios[int(row["round"])] * noise
    write_csv(path / "rounds.csv", rows)
    verdict = judge_seeds(read(path).seed_rounds, "fd_digits", "Frechet distance", 0.1, 0.95, **options)
    (path / "verdict.json").write_text(json.dumps(verdict))
    return path


@pytest.fixture
def judged(tmp_path):
    return write_ratios(tmp_path / "judged")


def test_the_table_of_several_seeds_has_ratios_with_intervals_and_adjusted_p_values(judged):
    run = read(judged)
    columns = measured_columns(run.rounds, run.verdict, run.seed_rounds)
    assert list(columns) == ["fd_digits", "x dense [95%]", "p", "kid"]
    entries = run.verdict["rounds"]
    for entry, cell, p_value in zip(entries, columns["x dense [95%]"], columns["p"], strict=True):
        if entry["round"] == 0:
            assert cell == p_value == "-"
            continue
        assert cell == f"{entry['ratio']:.2f} [{entry['ratio_low']:.2f}, {entry['ratio_high']:.2f}]"
        assert p_value == (f"{entry['p_adjusted']:.3f}" if entry["p_adjusted"] >= 0.001 else "<0.001")
    lines = table_of(judged)
    ends = ["dense", "wins", "wins", "wins", "<== winning ticket", "not shown to win"]
    assert all(line.endswith(f"  {end}") for line, end in zip(lines[2:], ends, strict=False))
    assert max(map(len, lines[:-1])) <= 110 and lines[-1].startswith("Winning ticket: round 4 ")


def test_the_ratio_and_the_p_value_are_always_shown(tmp_path):
    path = write_ratios(tmp_path / "run")
    for name in ("rounds.csv", "verdict.json"):
        (path / name).write_text((path / name).read_text().replace("fd_digits", "reconstruction_error"))
    header, *lines, left_out, _, _ = table_of(path)
    assert re.search(r"reconstruction_error +x dense \[95%\] +p +train s", header)
    assert max(map(len, lines)) <= 110 and left_out == "Also in rounds.csv: params_kept, kid."


def test_a_round_that_is_not_tested_is_marked_as_such(tmp_path):
    path = write_ratios(tmp_path / "run")
    rows = read_rows(path)
    for row in rows:
        if (row["seed"], row["round"]) == ("1", "4") or row["round"] == "5":
            row["sparsity"] = 0.0
    write_csv(path / "rounds.csv", rows)
    verdict = judge_seeds(read(path).seed_rounds, "fd_digits", "Frechet distance", 0.1, 0.95)
    (path / "verdict.json").write_text(json.dumps(verdict))
    lines = table_of(path)
    assert lines[6].endswith("  not tested") and lines[7].endswith("  nothing pruned")
    assert "<td class=" in report.build(path).read_text()


def test_the_page_of_several_seeds_names_the_test_and_the_spread_of_the_dense_runs(judged):
    html = report.build(judged).read_text()
    verdict = read(judged).verdict
    entry, dense = verdict["rounds"][4], verdict["rounds"][0]
    for text in (
        "paired one-sided t test",
        "adjusted for the number of rounds; below 0.05 the round wins",
        f"{entry['ratio']:.2f} [{entry['ratio_low']:.2f}, {entry['ratio_high']:.2f}]",
        f"{100 * dense['spread']:.1f}%",
        "fd_digits, winning ticket",
        "Winning ticket (round 4",
        "Each dot is a seed",
    ):
        assert text in html
    assert html.count('<tr class="wins">') == 1
    assert {path.name for path in (judged / "plots").iterdir()} == {
        *("ratio.png", "metric_fd_digits.png", "metric_kid.png")
    }


def test_the_winner_of_a_control_is_called_a_control(tmp_path):
    path = write_ratios(tmp_path / "run", subject="control (reinit)")
    html, text = report.build(path).read_text(), report.summary(path)
    assert "<== winning control" in text and "Winning control (round 4" in html
    assert "winning ticket" not in (text + html).lower()


def test_the_plot_of_ratios_has_the_intervals_of_the_verdict_and_the_ratios_of_each_seed(judged):
    run = read(judged)
    (axes,) = ratio_figure(run).axes
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    dots = drawn["each seed"].get_offsets()[:, 1]
    values = {(row["seed"], row["round"]): row["fd_digits"] for row in run.seed_rounds}
    expected = [value / values[seed, 0] for (seed, round_), value in values.items() if round_]
    assert sorted(dots) == pytest.approx(sorted(expected))
    bars = drawn["geometric mean, 95% interval"].lines[2][0].get_segments()
    entries = run.verdict["rounds"][1:]
    np.testing.assert_allclose(
        [[low, high] for (_, low), (_, high) in bars], [[row["ratio_low"], row["ratio_high"]] for row in entries]
    )
    assert "within tolerance (up to 1.1)" in drawn and "winning ticket (round 4, 76.0 % pruned)" in drawn
    hollow = [tuple(colour[:3]) == (1, 1, 1) for colour in axes.collections[-2].get_facecolors()]
    assert hollow == [not row["wins"] for row in entries]


@pytest.mark.parametrize("write", [write_workdir, write_seeds])
def test_without_ratios_there_is_no_plot_of_them(tmp_path, write):
    assert ratio_figure(read(write(tmp_path / "run"))) is None


def test_a_metric_without_logs_is_reported_by_its_means(tmp_path):
    path = write_ratios(tmp_path / "run")
    rows = [row | {"fd_digits": float(row["fd_digits"]) - 12} for row in read_rows(path)]
    write_csv(path / "rounds.csv", rows)
    verdict = judge_seeds(read(path).seed_rounds, "fd_digits", "Frechet distance", 0.1, 0.95)
    (path / "verdict.json").write_text(json.dumps(verdict))
    assert "fd_digits [95% interval]" in report.summary(path) and ratio_figure(read(path)) is None
    assert "Not finished" not in report.build(path).read_text() and "none" in report.power(path)


def test_comparisons_have_the_ratios_of_the_verdicts(tmp_path, judged, seeds):
    report.compare([judged, seeds], tmp_path)
    first, old = read_rows(tmp_path, "summary.csv")
    entry = read(judged).verdict["rounds"][4]
    names = ("ratio", "ratio_low", "ratio_high", "p_adjusted")
    assert [float(first[name]) for name in names] == pytest.approx([entry[name] for name in names])
    assert {old[name] for name in names} == {""} and (first["seeds"], old["seeds"]) == ("5", "3")
    text = report.levels([judged, seeds], tmp_path)
    table = cells(text.partition("Times the dense run of the same seed")[2])
    assert list(table) == ["", "judged"] and table[""] == ["30.0", "51.0", "65.7", "76.0", "83.2"]
    assert table["judged"][3] == f"{entry['ratio']:.2f} [{entry['ratio_low']:.2f}, {entry['ratio_high']:.2f}]*"
    rows = {row["sparsity"]: row for row in read_rows(tmp_path, "levels.csv") if row["run"] == "judged"}
    assert [float(rows["0.76"][name]) for name in names] == pytest.approx([entry[name] for name in names])
    assert {rows["0.0"][name] for name in names} == {""}


def test_only_tested_runs_have_a_winning_ticket_in_the_plot_of_a_comparison(tmp_path, judged, workdir):
    def legend(*paths):
        return comparison_figure({path.name: read(path) for path in paths}, []).axes[0].get_legend_handles_labels()[1]

    assert "winning ticket" in legend(judged) and "sparsest within tolerance" in legend(workdir)
    assert "winning ticket or\nsparsest within tolerance" in legend(judged, workdir)


def test_a_run_is_compared_with_a_control_over_the_same_seeds(tmp_path, judged):
    control = write_ratios(tmp_path / "control", ratios=[*RATIOS[:5], 1.2], spread=0.1)
    runs = read(judged), read(control)
    found = against_control(*runs, "fd_digits")
    assert list(found) == [1, 2, 3, 4, 5]
    ours, theirs = ([row["fd_digits"] for row in run.seed_rounds if row["round"] == 5] for run in runs)
    expected = stats.ttest_rel(np.log(ours), np.log(theirs))
    assert found[5].p_value == pytest.approx(expected.pvalue)
    assert (found[5].low, found[5].high) == pytest.approx(tuple(np.exp(expected.confidence_interval())))


# How many seeds are needed.


def test_the_power_table_has_the_seeds_that_each_round_needs(judged):
    run = read(judged)
    tested = statistics.tested_rounds(run.seed_rounds, "fd_digits", 0.1, "lower", 0.95)
    table = cells(report.power(judged))
    alone = [statistics.seeds_needed(one.comparison.effect, one.level) for one in tested.values()]
    for index, (round_, one) in enumerate(tested.items()):
        *_, spread, p_value, needed = table[str(round_)]
        assert spread == f"{100 * one.comparison.spread:.1f}%"
        # The denser rounds, too, must win.
        expected = None if alone[index] is None else max(n for n in alone[: index + 1] if n is not None)
        assert needed == ("none" if expected is None else str(expected))
    assert [table[str(round_)][-1] for round_ in range(1, 6)].count("none") == 1 and table["5"][-1] == "none"
    dense = [row["fd_digits"] for row in run.seed_rounds if row["round"] == 0]
    assert f"spread {100 * np.log(dense).std(ddof=1):.1f}%" in report.power(judged)
    assert max(map(len, report.power(judged).splitlines())) <= 110


def test_the_power_of_unfinished_seeds_and_of_an_old_verdict_is_told(unfinished_seeds, tmp_path):
    assert "round" in report.power(unfinished_seeds)
    assert "round" in report.power(write_seeds(tmp_path / "old"))


def test_the_power_of_one_seed_is_refused_in_one_line(workdir, judged, tmp_path, capsys):
    assert main([str(judged), "--power"]) == 0
    assert "seeds for 80% power" in capsys.readouterr().out
    few = write_seeds(tmp_path / "few", rounds=(3,), finished=False)
    for arguments in ([str(workdir), "--power"], [str(few), "--power"], [str(judged), str(workdir), "--power"]):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("jaxtickets: ") and "--power" in line


@pytest.fixture
def searched(tmp_path):
    return write_searches(write_workdir(tmp_path / "searched"))


def test_searches_are_read_by_their_rounds_and_their_columns_are_no_metrics(searched, workdir):
    run = read(searched)
    assert list(run.searches) == [1, 2, 3, 4, 5]
    assert [search["emerged"] for search in run.searches.values()] == [7, 5, 6, None, 4]
    assert metric_columns(run.rounds) == metric_columns(read(workdir).rounds) == ["fd_digits", "kid"]
    assert read(workdir).searches == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"distances": [[0.0, 0.1], [0.1]]},
        {"distances": [[float("nan")] * 12] * 12},
        {"distances": None},
        {"epochs": []},
        {"epochs": ["one"] * 12},
        {"emerged": 12},
        {"threshold": None},
        {"unit": "<script>"},
        None,
    ],
)
def test_a_damaged_search_is_left_out_and_the_others_are_reported(searched, damage):
    file = searched / "search" / "002.json"
    text = file.read_text()
    file.write_text(text[:-20] if damage is None else json.dumps(json.loads(text) | damage))
    assert list(read(searched).searches) == [1, 3, 4, 5]
    assert "Search for the ticket" in report.build(searched).read_text()


def test_the_table_says_at_which_epoch_each_ticket_was_found(searched, workdir):
    header, _, *lines = table_of(searched)
    column = slice(header.index("found at epoch"), header.index("found at epoch") + len("found at epoch"))
    assert [line[column].strip() for line in lines[:6]] == ["-", "7.94", "5.95", "6.94", "-", "4.96"]
    assert "found" not in report.summary(workdir)


def test_the_table_of_a_search_stays_narrow_and_names_what_it_leaves_out(tmp_path):
    seeds = write_seeds(tmp_path / "seeds", emerged=((7, 5, 6, None, 4),) * 3)
    *table, left_out, _, _ = table_of(seeds)
    assert max(map(len, table)) <= 110 and left_out == "Also in rounds.csv: emergence_epoch, kid."


def test_over_several_seeds_the_epoch_is_the_mean_of_the_seeds_that_found_a_ticket(tmp_path):
    emerged = ((7, 5, 6, None, 4), (5, 5, None, None, 4), (3, 5, 8, None, 4))
    run = read(write_seeds(tmp_path / "seeds", emerged=emerged))
    found = measured_columns(run.rounds, run.verdict, run.seed_rounds)["found at epoch"]
    assert found == ["-", "5.95", "5.95", "7.94 (2 of 3)", "-", "4.96"]


def test_the_page_of_a_search_explains_its_plot_and_leaves_its_colours_as_they_are(searched, workdir):
    html, other = report.build(searched).read_text(), report.build(workdir).read_text()
    image, caption = re.search(
        r"<h2>Search for the ticket</h2>\n<figure>(<img [^>]*>)<figcaption>([^<]*)", html
    ).groups()
    assert 'class="heatmap"' in image and not re.search("heatmap [^}]*filter", html.partition("</style>")[0])
    for text in ("share of channels", "last 5 masks", "threshold", "4 of 5 rounds are shown"):
        assert text in caption
    header = re.findall("<th>([^<]*)</th>", html)
    assert header[5:] == ["fd_digits", "found at epoch", "kid", "training [s]", "search [s]", "step [MB]", ""]
    first, second = re.findall(r"<tr>\n(<td>[01]</td>.*)", html)
    assert re.findall("<td>([^<]*)</td>", first)[6:] == ["-", "0.04103", "31.4", "0.0", "48.3"]
    assert re.findall("<td>([^<]*)</td>", second)[6:] == ["7.94", "0.03947", "32.4", "9.5", "33.8"]
    assert re.findall("<th>([^<]*)</th>", other)[5:] == ["fd_digits", "kid", "training [s]", ""]
    assert not any(text in other for text in ("Search for the ticket", "search:", '"heatmap"'))
    Image.open(searched / "plots" / "search.png").verify()


def test_the_report_over_several_seeds_shows_the_search_of_the_first_one(tmp_path):
    seeds = write_seeds(tmp_path / "seeds", emerged=((7, 5, 6, None, 4), (6, 4, 5, None, 3), (5, 3, 4, None, 2)))
    assert read(seeds).searches == read(seeds / "seed_0").searches
    assert "<h2>Search for the ticket of seed 0</h2>" in report.build(seeds).read_text()


def test_the_plot_of_a_search_has_a_cell_for_each_two_masks_in_epochs_and_the_ticket_on_its_diagonal(searched):
    run = read(searched)
    figure = search_figure({number: run.searches[number] for number in (1, 4)}, run.rounds)
    first, fourth, bar = figure.axes
    mesh, *_, diamond = first.collections
    np.testing.assert_array_equal(mesh.get_array(), run.searches[1]["distances"])
    edges = np.asarray(mesh.get_coordinates())[0, :, 0]
    epochs = np.arange(1, 13) * 31 * 64 / 2000
    np.testing.assert_allclose((edges[1:] + edges[:-1]) / 2, epochs)
    np.testing.assert_allclose(diamond.get_offsets(), [[epochs[7]] * 2])
    assert first.get_title(loc="left") == "round 1 · 30.0 % pruned · found at epoch 7.94"
    assert fourth.get_title(loc="left") == "round 4 · 76.0 % pruned · no ticket found" and not fourth.lines
    assert "0.1, threshold" in [label.get_text() for label in bar.get_yticklabels()]
    assert bar.get_ylabel() == "normalised Hamming distance\nbetween channel masks"
    assert mesh.norm.vmax == max(np.max(run.searches[number]["distances"]) for number in (1, 4))


def test_the_line_in_the_plot_of_a_search_parts_the_cells_below_the_threshold_from_the_others():
    distances = [[0, 0.3, 0.1], [0.3, 0, 0.09], [0.1, 0.09, 0]]
    search = {"epochs": [1, 2, 3], "distances": distances, "queue": 2, "threshold": 0.1, "emerged": 2}
    upright, level = search_figure({1: search | {"unit": "weights"}}, []).axes[0].collections[1:3]
    # Rows from below: close, far, far | far, close, close | far, close, close.
    expected = {((1.5, 0.5), (1.5, 1.5)), ((1.5, 1.5), (1.5, 2.5)), ((1.5, 2.5), (1.5, 3.5))}
    assert {tuple(map(tuple, segment)) for segment in upright.get_segments()} == expected
    assert {tuple((x, y) for y, x in segment) for segment in level.get_segments()} == expected


def test_of_many_searches_four_are_drawn_with_the_first_and_the_last():
    assert list(shown_searches(dict.fromkeys(range(1, 21)))) == [1, 7, 14, 20]
    assert list(shown_searches(dict.fromkeys((3, 2)))) == [2, 3]


def test_a_search_of_a_single_mask_is_drawn(tmp_path):
    report.build(write_searches(write_workdir(tmp_path / "run", rounds=2, winner=1), epochs=1, emerged=(None,)))
    Image.open(tmp_path / "run" / "plots" / "search.png").verify()


def test_the_comparison_lists_the_fields_that_differ_and_only_those(tmp_path):
    first = write_workdir(tmp_path / "a", seed=0, rate=0.3)
    second = write_workdir(tmp_path / "b", seed=1, rate=0.5, rounds=3, finished=False)
    rows = report.compare([first, second], tmp_path / "out")
    summary = read_rows(tmp_path / "out", "summary.csv")
    assert [name for name in summary[0] if name.startswith("config.")] == ["config.seed", "config.prune.rate"]
    assert [row["status"] for row in summary] == ["finished", "3 rounds so far"]
    assert [row["config.prune.rate"] for row in summary] == ["0.3", "0.5"]
    assert float(summary[0]["winning_value"]) == DISTANCES[WINNER] and summary[1]["winning_value"] == ""
    assert float(summary[0]["best_value"]) == min(DISTANCES)
    assert float(summary[0]["total_seconds"]) == pytest.approx(sum(31.4 + n for n in range(6)))
    assert [row["name"] for row in rows] == ["a", "b"]
    Image.open(tmp_path / "out" / "comparison.png").verify()


def test_a_failed_run_without_files_has_a_row(tmp_path):
    first = write_workdir(tmp_path / "a")
    report.compare([first, tmp_path / "b"], tmp_path, failed=["b"])
    assert [row["status"] for row in read_rows(tmp_path, "summary.csv")] == ["finished", "failed"]


def test_runs_without_a_metric_in_common_are_still_summarised(tmp_path):
    first, second = write_workdir(tmp_path / "a"), write_workdir(tmp_path / "b", finished=False)
    rounds = (second / "rounds.csv").read_text()
    (second / "rounds.csv").write_text(rounds.replace("fd_digits", "elbo").replace("kid", "psnr"))
    assert [row["metric"] for row in report.compare([first, second], tmp_path)] == ["fd_digits", "elbo"]


def test_the_summary_of_several_seeds_is_of_their_means(tmp_path, seeds):
    unfinished = write_seeds(tmp_path / "unfinished", rounds=(6, 3, 1), finished=False)
    report.compare([seeds, unfinished, write_workdir(tmp_path / "single")], tmp_path)
    rows = read_rows(tmp_path, "summary.csv")
    assert [row["status"] for row in rows] == ["finished", "10 rounds so far", "finished"]
    assert float(rows[0]["winning_value"]) == pytest.approx(DISTANCES[WINNER] + 0.1)
    assert float(rows[0]["dense"]) == pytest.approx(float(rows[1]["dense"])) == pytest.approx(DISTANCES[0] + 0.1)
    assert float(rows[0]["best_value"]) == pytest.approx(min(DISTANCES) + 0.1)
    assert float(rows[0]["total_seconds"]) == pytest.approx(3 * float(rows[2]["total_seconds"]))


def cells(table):
    """The cells of a table by the first cell of their row; the header's are at ""."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if "  " in line]
    return {"": lines[0][1:], **{line[0]: line[1:] for line in lines[1:]}}


def test_the_table_of_levels_has_the_sparsities_that_two_runs_share(tmp_path, seeds):
    single = write_workdir(tmp_path / "single", rounds=3, winner=2)
    slow = write_workdir(tmp_path / "slow", rate=0.1, rounds=3, finished=False)
    table = cells(report.levels([seeds, single, slow], tmp_path))
    assert table == {
        "": ["dense", "30.0", "51.0"],
        "seeds": ["12.41 ± 0.50", "11.94 ± 0.50*", "12.12 ± 0.50*"],
        "single": ["12.31", "11.84*", "12.02*"],
        "slow": ["12.31", "-", "-"],
    }
    rows = read_rows(tmp_path, "levels.csv")
    assert [(row["run"], float(row["sparsity"])) for row in rows] == [
        *(("seeds", sparsity) for sparsity in (0, 0.3, 0.51)),
        *(("single", sparsity) for sparsity in (0, 0.3, 0.51)),
        ("slow", 0),
    ]
    assert {row["metric"] for row in rows} == {"fd_digits"}
    assert (float(rows[1]["mean"]), float(rows[1]["low"]), float(rows[1]["high"])) == pytest.approx(
        (11.94, 11.44, 12.44)
    )
    assert [row["seeds"] for row in rows] == ["3"] * 3 + ["1"] * 4
    assert [row["wins"] for row in rows] == ["", "True", "True", "", "True", "True", ""]
    assert rows[4]["low"] == rows[4]["high"] == ""


def test_the_levels_have_what_each_value_cost_as_means_over_the_seeds(tmp_path, seeds):
    table = read_rows(seeds)
    for row in table:
        row["train_seconds"] = 10 * (int(row["seed"]) + 1)
        row["params_kept"] = int(row["params_kept"]) + int(row["seed"])
    write_csv(seeds / "rounds.csv", table)
    report.levels([seeds, write_workdir(tmp_path / "single", rounds=3, winner=2)], tmp_path)
    rows = read_rows(tmp_path, "levels.csv")
    assert [float(row["flops"]) for row in rows] == pytest.approx([1, 0.7, 0.49] * 2)
    assert [float(row["train_seconds"]) for row in rows] == pytest.approx([20, 20, 20, 31.4, 32.4, 33.4])
    assert [float(row["params_kept"]) for row in rows] == [288_449, 201_915, 141_341, 288_448, 201_914, 141_340]


def test_the_table_of_levels_stays_narrow_and_says_how_many_it_leaves_out(tmp_path):
    distances = list(np.linspace(12, 15, 25))
    workdirs = [write_seeds(tmp_path / name, rounds=(25, 25), rate=0.1, distances=distances) for name in "ab"]
    text = report.levels(workdirs, tmp_path)
    assert max(map(len, text.splitlines()[1:])) <= 130  # The first names the file.
    shown = cells(text)[""][1:]
    assert shown[0] == "10.0" and shown[-1] == "92.0"
    assert f"{24 - len(shown)} more sparsities" in text
    assert len(read_rows(tmp_path, "levels.csv")) == 2 * 25


def test_the_table_of_levels_names_the_runs_with_another_metric(tmp_path):
    workdirs = [write_workdir(tmp_path / name) for name in ("a", "b", "other")]
    rounds = (workdirs[2] / "rounds.csv").read_text()
    (workdirs[2] / "rounds.csv").write_text(rounds.replace("fd_digits", "elbo").replace("kid", "psnr"))
    text = report.levels(workdirs, tmp_path)
    assert list(cells(text)) == ["", "a", "b"]
    assert text.splitlines()[-1] == "Not in this table, for want of a finished round with fd_digits: other."
    assert "no two of the runs" in report.levels(workdirs[1:], tmp_path)
    assert not (tmp_path / "levels.csv").exists()


def test_runs_without_a_pruned_round_of_the_same_sparsity_have_their_dense_values(tmp_path):
    workdirs = [write_workdir(tmp_path / str(rate), rate=rate, rounds=2, finished=False) for rate in (0.2, 0.3)]
    text = report.levels(workdirs, tmp_path)
    assert cells(text)["0.2"] == ["12.31"] and "No two runs" in text


def test_the_command_line_reports_one_workdir(workdir, capsys):
    assert main([str(workdir)]) == 0
    printed = capsys.readouterr().out
    assert (
        "<== sparsest within tolerance" in printed
        and "Round 4 wins." in printed
        and str(workdir / "report.html") in printed
    )


def test_the_command_line_compares_several_workdirs(tmp_path, capsys):
    paths = [str(write_workdir(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]
    assert main([*paths, f"--out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert "finished" in printed and read_rows(tmp_path / "out", "summary.csv")
    assert "fd_digits by weights pruned" in printed and read_rows(tmp_path / "out", "levels.csv")


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path, workdir, capsys):
    for arguments in ([str(tmp_path)], [str(workdir), "--out=x"], [str(workdir)] * 2, [], [str(workdir), "--in=x"]):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("jaxtickets: ")


def test_help_is_no_mistake(capsys):
    assert main(["--help"]) == 0
    assert "python -m jaxtickets.report WORKDIR" in (printed := capsys.readouterr().out) and "  --out\n" in printed


def test_only_the_metric_of_the_verdict_is_said_to_be_better_when_lower():
    rows = [
        {"round": round_, "density": 0.8**round_, "sparsity": 1 - 0.8**round_, "error": 1.0, "usage": 0.5 + round_ / 10}
        for round_ in range(3)
    ]
    verdict = {"metric": "error", "dense": 1.0, "threshold": 1.1, "winning_round": 2}
    labels = {metric: metric_figure(rows, verdict, metric).axes[0].get_ylabel() for metric in ("error", "usage")}
    assert "lower is better" in labels["error"]
    assert "better" not in labels["usage"]


# A metric of which more is better.

HIGHER = [7.1, 7.6, 7.4, 7.0, 6.9, 5.2]  # The dense run's first; with a tolerance of 10 %, 6.39 wins.


def make_higher_better(path):
    """Turns the metric of a workdir into one of which more is better."""
    verdict = json.loads((path / "verdict.json").read_text())
    (path / "verdict.json").write_text(json.dumps(verdict | {"better": "higher", "threshold": 0.9 * verdict["dense"]}))
    return path


@pytest.fixture
def higher(tmp_path):
    return make_higher_better(write_workdir(tmp_path / "higher", distances=HIGHER))


def test_where_more_is_better_the_rounds_above_the_threshold_win(higher):
    run = read(higher)
    ends = ["dense", *["within tolerance"] * 3, "<== sparsest within tolerance", "worse"]
    lines = report.rounds_table(run.rounds, run.verdict).splitlines()[2:]
    assert all(line.endswith(f"  {end}") for line, end in zip(lines, ends, strict=True))
    filled = metric_figure(run.rounds, run.verdict, "fd_digits").axes[0].collections[0].get_facecolors()
    assert [tuple(colour[:3]) == (1, 1, 1) for colour in filled] == [False] * 5 + [True]


def test_where_more_is_better_the_page_and_the_plots_say_so(higher):
    html = report.build(higher).read_text()
    assert html.count("Higher is better.") == 3 and "ower is better" not in html  # The note, and the plot's two texts.
    assert "within tolerance down to" in html and "up to" not in html
    run = read(higher)
    axes = metric_figure(run.rounds, run.verdict, "fd_digits").axes[0]
    assert "higher is better" in axes.get_ylabel()
    assert "within tolerance (down to 6.390)" in axes.get_legend_handles_labels()[1]


def test_where_more_is_better_comparisons_look_for_the_highest_value(tmp_path, higher):
    unfinished = write_workdir(tmp_path / "unfinished", distances=HIGHER, finished=False)
    rows = report.compare([higher, unfinished], tmp_path / "out")
    assert [row["best_value"] for row in rows] == [7.6, 7.6]  # The verdict of one run tells the direction for both.
    title, *_ = report.levels([higher, unfinished], tmp_path / "out").splitlines()
    assert "higher is better" in title
    runs = {path.name: read(path) for path in (higher, unfinished)}
    assert "higher is better" in comparison_figure(runs, []).axes[0].get_ylabel()


# The names that config.json has for reports.

ABOUT = {
    "title": "regrow, magnitude",
    "columns": {"regrown": "regrown", "growth": "grown by", "growth_seconds": "growth [s]"},
    "metrics": {
        "fd_digits": {"label": "Frechet distance in digits features", "better": "lower"},
        "kid": {"label": "Agreement with the digits", "better": "higher"},
    },
}


def write_about(path, about=ABOUT):
    """Turns the workdir into that of a method with columns of its own, which config.json names."""
    record = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(record | {"about": about}))
    own = [{"regrown": 1234 * number or None, "growth": "random", "growth_seconds": number / 2} for number in range(6)]
    write_csv(path / "rounds.csv", [row | more for row, more in zip(read_rows(path), own, strict=False)])
    return path


@pytest.fixture
def named(tmp_path):
    return write_about(write_workdir(tmp_path / "named"))


def test_the_columns_of_a_method_are_no_metrics_and_are_shown_by_their_headers(named):
    run = read(named)
    assert metric_columns(run.rounds, run.about) == ["fd_digits", "kid"]
    table = report.rounds_table(run.rounds, None, (), run.about)
    assert re.search(r"fd_digits +regrown +grown by +kid +train s", table.splitlines()[0])
    html = report.build(named).read_text()
    headers = re.findall("<th>([^<]*)</th>", html)
    own = ["regrown", "grown by"]
    assert headers[5:] == ["fd_digits", *own, "kid", "training [s]", "growth [s]", "step [MB]", ""]
    second = re.findall(r"<tr>\n(<td>1</td>.*)", html)[0]
    assert re.findall("<td>([^<]*)</td>", second)[6:] == ["1234", "random", "0.03947", "32.4", "0.5", "-"]
    assert "growth: part of the training." in html
    plots = {path.name for path in (named / "plots").iterdir()}
    assert plots == {"metric_fd_digits.png", "metric_kid.png", "losses.png", "layers.png", "samples.png"}


def test_over_several_seeds_the_columns_of_a_method_are_means(tmp_path):
    seeds = write_seeds(tmp_path / "seeds")
    rows = [row | {"regrown": 100 * int(row["seed"]), "growth": f"rule {row['seed']}"} for row in read_rows(seeds)]
    write_about(seeds)
    write_csv(seeds / "rounds.csv", rows)
    run = read(seeds)
    columns = measured_columns(run.rounds, run.verdict, run.seed_rounds, run.about)
    assert columns["regrown"] == ["100"] * 6 and columns["grown by"] == ["-"] * 6
    assert list(columns) == ["fd_digits [95% interval]", "p", "regrown", "grown by", "kid"]


def test_a_column_that_does_not_fit_is_named_as_in_the_file(named):
    rows = read_rows(named)
    write_about(named, ABOUT | {"columns": {"regrown": "the number of weights that grew again in this round " * 2}})
    write_csv(named / "rounds.csv", rows)
    assert "Also in rounds.csv: regrown, kid." in report.summary(named)


def test_the_title_of_the_page_is_the_methods(named, workdir):
    assert "<h1>regrow, magnitude: gan_digits.py:quick</h1>" in report.build(named).read_text()
    assert "<h1>imp: gan_digits.py:quick</h1>" in report.build(workdir).read_text()
    write_about(named, {"title": "<script>"})
    assert "<h1>&lt;script&gt;: gan" in report.build(named).read_text()


def test_every_metric_has_a_label_and_a_direction_of_its_own(named):
    run = read(named)
    labels = {
        metric: metric_figure(run.rounds, run.verdict, metric, (), run.about).axes[0].get_ylabel()
        for metric in ("fd_digits", "kid")
    }
    assert labels == {
        "fd_digits": "Frechet distance in digits features\n(lower is better)",
        "kid": "Agreement with the digits\n(higher is better)",
    }
    captions = re.findall("<figcaption>([^<]*)", report.build(named).read_text())
    assert [text for text in captions if "is better" in text] == ["Lower is better.", "Higher is better."]


def test_comparisons_know_the_direction_of_a_metric_without_a_verdict(tmp_path):
    higher = {"metrics": {"fd_digits": {"label": "Agreement", "better": "higher"}}}
    told = write_about(write_workdir(tmp_path / "told", finished=False), higher)
    paths = [write_workdir(tmp_path / "old", finished=False), told]
    rows = report.compare(paths, tmp_path)
    assert [row["best_value"] for row in rows] == [max(DISTANCES)] * 2  # One run tells the direction for both.
    assert "fd_digits by weights pruned [%], higher is better" in report.levels(paths, tmp_path)
    axes = comparison_figure({path.name: read(path) for path in paths}, []).axes[0]
    assert axes.get_ylabel() == "Agreement\n(higher is better)"


def test_a_workdir_without_names_has_the_columns_of_a_search_and_the_direction_of_its_verdict(searched):
    run = read(searched)
    assert metric_columns(run.rounds, run.about) == ["fd_digits", "kid"]
    labels = [
        metric_figure(run.rounds, run.verdict, metric, (), run.about).axes[0].get_ylabel()
        for metric in ("fd_digits", "kid")
    ]
    assert labels == ["Frechet distance in digits features, 2,048 samples\n(lower is better)", "kid"]
    headers = re.findall("<th>([^<]*)</th>", report.build(searched).read_text())
    assert {"found at epoch", "search [s]"} <= set(headers)


@pytest.mark.parametrize(
    "value, text", [(7.936, "7.94"), (8.0, "8"), (1234, "1234"), (0, "0"), (0.992, "0.99"), (0.00123, "0.001230")]
)
def test_numbers_of_a_method_have_at_most_two_decimals_unless_they_are_tiny(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    "label", ["short", "negative ELBO on 296 held-out images, in nats up to a constant", "word " * 40]
)
def test_the_label_of_a_metric_fits_its_figure(label):
    figure = Figure(figsize=(9, 4.4))
    axes = figure.subplots()
    metric_axis(axes, label, "lower is better")
    FigureCanvasAgg(figure).draw()
    assert axes.yaxis.label.get_window_extent().height <= figure.bbox.height
    assert axes.get_ylabel().endswith("(lower is better)")
    assert " ".join(axes.get_ylabel().split()[:-3]) == " ".join(label.split())


def test_the_page_speaks_of_no_ratio_where_the_values_have_none():
    values = {0: (-10.0, -11.0, -10.5), 1: (-10.1, -11.0, -10.6)}
    rows = [
        {"seed": seed, "round": round_, "sparsity": round_ / 2, "gain": value}
        for round_, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    verdict = judge_seeds(rows, "gain", "gain", 0.1, 0.95, better="higher")
    note = _test_note(verdict)
    assert "x dense" not in note and "paired one-sided t test that the difference from the dense run" in note
    facts = dict(_facts(verdict, True))
    assert facts["within tolerance down to"].startswith("-11.5") and not any("ratio" in name for name in facts)


def test_the_power_of_rounds_that_prune_nothing_is_refused_in_one_line(tmp_path):
    path = write_seeds(tmp_path / "nothing")
    rounds = (path / "rounds.csv").read_text().splitlines()
    sparsity = rounds[0].split(",").index("sparsity")
    cells_of = [line.split(",") for line in rounds[1:]]
    unpruned = [",".join([*row[:sparsity], "0.0", *row[sparsity + 1 :]]) for row in cells_of]
    (path / "rounds.csv").write_text("\n".join([rounds[0], *unpruned]) + "\n")
    with pytest.raises(UserError, match="pruned something in every seed; there is none"):
        report.power(path)


# References: held-out images and an untrained network.

REFERENCES = {
    "fd_digits": {"held_out": 10.5, "untrained": 2450.0, "held_out_images": 296, "training_images": 1501},
    "kid": {"held_out": None, "untrained": 0.09, "held_out_images": 296, "training_images": 1501},
}


def write_references(path, references=REFERENCES):
    (path / "references.json").write_text(json.dumps(references))
    return path


def test_the_table_ends_with_the_references_and_its_heading_has_the_counts(workdir):
    before = report.summary(workdir).splitlines()
    lines = report.summary(write_references(workdir)).splitlines()
    assert re.split(r"\s{2,}", lines[11].strip()) == ["10.50", "held-out images"]
    assert re.split(r"\s{2,}", lines[12].strip()) == ["2450", "0.09000", "untrained network"]
    fd = lines[3].index("fd_digits") + len("fd_digits")
    assert all(line[:fd].endswith(value) for line, value in zip(lines[11:13], ("10.50", "2450"), strict=True))
    assert [line for line in lines[2:] if line not in before] == lines[11:13]
    heading = " ".join(lines[:2])
    assert heading == (
        "fd_digits: Frechet distance in digits features, 2,048 samples. Lower is better. One seed. 296 held-out and "
        "1,501 training images. fd_*: not FID; another feature network stands in for Inception."
    )
    assert "held-out" not in " ".join(before)


def test_the_heading_speaks_of_fid_only_where_another_distance_stands_in_for_it(seeds):
    assert "3 seeds." in report.summary(seeds) and "not FID" in report.summary(seeds)
    (seeds / "rounds.csv").write_text((seeds / "rounds.csv").read_text().replace("fd_digits", "fid"))
    assert "FID" not in report.summary(seeds)


def test_over_several_seeds_references_are_means(seeds):
    for seed, untrained in enumerate((2000.0, 2500.0)):
        own = {"fd_digits": REFERENCES["fd_digits"] | {"untrained": untrained}}
        write_references(seeds / f"seed_{seed}", own)
    assert read(seeds).references == {"fd_digits": REFERENCES["fd_digits"] | {"untrained": 2250.0}}


def reference_labels(figure):
    return [text for text in figure.axes[0].get_legend_handles_labels()[1] if "held-out" in text or "untrained" in text]


def test_plots_draw_references_that_leave_room_for_the_data_and_name_the_others(workdir):
    run = read(write_references(workdir))
    figure = metric_figure(run.rounds, run.verdict, "fd_digits", reference=run.references["fd_digits"])
    assert reference_labels(figure) == ["296 held-out images (10.50)", "untrained network (2450, far above)"]
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in dotted] == [[10.5, 10.5], []]
    assert figure.axes[0].get_ylim()[1] < 30
    both = metric_figure(run.rounds, run.verdict, "kid", reference=run.references["kid"])
    assert reference_labels(both) == ["untrained network (0.09000)"]
    assert reference_labels(metric_figure(run.rounds, run.verdict, "fd_digits")) == []
    # Values over more than a decade have a log axis, on which a distant line needs less room.
    rows = [row | {"fd_digits": value} for row, value in zip(run.rounds, (12, 14, 20, 60, 200, 900), strict=True)]
    log = metric_figure(rows, None, "fd_digits", reference=run.references["fd_digits"])
    assert reference_labels(log)[1] == "untrained network (2450)" and log.axes[0].get_yscale() == "log"


def test_the_plot_of_ratios_has_references_as_ratios_to_the_dense_runs(judged):
    dense = [row["fd_digits"] for row in read(judged).seed_rounds if row["round"] == 0]
    for seed in range(5):
        write_references(judged / f"seed_{seed}")
    (axes,) = ratio_figure(read(judged)).axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert line.get_ydata()[0] == pytest.approx(10.5 / stats.gmean(dense))


def test_a_comparison_has_the_references_that_runs_share(tmp_path):
    paths = [write_references(write_workdir(tmp_path / name)) for name in "ab"]
    rows = report.compare(paths, tmp_path / "out")
    assert [(row["held_out"], row["untrained"]) for row in rows] == [(10.5, 2450.0)] * 2
    runs = {path.name: read(path) for path in paths}
    assert reference_labels(comparison_figure(runs, []))[0] == "296 held-out images (10.50)"
    assert "References: held-out images 10.50, untrained network 2450." in report.levels(paths, tmp_path / "out")
    write_references(paths[1], {"fd_digits": REFERENCES["fd_digits"] | {"held_out": 12.0}})
    runs = {path.name: read(path) for path in paths}
    assert not reference_labels(comparison_figure(runs, []))


def test_no_round_is_compared_with_a_dense_run_that_has_not_learned(workdir):
    verdict = json.loads((workdir / "verdict.json").read_text())
    unlearned = {"learned": False, "winning_round": None, "message": "The dense run has not learned: 12 is nearer."}
    (workdir / "verdict.json").write_text(json.dumps(verdict | unlearned))
    lines = table_of(write_references(workdir))
    assert lines[2].endswith("  dense, not learned") and all(line.endswith("not compared") for line in lines[3:8])
    html = report.build(workdir).read_text()
    assert (
        "The dense run has not learned" in html and 'class="wins"' not in html and "within tolerance</td>" not in html
    )
    assert html.count('<tr class="reference">') == 2 and "untrained network</td>" in html
    run = read(workdir)
    colours = metric_figure(run.rounds, run.verdict, "fd_digits").axes[0].collections[0].get_facecolors()
    assert [tuple(colour[:3]) == (1, 1, 1) for colour in colours] == [False] + [True] * 5
    (row,) = report.compare([workdir], workdir)
    assert row["learned"] is False and "not learned" in report.summary_table([row])


def test_intervals_around_a_metric_stand_beside_it_and_are_no_metrics(workdir):
    value = {"low": 0.9, "high": 1.2}
    rows = [
        row | {f"fd_digits_{end}": factor * float(row["fd_digits"]) for end, factor in value.items()}
        for row in read_rows(workdir)
    ]
    write_csv(workdir / "rounds.csv", rows)
    run = read(workdir)
    assert metric_columns(run.rounds) == ["fd_digits", "kid"]
    columns = measured_columns(run.rounds, run.verdict)
    assert columns["fd_digits [95% of draws]"][0] == "12.31 [11.08, 14.77]" and "kid" in columns
    axes = metric_figure(run.rounds, run.verdict, "fd_digits").axes[0]
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    bars = drawn["95% of draws of the samples"].get_segments()
    assert [bar[1, 1] / bar[0, 1] for bar in bars] == pytest.approx([1.2 / 0.9] * 6)


def test_in_an_old_workdir_how_far_masks_have_moved_is_no_metric(searched):
    write_csv(searched / "rounds.csv", [row | {"moved": 0.3} for row in read_rows(searched)])
    assert metric_columns(read(searched).rounds) == ["fd_digits", "kid"]
    assert "moved from step 0" in measured_columns(read(searched).rounds, None)
