"""What reports call the metrics and a method's columns, which way is better, and what they are compared with."""

import json
import re

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pages import parsed, table_in
from report_workdirs import (
    ABOUT,
    HIGHER,
    REFERENCES,
    make_higher_better,
    read_rows,
    reference_labels,
    table_of,
    write_about,
    write_csv,
    write_ratios,
    write_references,
    write_seeds,
    write_workdir,
)
from scipy import stats

from jaxtickets import report
from jaxtickets.report.drawing import metric_axis
from jaxtickets.report.plots import metric_figure
from jaxtickets.report.ratios import ratio_figure
from jaxtickets.report.reading import metric_columns, read, short, significant
from jaxtickets.report.table import measured_columns


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


@pytest.fixture
def named(tmp_path):
    return write_about(write_workdir(tmp_path / "named"))


def test_only_the_metric_of_the_verdict_is_said_to_be_better_when_lower():
    rows = [
        {"round": round_, "density": 0.8**round_, "sparsity": 1 - 0.8**round_, "error": 1.0, "usage": 0.5 + round_ / 10}
        for round_ in range(3)
    ]
    verdict = {"metric": "error", "dense": 1.0, "threshold": 1.1, "winning_round": 2}
    labels = {metric: metric_figure(rows, verdict, metric).axes[0].get_ylabel() for metric in ("error", "usage")}
    assert "lower is better" in labels["error"]
    assert "better" not in labels["usage"]


def test_where_more_is_better_the_rounds_above_the_threshold_win(higher):
    run = read(higher)
    ends = ["dense", *["within tolerance"] * 3, "<== sparsest within tolerance", "worse"]
    lines = report.rounds_table(run.rounds, run.verdict).splitlines()[2:]
    assert all(line.endswith(f"  {end}") for line, end in zip(lines, ends, strict=True))
    filled = metric_figure(run.rounds, run.verdict, "fd_digits").axes[0].collections[0].get_facecolors()
    assert [min(colour[:3]) > 0.99 for colour in filled] == [False] * 5 + [True]


def test_where_more_is_better_the_page_and_the_plots_say_so(higher):
    html = report.build(higher).read_text()
    assert html.count("Higher is better.") == 2 and "ower is better" not in html  # The note and the plot's caption.
    assert "within tolerance down to" in html and "tolerance up to" not in html and "tolerance (up to" not in html
    run = read(higher)
    axes = metric_figure(run.rounds, run.verdict, "fd_digits").axes[0]
    assert "higher is better" in axes.get_ylabel()
    assert "within tolerance (down to 6.390)" in axes.get_legend_handles_labels()[1]


def test_the_columns_of_a_method_are_no_metrics_and_are_shown_by_their_headers(named):
    run = read(named)
    assert metric_columns(run.rounds, run.about) == ["fd_digits", "kid"]
    table = report.rounds_table(run.rounds, None, (), run.about)
    assert re.search(r"fd_digits +regrown +grown by +kid +train s", table.splitlines()[0])
    html = report.build(named).read_text()
    header, _, second, *_ = table_in(parsed(html), "rounds")
    assert header[:2] == ["round", "fd_digits"] and header[5:] == ["regrown", "grown by", "kid"]
    assert second[5:] == ["1234", "random", "0.03947"]
    header, _, second, *_ = table_in(parsed(html), "costs")
    costs = dict(zip(header, second, strict=True))
    assert (costs["training [s]"], costs["growth [s]"], costs["memory of a step [MB]"]) == ("32.4", "0.5", "-")
    assert "growth: part of the training." in html
    curves = {"curve_generator_loss.svg", "curve_discriminator_loss.svg"}
    plots = {path.name for path in (named / "plots").iterdir()}
    assert plots == {"metric_fd_digits.svg", "metric_kid.svg", "layers.svg", *curves}


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


def test_an_axis_has_a_metrics_name_and_direction_and_the_caption_its_label(named):
    run = read(named)
    labels = {
        metric: metric_figure(run.rounds, run.verdict, metric, (), run.about).axes[0].get_ylabel()
        for metric in ("fd_digits", "kid")
    }
    assert labels == {
        "fd_digits": "fd_digits (lower is better)",
        "kid": "kid (higher is better)",
    }
    captions = [caption.text for caption in parsed(report.build(named).read_text()).all("figcaption")]
    told = [text.rpartition(". ")[0] for text in captions if "is better" in text]
    assert told == [
        "fd_digits: Frechet distance in digits features. Lower is better",
        "kid: Agreement with the digits. Higher is better",
    ]


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


