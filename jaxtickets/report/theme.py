"""The colours of pages and plots, in light and in dark, and the style sheet of a page.

A plot is drawn in the light colours; on a page `svg.inline` makes each of them a CSS variable, so that it follows the
reader's preference.
"""

COLOURS = {  # Each in light and in dark. Light ones differ from one another, so that a plot's colour tells its name.
    "page": ("#ffffff", "#16181d"),
    "ink": ("#1f2328", "#e3e6ea"),
    "soft": ("#59626c", "#a3abb5"),
    "line": ("#d5dbe1", "#3a404a"),
    "card": ("#f6f8fa", "#1f2229"),
    "win": ("#fdeee4", "#3a271b"),
    "accent": ("#b03807", "#ff9b61"),
    "good": ("#256b31", "#7fc98a"),
    "bar": ("#d3e3f5", "#24405e"),
    "shade": ("#dce2e8", "#333943"),
    "curve": ("#2563a6", "#74abf0"),
    "dense": ("#6b7280", "#9aa2ac"),
    "band": ("#dfeadf", "#25382b"),
    "ticket": ("#d9480f", "#ff9457"),
    "held-out": ("#2f7d3b", "#8ad096"),
    "untrained": ("#8e44ad", "#cf9be6"),
    "mean-image": ("#8a5f00", "#d9ab48"),
}
TEXT_ON = {  # The texts that stand on each background.
    "page": ("ink", "soft", "accent", "good", "held-out", "untrained", "mean-image", "dense"),
    "card": ("ink", "soft", "accent"),
    "win": ("ink", "accent"),
    "bar": ("ink",),
    "shade": ("ink", "soft", "good"),
}
# Of rounds, from the dense one on: all of about the same lightness, so that they are seen on white and on black.
ROUNDS = ("#2f6fd0", "#7a5bd0", "#b04aa8", "#cf4a6b", "#d9602a", "#b8860b")


def _variables(index: int) -> str:
    return " ".join(f"--{name}: {colours[index]};" for name, colours in COLOURS.items())


STYLE = (
    f""":root {{ color-scheme: light dark; {_variables(0)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(1)} }} }}
"""
    + """* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1rem 4rem; max-width: 66rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
@media (min-width: 40rem) { body { padding-left: 1.8rem; padding-right: 1.8rem; } }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.25rem; margin: 3rem 0 .8rem; }
h3, h2.small { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: .6rem 0; }
.soft, figcaption, .caption { color: var(--soft); font-size: .9rem; }
nav { margin: 1.2rem 0 0; font-size: .9rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.verdict { margin: 1.4rem 0; padding: 1rem 1.2rem; background: var(--card); border-left: 4px solid var(--line);
  border-radius: 0 8px 8px 0; font-size: 1.08rem; }
.verdict.wins { border-color: var(--ticket); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .9rem 1.4rem;
  margin: 1.2rem 0; }
dl.facts div { display: flex; flex-direction: column; justify-content: space-between; }
dl.facts dt { color: var(--soft); font-size: .85rem; line-height: 1.35; }
dl.facts dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
ul.limits { margin: .4rem 0; padding-left: 1.2rem; }
ul.limits li { margin: .25rem 0; }
.scroll { overflow-x: auto; position: relative; }
/* While more is to the right, that edge has a shadow. A cover of the ground's colour moves over it with the content. */
.scroll, pre { --ground: var(--page); background:
  linear-gradient(to left, var(--ground) 1.2rem, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--soft) 2px, var(--shade) 2px, transparent) right / 1.2rem 100% no-repeat scroll,
  var(--ground); }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: .9rem;
  min-width: 100%; }
.caption { margin: 0 0 .3rem; }
.scroll + .caption { margin-top: 1.4rem; }
th, td { padding: 6px .7rem; line-height: 22px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal; overflow-wrap: normal;
  min-width: 4.5rem; max-width: 9rem; line-height: 19px; }
thead th.long { min-width: 8rem; }
:is(thead, tbody) th:first-child { position: sticky; left: 0; background: var(--page); min-width: 0; z-index: 1; }
tbody th { font-weight: 400; }
:is(th, td).text { text-align: left; }
td.bar { background: linear-gradient(90deg, var(--bar) var(--share), transparent var(--share)); }
tr.wins :is(th, td) { background: var(--win) !important; font-weight: 600; }
td.mark { text-align: left; }
tr.wins td.mark { color: var(--accent); }
.within, td.wins { color: var(--good); }
.worse, .not, .nothing, .diverged, tr.reference :is(th, td) { color: var(--soft); }
figure { margin: 0 0 1.6rem; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 29rem; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
figcaption { margin-top: .5rem; }
figcaption a, .caption a, .get { white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem; }
.plots > :only-child { max-width: 29rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem 1.6rem; }
.pair img, .strip img { width: 100%; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .2rem 1rem; }
.strip figure { margin: 0 0 .8rem; }
.strip figcaption { margin: .3rem 0 0; }
.strip figure.wins figcaption { color: var(--accent); font-weight: 600; }
img.grid { image-rendering: pixelated; }
.slider .steps { display: flex; align-items: center; gap: .7rem; margin-top: .5rem; }
.slider:not(.ready) .steps { display: none; }
.slider.ready .frame figcaption { display: none; }
.slider input { flex: 1; min-width: 6rem; height: 1.8rem; accent-color: var(--accent); }
.slider output { display: block; font-size: .9rem; color: var(--soft); min-height: 1.5em; }
ul.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .9rem; }
ul.legend span { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .45rem; }
pre { --ground: var(--card); padding: .9rem 1.1rem; border-radius: 8px; overflow-x: auto; font-size: .85rem;
  overflow-wrap: normal; }
summary { cursor: pointer; }
@media print { body { max-width: none; } nav, .get { display: none; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } }
"""
)
