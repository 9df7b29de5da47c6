"""Reports of early-bird searches: their plots, columns and tables."""

import json

import numpy as np
import pytest
from pages import parsed, table_in
from report_workdirs import read_rows, table_of, write_csv, write_searches, write_seeds, write_workdir

from jaxtickets import report
from jaxtickets.report.plots import metric_figure
from jaxtickets.report.reading import metric_columns, read
from jaxtickets.report.search import largest_distance, search_figure, search_title, shown_searches
from jaxtickets.report.table import measured_columns

COSTS = ("training [s]", "search [s]", "memory of a step [MB]")


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
    page, other = (parsed(report.build(path).read_text()) for path in (searched, workdir))
    section = page.one("section", id="search")
    assert len(list(section.all("svg"))) == 4 and "filter" not in page.one("style").text
    caption = list(section.all("p"))[-1].text
    for text in ("share of channels", "last 5 masks", "threshold", "4 of 5 rounds are shown"):
        assert text in caption
    header, first, second, *_ = table_in(page, "rounds")
    assert header[5:] == ["found at epoch", "kid"]
    assert (first[5:], second[5:]) == (["-", "0.04103"], ["7.94", "0.03947"])
    header, *rows = table_in(page, "costs")
    costs = [dict(zip(header, row, strict=True)) for row in rows]
    assert [costs[0][name] for name in COSTS] == ["31.4", "0.0", "48.3"]
    assert [costs[1][name] for name in COSTS] == ["32.4", "9.5", "33.8"]
    assert table_in(other, "rounds")[0][5:] == ["kid"] and "Search for the ticket" not in other.text
    assert {path.stem for path in (searched / "plots").glob("search_*.svg")} == {f"search_00{n}" for n in (1, 2, 4, 5)}


def test_the_report_over_several_seeds_shows_the_search_of_the_first_one(tmp_path):
    seeds = write_seeds(tmp_path / "seeds", emerged=((7, 5, 6, None, 4), (6, 4, 5, None, 3), (5, 3, 4, None, 2)))
    assert read(seeds).searches == read(seeds / "seed_0").searches
    assert "<h2>Search for the ticket of seed 0</h2>" in report.build(seeds).read_text()


def test_the_plot_of_a_search_has_a_cell_for_each_two_masks_in_epochs_and_the_ticket_on_its_diagonal(searched):
    run = read(searched)
    searches = {number: run.searches[number] for number in (1, 4)}
    (first, bar), (fourth, _) = (
        search_figure(
            search, search_title(number, search, run.rounds[number]["sparsity"]), largest_distance(searches)
        ).axes
        for number, search in searches.items()
    )
    mesh, *_, diamond = first.collections
    np.testing.assert_array_equal(mesh.get_array(), run.searches[1]["distances"])
    edges = np.asarray(mesh.get_coordinates())[0, :, 0]
    epochs = np.arange(1, 13) * 31 * 64 / 2000
    np.testing.assert_allclose((edges[1:] + edges[:-1]) / 2, epochs)
    np.testing.assert_allclose(diamond.get_offsets(), [[epochs[7]] * 2])
    assert first.get_title(loc="left") == "round 1 · 30.0 % pruned · found at epoch 7.94"
    assert fourth.get_title(loc="left") == "round 4 · 76.0 % pruned · no ticket found" and not fourth.lines
    assert "0.1" in [label.get_text() for label in bar.get_yticklabels()]
    assert bar.get_ylabel() == "distance between channel masks"
    assert mesh.norm.vmax == max(np.max(run.searches[number]["distances"]) for number in (1, 4))


def test_the_line_in_the_plot_of_a_search_parts_the_cells_below_the_threshold_from_the_others():
    distances = [[0, 0.3, 0.1], [0.3, 0, 0.09], [0.1, 0.09, 0]]
    search = {"epochs": [1, 2, 3], "distances": distances, "queue": 2, "threshold": 0.1, "emerged": 2}
    upright, level = search_figure(search | {"unit": "weights"}, "", 0.3).axes[0].collections[1:3]
    # Rows from below: close, far, far | far, close, close | far, close, close.
    expected = {((1.5, 0.5), (1.5, 1.5)), ((1.5, 1.5), (1.5, 2.5)), ((1.5, 2.5), (1.5, 3.5))}
    assert {tuple(map(tuple, segment)) for segment in upright.get_segments()} == expected
    assert {tuple((x, y) for y, x in segment) for segment in level.get_segments()} == expected


def test_of_many_searches_four_are_drawn_with_the_first_and_the_last():
    assert list(shown_searches(dict.fromkeys(range(1, 21)))) == [1, 7, 14, 20]
    assert list(shown_searches(dict.fromkeys((3, 2)))) == [2, 3]


def test_a_search_of_a_single_mask_is_drawn(tmp_path):
    report.build(write_searches(write_workdir(tmp_path / "run", rounds=2, winner=1), epochs=1, emerged=(None,)))
    assert (tmp_path / "run" / "plots" / "search_001.svg").exists()


def test_a_workdir_without_names_has_the_columns_of_a_search_and_the_direction_of_its_verdict(searched):
    run = read(searched)
    assert metric_columns(run.rounds, run.about) == ["fd_digits", "kid"]
    labels = [
        metric_figure(run.rounds, run.verdict, metric, (), run.about).axes[0].get_ylabel()
        for metric in ("fd_digits", "kid")
    ]
    assert labels == ["fd_digits (lower is better)", "kid"]
    page = parsed(report.build(searched).read_text())
    assert "found at epoch" in table_in(page, "rounds")[0] and "search [s]" in table_in(page, "costs")[0]


def test_in_an_old_workdir_how_far_masks_have_moved_is_no_metric(searched):
    write_csv(searched / "rounds.csv", [row | {"moved": 0.3} for row in read_rows(searched)])
    assert metric_columns(read(searched).rounds) == ["fd_digits", "kid"]
    assert "moved from step 0" in measured_columns(read(searched).rounds, None)
