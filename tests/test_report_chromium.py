"""The report in a real browser: it complains of nothing, its slider moves, and it fits a phone."""

import base64
import io
import json
import threading
from urllib.parse import unquote
from xml.etree import ElementTree

import chromium
import pytest
from PIL import Image
from report_workdirs import write_references, write_searches, write_seeds, write_workdir

from jaxtickets import report
from jaxtickets.report import serving
from jaxtickets.report.page import page
from jaxtickets.report.theme import COLOURS
from jaxtickets.workdir import Workdir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.BINARY is None, reason="there is no Chromium on this machine"),
]

WIDTHS = (390, 820, 1440)
# Texts whose colour has a contrast below 4.5 with the background that is drawn behind them.
POOR = """
(() => {
  const parsed = text => text.match(/[0-9.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parsed(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return parsed(getComputedStyle(document.documentElement).backgroundColor);
  };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest('script, style')) continue;
    const style = getComputedStyle(element);
    const colour = parsed(element.closest('svg') ? style.fill : style.color);
    const background = behind(element.closest('svg') || element);
    const [dark, light] = [luminance(colour), luminance(background)].sort((a, b) => a - b);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) poor.push([text, contrast.toFixed(2)]);
  }
  return JSON.stringify(poor);
})()
"""


@pytest.fixture(scope="module")
def tab():
    with chromium.tab() as opened:
        yield opened


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_references(write_searches(write_workdir(tmp_path_factory.mktemp("chromium") / "run")))