def test_what_stands_beside_the_numbers_is_below_the_table_and_on_the_page(workdir):
    rows = [row | {"negative_elbo": 27.76, "log_likelihood": -171.5} for row in read_rows(workdir)]
    about = {"label": "Frechet distance", "better": "lower", "about": "5 networks trained on digits, right in 98%"}
    metrics = {"fd_digits": about, "kid": about}
    metrics |= {name: {"label": name, "better": "lower"} for name in ("negative_elbo", "log_likelihood")}
    write_about(workdir, {"title": "imp", "columns": {}, "metrics": metrics})
    write_csv(workdir / "rounds.csv", rows)
    text = " ".join(report.summary(workdir).split())
    of_network = "fd_digits, kid: 5 networks trained on digits, right in 98%."
    constant = (
        "negative_elbo leaves out the constant of the likelihood, a Gaussian with variance 1/2: "
        f"{-stats.norm(0, 0.5**0.5).logpdf(0):.4f} nats for each pixel and channel. log_likelihood has it."
    )
    page = report.build(workdir).read_text()
    for note in (of_network, constant):
        assert note in text and note in page
    assert text.index("train s") < text.index(of_network)
    # Either of the two alone needs no such line.
    write_csv(workdir / "rounds.csv", [{k: v for k, v in row.items() if k != "log_likelihood"} for row in rows])
    assert "constant" not in report.summary(workdir)


def test_the_heading_speaks_of_fid_only_where_another_distance_stands_in_for_it(seeds):
    assert "3 seeds." in report.summary(seeds) and "not FID" in report.summary(seeds)
    (seeds / "rounds.csv").write_text((seeds / "rounds.csv").read_text().replace("fd_digits", "fid"))
    assert "FID" not in report.summary(seeds)


def test_over_several_seeds_references_are_means(seeds):
    for seed, untrained in enumerate((2000.0, 2500.0)):
        own = {"fd_digits": REFERENCES["fd_digits"] | {"untrained": untrained}}
        write_references(seeds / f"seed_{seed}", own)
    assert read(seeds).references == {"fd_digits": REFERENCES["fd_digits"] | {"untrained": 2250.0}}


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


@pytest.mark.parametrize(("floor", "where"), [(0.2, "below"), (400.0, "above")])
@pytest.mark.parametrize("is_log", [False, True])
def test_a_floor_far_from_the_data_is_drawn_beyond_a_break_of_the_axis(workdir, floor, where, is_log):
    values = (12, 14, 20, 60, 100, 150) if is_log else (76, 77, 79, 81, 86, 84)
    floor = floor * (1e-6 if where == "below" else 1e6) if is_log else floor
    rows = [row | {"fd_digits": value} for row, value in zip(read(workdir).rounds, values, strict=True)]
    figure = metric_figure(rows, None, "fd_digits", reference={"held_out": floor, "held_out_images": 296})
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    (text,) = axes.texts
    assert text.get_text() == f"296 held-out images ({significant(floor)})" and reference_labels(figure) == []
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [to_axes.transform((1, value))[1] for value in values]
    height = line.get_ydata()[0]  # As a share of the axis.
    assert 0 < height < min(heights) if where == "below" else max(heights) < height < 1
    assert max(heights) - min(heights) > 0.7  # The data keep their room.
    assert axes.get_yscale() == ("log" if is_log else "linear")
    # No number of the axis stands beyond the break.
    ticks = [to_axes.transform((1, tick))[1] for tick in axes.get_yticks()]
    assert len(ticks) > 2 and (min(ticks) > 0.13 if where == "below" else max(ticks) < 0.87)


def test_the_plot_of_ratios_has_references_as_ratios_to_the_dense_runs(judged):
    dense = [row["fd_digits"] for row in read(judged).seed_rounds if row["round"] == 0]
    for seed in range(5):
        write_references(judged / f"seed_{seed}")
    (axes,) = ratio_figure(read(judged)).axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert line.get_ydata()[0] == pytest.approx(10.5 / stats.gmean(dense))


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
    ends = table_in(parsed(html), "rounds")[-2:]
    assert [[row[0], *row[1:3]] for row in ends] == [
        ["", "10.50", "held-out images"],
        ["", "2450", "untrained network"],
    ]
    run = read(workdir)
    colours = metric_figure(run.rounds, run.verdict, "fd_digits").axes[0].collections[0].get_facecolors()
    assert [min(colour[:3]) > 0.99 for colour in colours] == [False] + [True] * 5
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
