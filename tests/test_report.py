"""The report is built from a workdir's files alone, whatever state a run left them in."""

import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from pages import other_files, parsed, winning_rows
from PIL import Image
from report_workdirs import DISTANCES, WINNER, read_rows, write_workdir

from jaxtickets import report
from jaxtickets.errors import UserError
from jaxtickets.report.__main__ import main
from jaxtickets.report.plots import curve
from jaxtickets.report.reading import read, significant
from jaxtickets.report.samples import corner


@pytest.fixture
def workdir(tmp_path):
    return write_workdir(tmp_path / "run")


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


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """`(path, page)` of a workdir that nothing else touches."""
    path = write_workdir(tmp_path_factory.mktemp("reported") / "run")
    return path, report.build(path).read_text()


def test_the_page_needs_nothing_beside_it_and_asks_for_nothing(reported):
    _, html = reported
    page = parsed(html)
    assert other_files(page) == [] and len(list(page.all("img"))) == 13
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|http(?!://www.w3.org/)", page.one("style").text)
    assert not re.search(r"fetch|XMLHttpRequest|import|https?:", page.one("script").text)
    assert len(html) < 400_000


def test_the_page_tells_the_verdict_and_how_to_reproduce_it(reported):
    _, html = reported
    for text in (
        "Round 4 wins.",
        "imp: gan_digits.py:quick",
        "python -m jaxtickets.main",
        "0.4.38",
        "cpu:0",
        "0123abc",
    ):
        assert text in html
    assert [row[0] for row in winning_rows(parsed(html), "rounds")] == ["4"]
    labels = ("Round 0 · 0.0 % pruned · fd_digits 12.31 · dense run", "13.40 · sparsest within tolerance")
    assert all(label in html for label in labels)
    assert "winning" not in html.lower() and "fd_digits, sparsest within tolerance" in html


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
    assert html.count("<script") == 1 and "&lt;script&gt;alert" in html
    assert "alert" not in parsed(html).one("script").text


def test_every_plot_is_an_svg_file_in_plots_without_a_style_of_the_page(reported):
    workdir, _ = reported
    names = {path.name for path in (workdir / "plots").iterdir()}
    curves = {"curve_generator_loss.svg", "curve_discriminator_loss.svg"}
    assert names == {"metric_fd_digits.svg", "metric_kid.svg", "layers.svg", *curves}
    for name in names:
        text = (workdir / "plots" / name).read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in text


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


def test_a_report_replaces_the_earlier_one_and_leaves_no_other_file(reported):
    workdir, _ = reported
    before = sorted(workdir.rglob("*"))
    report.build(workdir)
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize("gap", [0, 1, 2])
def test_the_corner_of_a_grid_is_two_whole_rows(gap):
    side = 8 * (16 + gap) - gap
    grid, saved = Image.new("L", (side, side)), io.BytesIO()
    grid.save(saved, "png")
    assert Image.open(io.BytesIO(corner(saved.getvalue()))).size == (side, 2 * (16 + gap))


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
