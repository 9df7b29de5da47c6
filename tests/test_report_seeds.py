"""Reports of several seeds: means, intervals, ratios to the dense runs, and how many seeds are needed."""

import json
import re

import numpy as np
import pytest
from pages import other_files, parsed, winning_rows
from report_workdirs import (
    HIGHER,
    cells,
    make_higher_better,
    read_rows,
    table_of,
    write_csv,
    write_ratios,
    write_seeds,
    write_two_seeds,
    write_workdir,
)

from jaxtickets import report, statistics
from jaxtickets.errors import UserError
from jaxtickets.report.__main__ import main
from jaxtickets.report.answer import level_of, one_sided_bound, verdict_facts
from jaxtickets.report.answer import test_note as note_on_the_test
from jaxtickets.report.plots import metric_figure
from jaxtickets.report.ratios import ratio_figure
from jaxtickets.report.reading import read
from jaxtickets.report.table import measured_columns
from jaxtickets.runs.verdict import judge_seeds


@pytest.fixture
def workdir(tmp_path):
    return write_workdir(tmp_path / "run")


@pytest.fixture
def seeds(tmp_path):
    return write_seeds(tmp_path / "seeds")


@pytest.fixture
def unfinished_seeds(tmp_path):
    return write_seeds(tmp_path / "seeds", rounds=(6, 3, 1), finished=False)


@pytest.fixture
def judged(tmp_path):
    return write_ratios(tmp_path / "judged")


@pytest.fixture
def higher(tmp_path):
    return make_higher_better(write_workdir(tmp_path / "higher", distances=HIGHER))


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
    page = parsed(html)
    assert [table_row[0] for table_row in winning_rows(page, "rounds")] == ["4"]
    links = other_files(page)
    assert links == [f"seed_{seed}/report.html" for seed in range(3)]
    assert all((seeds / link).is_file() for link in links)
    assert {path.name for path in (seeds / "plots").iterdir()} == {"metric_fd_digits.svg", "metric_kid.svg"}


def test_a_winner_whose_interval_reaches_beyond_the_limit_has_the_bound_of_its_test(tmp_path):
    run = read(write_two_seeds(tmp_path / "run"))
    entry = run.verdict["rounds"][1]
    assert entry["wins"] and entry["ratio_high"] == pytest.approx(2.42, abs=0.01)  # exp(log 0.36 + 12.706 x 0.15)
    page = report.show(run.workdir).html
    assert "reaches beyond the limit of 1.1, because it leaves out 2.5% at either end, and the test of this" in page
    assert "round 5% at one" in page
    assert "its upper bound is 0.928." in page  # exp(log 0.36 + 6.314 x 0.15)
    narrow = read(write_two_seeds(tmp_path / "narrow", apart=0.01))
    assert narrow.verdict["rounds"][1]["wins"] and "beyond the limit" not in report.show(narrow.workdir).html
    # The test against the bound itself has a p-value of 1 - confidence.
    ours, dense = {0: 2.0, 1: 3.0, 2: 4.0}, {0: 4.0, 1: 5.0, 2: 9.0}
    found = statistics.compare(ours, dense)
    for alternative, end in (("less", found.high), ("greater", found.low)):
        for level in (0.05, 0.03):
            bound = one_sided_bound(found.ratio, end, 3, 0.95, level)
            assert statistics.compare(ours, dense, bound, alternative).p_value == pytest.approx(level)


def test_of_several_rounds_the_bound_of_the_winner_is_at_the_level_that_the_rounds_before_leave_it():
    ratios = {1: {0: 0.3, 1: 0.31, 2: 0.32}, 2: {0: 0.5, 1: 1.5, 2: 2.5}, 3: {0: 0.6, 1: 0.7, 2: 0.75}}
    rows = [{"round": 0, "seed": seed, "sparsity": 0.0, "fd": 10.0} for seed in range(3)]
    for round_, of_seeds in ratios.items():
        rows += [
            {"round": round_, "seed": seed, "sparsity": 1 - 0.8**round_, "fd": 10 * ratio}
            for seed, ratio in of_seeds.items()
        ]
    verdict = judge_seeds(rows, "fd", "distance", 0.1, 0.95)
    assert [row["wins"] for row in verdict["rounds"][1:]] == [True, False, False]
    # Weights 4/7, 2/7 and 1/7: the first hands its level on, the second does not.
    levels = [level_of(verdict, round_) for round_ in (1, 2, 3)]
    assert levels == pytest.approx([0.05 * 4 / 7, 0.05 * 6 / 7, 0.05 * 1 / 7])
    for row, level in zip(verdict["rounds"][1:], levels, strict=True):
        is_within = one_sided_bound(row["ratio"], row["ratio_high"], 3, 0.95, level) <= 1.1
        assert is_within == row["wins"] == (row["p_value"] <= level)
    # With the whole level the third would seem to win.
    assert one_sided_bound(verdict["rounds"][3]["ratio"], verdict["rounds"][3]["ratio_high"], 3, 0.95, 0.05) < 1.1


def test_the_band_of_a_positive_metric_is_cut_at_0_and_says_so(tmp_path):
    run = read(write_two_seeds(tmp_path / "run"))
    assert run.verdict["rounds"][0]["low"] < -200
    axes = metric_figure(run.rounds, run.verdict, "fd_digits", run.seed_rounds).axes[0]
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    assert drawn["95% interval of the mean, cut at 0"].get_paths()[0].vertices[:, 1].min() == 0


def test_the_page_of_unfinished_seeds_says_how_far_each_is(unfinished_seeds):
    html = report.build(unfinished_seeds).read_text()
    assert "Rounds complete so far: 6 of seed 0, 3 of seed 1, 1 of seed 2." in html
    assert other_files(parsed(html)) == ["seed_0/report.html"] and "seed 2 (not finished)" in html


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
        "Round 4 · 76.0 % pruned · winning ticket",
        "Each dot is a seed",
    ):
        assert text in html
    assert [row[0] for row in winning_rows(parsed(html), "rounds")] == ["4"]
    assert {path.name for path in (judged / "plots").iterdir()} == {
        *("ratio.svg", "metric_fd_digits.svg", "metric_kid.svg")
    }


def test_the_winner_of_a_control_is_called_a_control(tmp_path):
    path = write_ratios(tmp_path / "run", subject="control (reinit)")
    html, text = report.build(path).read_text(), report.summary(path)
    assert "<== winning control" in text and "Round 4 · 76.0 % pruned · winning control" in html
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
    hollow = [min(colour[:3]) > 0.99 for colour in axes.collections[-2].get_facecolors()]
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


def test_the_page_speaks_of_no_ratio_where_the_values_have_none():
    values = {0: (-10.0, -11.0, -10.5), 1: (-10.1, -11.0, -10.6)}
    rows = [
        {"seed": seed, "round": round_, "sparsity": round_ / 2, "gain": value}
        for round_, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    verdict = judge_seeds(rows, "gain", "gain", 0.1, 0.95, better="higher")
    note = note_on_the_test(verdict)
    assert "x dense" not in note and "paired one-sided t test that the difference from the dense run" in note
    facts = dict(verdict_facts(verdict, {}))
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