@pytest.fixture(scope="module")
def url(path):
    return report.build(path).as_uri()


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    points = [(seed, rate) for rate in (0.3, 0.5) for seed in (0, 1)]
    runs = [write_workdir(folder / f"seed={seed},rate={rate}", seed=seed, rate=rate) for seed, rate in points]
    report.compare([*runs, write_seeds(folder / "several")], folder / "out")
    return (folder / "out" / "comparison.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["url", "compared"])
def test_the_page_fits_any_width_has_contrast_and_nothing_to_complain_of(tab, page, width, scheme, request):
    tab.look(width, scheme=scheme)
    tab.complaints.clear()
    tab.open(request.getfixturevalue(page))
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert json.loads(tab.run(POOR)) == []
    # The smallest letters of plots, in pixels of the screen.
    scale = "Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b)"
    size = f"parseFloat(getComputedStyle(text).fontSize) * {scale}"
    assert tab.run(f"[...document.querySelectorAll('svg text')].filter(text => {size} < 11).length") == 0
    assert tab.complaints == []


def shown(tab):
    """The picture of the slider that is seen, and what is said of it."""
    seen = "[...document.querySelectorAll('.slider img')].filter(image => image.checkVisibility())"
    (source,) = json.loads(tab.run(f"JSON.stringify({seen}.map(image => image.src))"))
    assert tab.run(f"{seen}[0].complete && {seen}[0].naturalWidth > 0")
    return source, tab.run("document.querySelector('.slider output').textContent")


def test_arrow_keys_and_the_mouse_move_the_slider_and_its_picture(tab, url):
    tab.look(820)
    tab.open(url)
    start = shown(tab)
    assert start[1].startswith("Round 4") and "sparsest within tolerance" in start[1]
    tab.run("document.querySelector('.slider input').focus()")
    tab.press("ArrowLeft", 37)
    left = shown(tab)
    assert left[1].startswith("Round 3") and left[0] != start[0]
    assert tab.run("document.querySelector('.slider input').getAttribute('aria-valuetext')") == left[1]
    tab.press("Home", 36)
    first, label = shown(tab)
    assert label.startswith("Round 0") and first == tab.run("document.querySelector('.pair > figure > img').src")
    box = json.loads(tab.run("JSON.stringify(document.querySelector('.slider input').getBoundingClientRect())"))
    tab.run(f"scrollTo(0, {box['top']} + scrollY - 200)")
    box = json.loads(tab.run("JSON.stringify(document.querySelector('.slider input').getBoundingClientRect())"))
    place = {"x": box["right"] - 2, "y": box["top"] + box["height"] / 2, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        tab("Input.dispatchMouseEvent", type=kind, **place)
    assert shown(tab)[1].startswith("Round 5")


def test_without_a_script_every_round_is_seen(tab, url):
    tab("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(url)
    tab("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.run("[...document.querySelectorAll('.slider img')].filter(image => image.checkVisibility()).length") == 6
    assert not tab.run("document.querySelector('.slider input').checkVisibility()")


def test_links_save_the_plots_as_svg_files_in_light_colours(tab, url):
    tab.look(820, scheme="dark")
    tab.open(url)
    found = "[...document.querySelectorAll('a[data-svg]')].map(link => [link.download, link.href])"
    links = json.loads(tab.run(f"JSON.stringify({found})"))
    assert "metric_fd_digits.svg" in dict(links) and len(links) == len(dict(links)) == 9
    for _, address in links:
        text = unquote(address.partition(",")[2])
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in text


def test_wide_tables_scroll_in_boxes_of_their_own_with_the_round_in_sight(tab, url):
    tab.look(390)
    tab.open(url)
    box = "document.querySelector('#costs .scroll')"
    assert tab.run(f"{box}.scrollWidth > {box}.clientWidth")
    tab.run(f"{box}.scrollLeft = 200")
    left = "getBoundingClientRect().left"
    assert abs(tab.run(f"{box}.querySelector('tbody th').{left} - {box}.{left}")) < 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_has_a_shadow_at_the_edge_behind_which_more_is_to_be_seen(tab, url, scheme):
    tab.look(390, scheme=scheme)
    tab.open(url)
    box = "document.querySelector('#costs .scroll')"
    tab.run(f"{box}.scrollIntoView()")
    place = json.loads(tab.run(f"JSON.stringify({box}.getBoundingClientRect())"))
    top = place["top"] + tab.run("scrollY")
    clip = {"x": place["right"] - 1, "y": top + 3, "width": 1, "height": 1, "scale": 1}
    edges = []
    for left in (0, 9999):
        tab.run(f"{box}.scrollLeft = {left}")
        content = base64.b64decode(tab("Page.captureScreenshot", clip=clip)["data"])
        edges.append("#{:02x}{:02x}{:02x}".format(*Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))))
    assert edges == [COLOURS[name][scheme == "dark"] for name in ("soft", "page")]


def test_a_served_page_renews_itself_when_the_run_has_begun_and_when_a_round_has_finished(tab, tmp_path):
    hidden, path = write_workdir(tmp_path / "hidden", rounds=3, finished=False), tmp_path / "run"
    rows = (hidden / "rounds.csv").read_text().splitlines(keepends=True)
    (hidden / "rounds.csv").write_text("".join(rows[:3]))

    def make(state):
        run = report.read(path)
        return page(run, report.draw(run), state, has_links=False)

    with serving.server(serving.Page(Workdir(path), make), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.complaints.clear()
        own, said = f"http://127.0.0.1:{server.server_port}", "document.querySelector('.verdict').textContent"
        start = len(tab.events)
        tab.open(f"{own}/")
        assert "does not exist yet" in tab.run("document.querySelector('main').textContent")
        hidden.rename(path)
        tab.wait_for("Page.loadEventFired")
        assert "Rounds complete so far: 2." in tab.run(said)
        (path / "rounds.csv").write_text("".join(rows))
        tab.wait_for("Page.loadEventFired")
        assert "Rounds complete so far: 3." in tab.run(said)
        sent = [event["request"]["url"] for name, event in tab.events[start:] if name == "Network.requestWillBeSent"]
        assert {url for url in sent if not url.startswith("data:")} == {f"{own}/", f"{own}/state"}
        server.shutdown()
    assert tab.complaints == []


# The resolved style of a few elements around the report, and the place of one of them.
AROUND = """
JSON.stringify(['body', 'p', 'table', 'td'].map(name => {
  const element = document.querySelector(name), style = getComputedStyle(element);
  const names = [...style].filter(property => !/height|block-size|origin/.test(property));
  const values = names.map(property => property + ': ' + style.getPropertyValue(property));
  return [values, element.offsetLeft, element.offsetTop];
}))
"""


def test_in_a_notebook_the_report_restyles_nothing_around_it(tab, path, tmp_path):
    outside = "<!doctype html><meta charset=utf-8><p>Text</p><table><tr><td>1</td></tr></table>"
    plain, with_report = tmp_path / "plain.html", tmp_path / "with.html"
    plain.write_text(outside)
    with_report.write_text(outside + report.show(path)._repr_html_())
    tab.look(1000)
    tab.open(plain.as_uri())
    before = tab.run(AROUND)
    tab.complaints.clear()
    tab.open(with_report.as_uri())
    assert tab.run(AROUND) == before and tab.complaints == []
    picture = tmp_path / "notebook.png"
    tab.screenshot(picture)
    assert picture.stat().st_size > 20_000  # The frame is not empty.
