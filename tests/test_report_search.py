"""Reports of early-bird searches: their plots, columns and tables."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from report_workdirs import read_rows, table_of, write_csv, write_searches, write_seeds, write_workdir

from jaxtickets import report
from jaxtickets.report.plots import metric_figure, search_figure, shown_searches
from jaxtickets.report.reading import metric_columns, read
from jaxtickets.report.table import measured_columns


@pytest.fixture
def workdir(tmp_path):
    return write_workdir(tmp_path / "run")


@pytest.fixture
def seeds(tmp_path):
    return write_seeds(tmp_path / "seeds")


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
    if damage is None:  # The page has what was read.
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


def test_in_an_old_workdir_how_far_masks_have_moved_is_no_metric(searched):
    write_csv(searched / "rounds.csv", [row | {"moved": 0.3} for row in read_rows(searched)])
    assert metric_columns(read(searched).rounds) == ["fd_digits", "kid"]
    assert "moved from step 0" in measured_columns(read(searched).rounds, None)
