"""The page's structure: what is said, in which order, for those who do not see it, and what can be saved from it."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from pages import other_files, parsed, table_in
from report_workdirs import (
    read_rows,
    write_csv,
    write_ratios,
    write_references,
    write_searches,
    write_seeds,
    write_workdir,
)

import jaxtickets as jt
from jaxtickets import report
from jaxtickets.report.costs import costs
from jaxtickets.report.elements import Frame, slider
from jaxtickets.report.limits import limits
from jaxtickets.report.overlap import is_nested, overlap_words, overlaps
from jaxtickets.report.published import published, published_sparsity
from jaxtickets.report.reading import read
from jaxtickets.report.theme import COLOURS, TEXT_ON


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_references(write_searches(write_workdir(tmp_path_factory.mktemp("page") / "run")))


@pytest.fixture(scope="module")
def page(path):
    return parsed(report.build(path).read_text())


@pytest.fixture(scope="module")
def of_seeds(tmp_path_factory):
    path = write_ratios(tmp_path_factory.mktemp("page_of_seeds") / "run")
    return path, parsed(report.build(path).read_text())


def saved(page, name):
    """The rows of a CSV file that the page holds in a link."""
    link = next(link for link in page.all("a") if link.attributes.get("download") == name)
    return list(csv.DictReader(io.StringIO(base64.b64decode(link["href"].partition("base64,")[2]).decode())))


def test_the_verdict_comes_first_with_its_references_and_what_it_does_not_show(page):
    main = page.one("main")
    texts = [element.text for element in main.children if not isinstance(element, str)]
    parts = ("Round 4 wins", "What this does not show", "One seed is an observation")
    order = [next(i for i, text in enumerate(texts) if part in text) for part in parts]
    sections = next(i for i, element in enumerate(main.children) if getattr(element, "tag", "") == "section")
    assert order == sorted(order) and order[-1] < sections
    facts = {div.one("dt").text: div.one("dd").text for div in main.all("div") if list(div.all("dt"))}
    assert facts["fd_digits, held-out images"] == "10.50" and facts["fd_digits, untrained network"] == "2450"
    assert [section["id"] for section in main.all("section")] == [
        *("metric", "samples", "rounds", "costs", "search", "training", "layers", "reproduce"),
    ]


def test_headings_skip_no_level(page, of_seeds):
    for one in (page, of_seeds[1]):
        levels = [int(heading.tag[1]) for heading in one.all("h1", "h2", "h3", "h4")]
        assert levels[0] == 1 and all(later <= level + 1 for level, later in zip(levels, levels[1:], strict=False))


def test_the_time_of_a_step_is_compared_where_channels_were_taken_out_alone(tmp_path):
    path = write_workdir(tmp_path / "run")
    write_csv(
        path / "rounds.csv", [row | {"steps_per_second": 60 + 30 * (row["round"] == "4")} for row in read_rows(path)]
    )
    assert "FLOPs per image, ticket against dense</dt><dd>76% fewer" in "".join(costs(read(path)))
    assert "time of a step, ticket" not in "".join(costs(read(path)))
    (path / "compact_004").mkdir()
    assert "time of a step, ticket against dense</dt><dd>33% less" in "".join(costs(read(path)))


def test_the_links_of_the_page_lead_to_its_sections(page):
    ids = {element["id"] for element in page.all("section")}
    assert {link["href"][1:] for link in page.one("nav").all("a")} == ids
    names = [
        element["id"]
        for element in page.all("section", "input", "clipPath", "path", "g", "use")
        if "id" in element.attributes
    ]
    assert len(names) == len(set(names))


def test_every_plot_and_picture_says_what_is_seen_in_numbers(page):
    told = [plot["aria-label"] for plot in page.all("svg")] + [picture["alt"] for picture in page.all("img")]
    assert len(told) > 20 and all(re.search("[0-9]", text) for text in told)
    assert all(plot["role"] == "img" for plot in page.all("svg"))
    metric = next(text for text in told if text.startswith("Frechet"))
    assert "12.31 at 0.0%" in metric and "Round 4 is marked" in metric and "held-out images 10.50" in metric
    assert any("found at epoch 7.94" in text for text in told)


def test_each_cell_of_a_table_has_a_heading_with_its_scope_and_tables_scroll_in_boxes_of_their_own(page):
    boxes = list(page.all("div", kind="scroll"))
    assert len(boxes) == len(list(page.all("table"))) > 2
    for box in boxes:
        assert box["role"] == "region" and box["tabindex"] == "0" and box["aria-label"]
        header, *rows = box.one("table").all("tr")
        assert {cell["scope"] for cell in header.all("th")} == {"col"} and not list(header.all("td"))
        for row in rows:
            assert [cell["scope"] for cell in row.all("th")] == ["row"]
            assert len(list(row.all("th", "td"))) == len(list(header.all("th")))


def test_the_metric_of_the_verdict_stands_beside_the_round(page):
    assert table_in(page, "rounds")[0][:2] == ["round", "fd_digits"]


def test_a_slider_has_a_label_a_text_that_is_read_out_and_a_picture_for_each_round(page):
    figure = next(page.all("figure", kind="slider"))
    control = figure.one("input")
    assert (control["type"], control["min"], control["max"], control["value"]) == ("range", "0", "5", "4")
    assert figure.one("label")["for"] == control["id"] and figure.one("output")["aria-live"] == "polite"
    assert "sparsest within tolerance" in figure.one("output").text
    assert len(list(figure.all("div", kind="frame"))) == 6


def test_a_section_can_hold_a_slider_of_other_pictures(path):
    image = (path / "samples" / "round_000.png").read_bytes()
    frames = [Frame(image, f"step {step}", f"Images at step {step}.") for step in range(3)]
    figure = parsed(slider("path", "Step", frames, start=2)).one("figure")
    assert [one["alt"] for one in figure.all("img")] == [f"Images at step {step}." for step in range(3)]
    assert figure.one("label").text == "Step" and figure.one("output").text == "step 2"


def test_the_page_holds_its_data_as_csv(path, page):
    assert saved(page, "rounds.csv") == read_rows(path)
    assert saved(page, "layers.csv") == read_rows(path, "layers.csv")
    curve = saved(page, "curve_generator_loss.csv")
    assert list(curve[0]) == ["round", "step", "generator_loss"] and {row["round"] for row in curve} == set("012345")
    search = json.loads((path / "search" / "001.json").read_text())
    distances = [[float(value) for value in list(row.values())[1:]] for row in saved(page, "search_001.csv")]
    np.testing.assert_allclose(distances, search["distances"])
    assert [row["kid"] for row in saved(page, "metric_kid.csv")] == [row["kid"] for row in read_rows(path)]
    assert [row["step_bytes"] for row in saved(page, "costs.csv")] == [row["step_bytes"] for row in read_rows(path)]
    assert len(list(page.all("a"))) > 0 and all("hidden" in link.attributes for link in page.all("a", kind="get"))


def test_every_plot_has_a_link_for_its_svg_file_and_one_for_its_numbers(page, of_seeds):
    for one, number in ((page, 9), (of_seeds[1], 3)):
        figures = list(one.all("figure", kind="plot"))
        assert len(figures) == number
        for figure in figures:
            svg, table = figure.all("a")
            assert svg["data-svg"].removesuffix(".svg") == table["download"].removesuffix(".csv")


def test_the_numbers_of_the_ratios_are_those_of_each_seed_with_their_geometric_mean(of_seeds):
    path, page = of_seeds
    values = {(row["round"], row["seed"]): float(row["fd_digits"]) for row in read_rows(path)}
    rows = saved(page, "ratio.csv")
    assert [row["round"] for row in rows] == list("12345")
    for row in rows:
        of_seeds = [values[row["round"], seed] / values["0", seed] for seed in "01234"]
        np.testing.assert_allclose([float(row[f"seed_{seed}"]) for seed in range(5)], of_seeds)
        np.testing.assert_allclose(float(row["ratio"]), np.exp(np.mean(np.log(of_seeds))), rtol=1e-6)
        assert float(row["ratio_low"]) < float(row["ratio"]) < float(row["ratio_high"])


def luminance(colour):
    """The relative luminance of WCAG 2."""
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_have_a_contrast_of_four_and_a_half_or_more(scheme):
    assert luminance("#ffffff") == pytest.approx(1) and luminance("#777777") == pytest.approx(0.1845, abs=1e-3)
    poor = {}
    for background, texts in TEXT_ON.items():
        for text in texts:
            dark, light = sorted(luminance(COLOURS[name][scheme]) for name in (background, text))
            if (contrast := (light + 0.05) / (dark + 0.05)) < 4.5:
                poor[text, background] = round(contrast, 2)
    assert not poor


def test_the_parts_of_older_runs_that_are_missing_are_left_out(tmp_path):
    old = write_workdir(tmp_path / "old")
    rows = read_rows(old)
    kept = ("round", "sparsity", "density", "fd_digits", "train_seconds")
    text = "\n".join([",".join(kept), *(",".join(row[name] for name in kept) for row in rows)])
    (old / "rounds.csv").write_text(text + "\n")
    (old / "layers.csv").unlink()
    page = parsed(report.build(old).read_text())
    ids = {section["id"] for section in page.all("section")}
    assert {"metric", "rounds", "costs"} <= ids and not ids & {"layers", "search", "overlap"}


def write_masks(path, masks):
    """Saves random masks of two layers of 800 weights, one per round, with their table."""
    from jaxtickets import snapshots

    rows = []
    for number, mask in masks.items():
        (path / "masks").mkdir(exist_ok=True)
        snapshots.save_masks(path / "masks" / f"{number:03d}", mask)
        rows += [
            {
                "round": number,
                "layer": f"net/{name}/kernel",
                "weights": leaf["kernel"].size,
                "kept": leaf["kernel"].sum(),
            }
            for name, leaf in mask["net"].items()
        ]
    text = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    (path / "layers.csv").write_text(text + "\n")


def random_masks(random, shares):
    return {"net": {name: {"kernel": random.random((20, 40)) < share} for name, share in shares.items()}}


def test_the_overlap_of_masks_is_that_of_their_weights_beside_random_ones(tmp_path):
    path, random = write_workdir(tmp_path / "run", rounds=3), np.random.default_rng(0)
    first, second = random_masks(random, {"a": 0.7, "b": 0.4}), random_masks(random, {"a": 0.5, "b": 0.1})
    write_masks(path, {1: first, 2: second})
    (row,) = overlaps(read(path))
    pairs = [(first["net"][name]["kernel"], second["net"][name]["kernel"]) for name in "ab"]
    kept = sum(int(b.sum()) for _, b in pairs)
    both = sum(int((a & b).sum()) for a, b in pairs)
    expected = sum(a.sum() * b.sum() / a.size for a, b in pairs) / kept
    assert (row["kept_second"], row["kept_by_both"]) == (kept, both)
    assert (row["overlap"], row["overlap_of_random"]) == pytest.approx((both / kept, expected))
    assert abs(row["beyond_chance"]) < 0.1 and not is_nested([row])  # These are random ones.
    page = parsed(report.build(path).read_text())
    assert "beyond chance" in page.one("section", id="overlap").one("svg")["aria-label"].lower()
    assert saved(page, "overlap.csv")[0]["kept_by_both"] == str(both)


def test_nested_masks_are_told_in_a_sentence(tmp_path):
    path, random = write_workdir(tmp_path / "run", rounds=3), np.random.default_rng(0)
    first = random_masks(random, {"a": 0.7, "b": 0.4})
    second = {
        "net": {name: {"kernel": first["net"][name]["kernel"] & (random.random((20, 40)) < 0.6)} for name in "ab"}
    }
    write_masks(path, {1: first, 2: second})
    rows = overlaps(read(path))
    assert is_nested(rows) and rows[0]["beyond_chance"] == 1 and "nested" in overlap_words(read(path), rows)


def test_the_masks_of_two_seeds_are_compared_round_by_round(tmp_path):
    path, random = write_seeds(tmp_path / "seeds", rounds=(3, 3), finished=False), np.random.default_rng(0)
    for seed in (0, 1):
        write_masks(path / f"seed_{seed}", {n: random_masks(random, {"a": 0.7**n}) for n in (1, 2)})
    rows = overlaps(read(path))
    assert [(row["first"], row["second"], row["round"]) for row in rows] == [(0, 1, 1), (0, 1, 2)]
    assert all(abs(row["beyond_chance"]) < 0.1 for row in rows)
    assert "two seeds" in parsed(report.build(path).read_text()).one("section", id="overlap").text


def test_the_limits_are_those_of_the_run(path, tmp_path):
    told = " ".join(limits(read(path)))
    for text in ("One seed is an observation", "not FID", "controls", "dense arrays"):
        assert text in told
    several = " ".join(limits(read(write_seeds(tmp_path / "seeds"))))
    assert "One seed" not in several and "73% of all runs over 3 seeds" in several  # 0.9 ** 3
    assert list(limits(read(path)._replace(verdict=None))) == []


def test_the_paper_is_quoted_only_in_its_own_setting(path):
    run = read(path)
    assert published(run) == "" and published_sparsity(run) is None
    config = {
        "experiment": "imp",
        "data": {"name": "cifar10"},
        "model": {"name": "dcgan", "image_size": 32},
        "prune": {"score": "magnitude", "rate": 0.2, "structure": "weight"},
    }
    rows = [{"fid" if name == "fd_digits" else name: value for name, value in row.items()} for row in run.rounds]
    same = run._replace(config=config, rounds=rows, verdict=None)
    assert "up to 89%" in published(same)  # Round 10 of 20% each: 89.26%.
    assert published_sparsity(same) == pytest.approx(1 - 0.8**10, abs=1e-4)
    for other in (
        {"data": {"name": "digits"}},
        {"model": {"name": "dcgan", "image_size": 64}},
        {"experiment": "branch"},
    ):
        assert published(same._replace(config=config | other)) == ""
    assert published(same._replace(rounds=run.rounds)) == ""  # Another metric.


def test_a_notebook_shows_the_report_in_a_frame_that_touches_nothing_around_it(path, tmp_path):
    before = sorted(path.rglob("*"))
    (frame,) = parsed(jt.Workdir(path)._repr_html_()).children
    assert frame.tag == "iframe" and "allow-same-origin" not in frame["sandbox"] and frame["title"].startswith("Report")
    inner = parsed(frame["srcdoc"])
    assert "Round 4 wins." in inner.text and other_files(inner) == []
    assert sorted(path.rglob("*")) == before
    assert repr(report.show(path)).startswith("<Report of ")
    assert jt.Workdir(tmp_path / "none")._repr_html_() is None
