"""Several runs side by side: the summary, the plot, and the table of the sparsities that they share."""

import json

import numpy as np
import pytest
from PIL import Image
from report_workdirs import (
    DISTANCES,
    HIGHER,
    RATIOS,
    REFERENCES,
    WINNER,
    cells,
    make_higher_better,
    read_rows,
    reference_labels,
    write_about,
    write_csv,
    write_ratios,
    write_references,
    write_seeds,
    write_workdir,
)
from scipy import stats

from jaxtickets import report
from jaxtickets.report.__main__ import main
from jaxtickets.report.common import reference_words
from jaxtickets.report.compare import comparison_figure
from jaxtickets.report.levels import against_control
from jaxtickets.report.reading import read


@pytest.fixture
def workdir(tmp_path):
    return write_workdir(tmp_path / "run")


@pytest.fixture
def seeds(tmp_path):
    return write_seeds(tmp_path / "seeds")


@pytest.fixture
def judged(tmp_path):
    return write_ratios(tmp_path / "judged")


@pytest.fixture
def higher(tmp_path):
    return make_higher_better(write_workdir(tmp_path / "higher", distances=HIGHER))


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


def test_a_winner_at_a_sparsity_of_its_own_is_named_below_the_table(tmp_path):
    runs = [write_workdir(tmp_path / "long", rounds=3, winner=2), write_workdir(tmp_path / "short", rounds=2, winner=1)]
    assert "not in the table: long 51.0%." in report.levels(runs, tmp_path)


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


def test_where_more_is_better_comparisons_look_for_the_highest_value(tmp_path, higher):
    unfinished = write_workdir(tmp_path / "unfinished", distances=HIGHER, finished=False)
    rows = report.compare([higher, unfinished], tmp_path / "out")
    assert [row["best_value"] for row in rows] == [7.6, 7.6]  # The verdict of one run tells the direction for both.
    title, *_ = report.levels([higher, unfinished], tmp_path / "out").splitlines()
    assert "higher is better" in title
    runs = {path.name: read(path) for path in (higher, unfinished)}
    assert "higher is better" in comparison_figure(runs, []).axes[0].get_ylabel()


def test_comparisons_know_the_direction_of_a_metric_without_a_verdict(tmp_path):
    higher = {"metrics": {"fd_digits": {"label": "Agreement", "better": "higher"}}}
    told = write_about(write_workdir(tmp_path / "told", finished=False), higher)
    paths = [write_workdir(tmp_path / "old", finished=False), told]
    rows = report.compare(paths, tmp_path)
    assert [row["best_value"] for row in rows] == [max(DISTANCES)] * 2  # One run tells the direction for both.
    assert "fd_digits by weights pruned [%], higher is better" in report.levels(paths, tmp_path)
    axes = comparison_figure({path.name: read(path) for path in paths}, []).axes[0]
    assert axes.get_ylabel() == "Agreement (higher is better)"


def test_a_comparison_has_the_references_that_runs_share(tmp_path):
    paths = [write_references(write_workdir(tmp_path / name)) for name in "ab"]
    rows = report.compare(paths, tmp_path / "out")
    assert [(row["held_out"], row["untrained"]) for row in rows] == [(10.5, 2450.0)] * 2
    runs = {path.name: read(path) for path in paths}
    assert reference_labels(comparison_figure(runs, []))[0] == "296 held-out images (10.50)"
    assert "References: held-out images 10.50, untrained network 2450." in report.levels(paths, tmp_path / "out")
    write_references(paths[1], {"fd_digits": REFERENCES["fd_digits"] | {"untrained": 2337.0}})
    runs = {path.name: read(path) for path in paths}
    assert reference_labels(comparison_figure(runs, [])) == ["296 held-out images (10.50)"]
    said = "held-out images 10.50, untrained network 2337 to 2450, by run"
    assert reference_words("fd_digits", runs.values()) == said
    assert f"References: {said}." in report.levels(paths, tmp_path / "other")
    write_references(paths[1], {"fd_digits": REFERENCES["fd_digits"] | {"held_out": 12.0}})
    runs = {path.name: read(path) for path in paths}
    assert not reference_labels(comparison_figure(runs, []))


def test_runs_of_other_images_under_one_name_are_told(tmp_path, capsys):
    for name, digest in (("a", "1"), ("b", "1"), ("c", "2")):
        path = write_workdir(tmp_path / name)
        verdict = json.loads((path / "verdict.json").read_text()) | {"data": {"train": digest, "test": "0"}}
        (path / "verdict.json").write_text(json.dumps(verdict))
    report.compare([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert capsys.readouterr().err == ""
    report.compare([tmp_path / name for name in "abc"], tmp_path)
    assert "c: data.name='digits' held other images than in a; do not compare them" in capsys.readouterr().err


def test_the_command_replaces_no_file_that_is_there(tmp_path, capsys):
    paths = [str(write_workdir(tmp_path / name)) for name in "ab"]
    out = f"--out={tmp_path}"
    (tmp_path / "levels.csv").write_text("mine")
    assert main([*paths, out]) == 2 and "levels.csv is there already; give another --out" in capsys.readouterr().err
    assert (tmp_path / "levels.csv").read_text() == "mine" and not (tmp_path / "summary.csv").exists()
    assert main([*paths, out, "--overwrite"]) == 0 and (tmp_path / "levels.csv").read_text() != "mine"
