"""The page of a comparison: quality against its costs, bands over seeds, and tables to copy."""

import base64
import json
import re
import statistics

import pytest
from pages import other_files, parsed, table_in
from report_workdirs import DISTANCES, WINNER, read_rows, write_references, write_seeds, write_workdir

from jaxtickets import report
from jaxtickets.report.__main__ import main
from jaxtickets.report.common import differing_fields
from jaxtickets.report.exports import latex, markdown
from jaxtickets.report.reading import read
from jaxtickets.report.series import cost_figures, curves


def as_method(path, experiment):
    record = json.loads((path / "config.json").read_text())
    record["config"]["experiment"] = experiment
    (path / "config.json").write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    points = [(seed, rate) for rate in (0.3, 0.5) for seed in (0, 1, 2)]
    return [write_references(write_workdir(folder / f"{seed}-{rate}", seed=seed, rate=rate)) for seed, rate in points]


@pytest.fixture(scope="module")
def page(paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    report.compare(paths, out)
    return parsed((out / "comparison.html").read_text())


def test_runs_that_differ_in_the_seed_alone_are_one_line_with_a_band_from_the_lowest_to_the_highest(paths):
    runs = {path.name: read(path) for path in paths}
    fields = differing_fields([run.config for run in runs.values()])
    found = curves(runs, fields, "fd_digits")
    assert list(found) == ["prune.rate=0.3", "prune.rate=0.5"]
    for number, point in enumerate(found["prune.rate=0.3"]):
        values = [DISTANCES[number] + 0.1 * seed for seed in range(3)]
        assert (point.low, point.high, point.seeds) == (values[0], values[2], 3)
        assert point.mean == pytest.approx(statistics.fmean(values))
        assert point.places["flops"] == pytest.approx(0.7**number, abs=1e-7)
    axes = cost_figures(runs, fields)["flops"].axes[0]
    bands = [one for one in axes.collections if one.get_paths()[0].vertices.shape[0] > 12]
    assert len(bands) == 2


def test_a_run_over_several_seeds_has_a_band_too(tmp_path):
    path = write_seeds(tmp_path / "seeds")
    (points,) = curves({"seeds": read(path)}, [], "fd_digits").values()
    assert [point.seeds for point in points] == [3] * 6 and points[0].high > points[0].low


@pytest.mark.parametrize("experiment, rounds", [("imp", (0, 1, 2)), ("one_shot", (0, 2)), ("early_bird", (2,))])
def test_the_seconds_of_a_ticket_are_those_of_the_rounds_that_it_needs(tmp_path, experiment, rounds):
    run = read(as_method(write_workdir(tmp_path / "run"), experiment))
    (points,) = curves({"run": run}, [], "fd_digits").values()
    assert points[2].places["seconds"] == pytest.approx(sum(31.4 + number for number in rounds))


def test_the_page_has_each_cost_and_all_tables_in_each_form(page):
    plots = [plot["aria-label"] for plot in page.one("section", id="quality").all("svg")]
    assert [re.search(r"against ([a-zA-Z]+)", text)[1] for text in plots] == ["weights", "FLOPs", "training"]
    assert all("prune.rate=0.5 from 12.41 to 17.30" in text for text in plots)
    assert len(table_in(page, "runs")) == 7 and table_in(page, "levels")[0][:2] == ["run", "dense "]
    assert other_files(page) == [] and "paper" not in {section["id"] for section in page.all("section")}
    names = [link.attributes.get("download") for link in page.all("a") if "download" in link.attributes]
    for table in ("summary", "levels"):
        assert {f"{table}.{ending}" for ending in ("csv", "md", "tex")} <= set(names)
    text = next(link["href"] for link in page.all("a") if link.attributes.get("download") == "summary.tex")
    assert base64.b64decode(text.partition("base64,")[2]).decode().startswith(r"\begin{tabular}{llrlrrrrr}")


def test_bands_are_explained_where_a_line_has_one(paths, page, tmp_path):
    said = "Bands reach from the lowest to the highest seed."
    assert said in page.one("section", id="quality").text
    report.compare([paths[0], paths[3]], tmp_path)  # Of one seed each.
    assert said not in parsed((tmp_path / "comparison.html").read_text()).one("section", id="quality").text


def test_the_papers_figure_stands_beside_runs_of_its_setting_alone(tmp_path):
    ours, other = write_workdir(tmp_path / "ours"), write_workdir(tmp_path / "other")
    record = json.loads((ours / "config.json").read_text())
    record["config"] |= {"data": {"name": "celeb_a"}, "model": {"name": "conv_vae", "image_size": 32}}
    record["config"]["prune"] |= {"score": "magnitude", "rate": 0.2, "structure": "weight"}
    (ours / "config.json").write_text(json.dumps(record))
    rounds = (ours / "rounds.csv").read_text()
    (ours / "rounds.csv").write_text(rounds.replace("fd_digits", "fid"))
    verdict = json.loads((ours / "verdict.json").read_text())
    (ours / "verdict.json").write_text(json.dumps(verdict | {"metric": "fid"}))
    report.compare([ours, other], tmp_path / "out")
    _, *rows = table_in(parsed((tmp_path / "out" / "comparison.html").read_text()), "paper")
    assert [row[0] for row in rows] == ["ours"] and "up to 93% sparsity" in rows[0][2]
    first, second = read_rows(tmp_path / "out", "summary.csv")
    assert float(first["paper_sparsity"]) == pytest.approx(1 - 0.8**12, abs=1e-4) and second["paper_sparsity"] == ""
    assert "93% sparsity" in report.show(ours).html and "The paper, in" not in report.show(other).html


def test_tables_in_markdown_and_latex_show_signs_as_they_are():
    header, lines = ["run", "a_b %"], [["x|y", "1.0 ± 0.2*"], ["<&", "$5"]]
    assert markdown(header, lines).splitlines() == [
        r"| run | a\_b % |",
        "| :-- | --: |",
        r"| x\|y | 1.0 ± 0.2\* |",
        r"| \<& | $5 |",
    ]
    assert latex(header, lines).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"run & a\_b \% \\",
        r"\midrule",
        r"x|y & 1.0 $\pm$ 0.2$^{*}$ \\",
        r"$<$\& & \$5 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_flag_writes_the_tables_and_a_mistake_is_one_line(paths, tmp_path, capsys):
    arguments = [str(paths[0]), str(paths[3]), f"--out={tmp_path}"]
    assert main([*arguments, "--tables=markdown,latex"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{table}.{ending}" for table in ("summary", "levels") for ending in ("csv", "md", "tex")),
        *("comparison.png", "comparison.html"),
    }
    assert f"{100 * (1 - 0.7**WINNER):.1f}" in (tmp_path / "summary.md").read_text()
    capsys.readouterr()
    for mistake in ([*arguments, "--tables=word"], [str(paths[0]), "--tables=latex"], [*arguments, "--tables=latex"]):
        assert main(mistake) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
