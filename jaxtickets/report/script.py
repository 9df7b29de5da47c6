"""The script of a page: sliders, and links that save plots. It asks for nothing on the network."""

SCRIPT = """
for (const figure of document.querySelectorAll('.slider')) {
  const input = figure.querySelector('input'), output = figure.querySelector('output');
  const frames = [...figure.querySelectorAll('.frame')];
  const show = () => {
    frames.forEach((frame, place) => { frame.hidden = place !== input.valueAsNumber; });
    output.textContent = frames[input.valueAsNumber].querySelector('figcaption').textContent;
    input.setAttribute('aria-valuetext', output.textContent);
  };
  input.addEventListener('input', show);
  figure.classList.add('ready');
  show();
}
for (const link of document.querySelectorAll('a[data-svg]')) {
  const plot = link.closest('figure').querySelector('svg');
  const text = new XMLSerializer().serializeToString(plot).replace(/var\\(--[a-z-]+,\\s*(#[0-9a-f]{6})\\)/g, '$1');
  link.href = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(text);
  link.download = link.dataset.svg;
  link.hidden = false;
}
"""

# Of a page that is served while its run goes on: `/state` is another text once the page is.
REFRESH = """
setInterval(async () => {
  try {
    const answer = await fetch('state', {cache: 'no-store'});
    if (answer.ok && await answer.text() !== document.body.dataset.state) location.reload();
  } catch { }  // The server has ended; the page stays.
}, 2000);
"""
