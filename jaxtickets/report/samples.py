"""The sample grids of a run: the dense network's beside those of any round, and all rounds at a glance."""

import io
from collections.abc import Iterator

from PIL import Image

from jaxtickets.report.descriptions import of_samples
from jaxtickets.report.elements import Frame, pair, paragraph, picture, slider
from jaxtickets.report.reading import Results, is_finite, percent, significant, winner, winning_round


def samples(run: Results) -> Iterator[str]:
    """The HTML of the grids; the slider starts at the ticket, or at the last round without one."""
    if not run.samples:
        return
    images = {number: path.read_bytes() for number, path in run.samples.items()}
    frames = [Frame(image, label(run, number), of_samples(run, number)) for number, image in images.items()]
    numbers = list(images)
    ticket = winning_round(run.verdict)
    start = numbers.index(ticket) if ticket in images else len(numbers) - 1
    if len(frames) == 1 or 0 not in images:
        yield pair(*(picture(image, label, description) for image, label, description in frames))
        return
    dense = picture(*_captioned(frames[0]))
    yield pair(dense, slider("samples", "round", frames, start))
    yield paragraph("Each place shows the same latents in every round, or the same held-out images above their copies.")
    yield "<h3>The first two rows of each round</h3>"
    yield '<div class="strip">'
    for number, frame in zip(numbers, frames, strict=True):
        image, caption, description = _captioned(frame)
        row = corner(image), caption, f"The first two rows. {description}"
        yield picture(*row, "wins" if number == ticket else "")
    yield "</div>"


def label(run: Results, round_: int) -> str:
    """A round's number, sparsity, metric (of one seed) and rank."""
    row = next((row for row in run.rounds if row["round"] == round_), {})
    metric = (run.verdict or {}).get("metric")
    parts = [f"Round {round_}"]
    if row:
        parts.append(f"{percent(row['sparsity'])} % pruned")
    if not run.seeds and is_finite(row.get(metric)):
        parts.append(f"{metric} {significant(row[metric])}")
    if round_ == winning_round(run.verdict):
        parts.append(winner(run.verdict))
    return " · ".join(parts) + (" · dense run" if round_ == 0 else "")


def corner(grid: bytes) -> bytes:
    """The first two rows of a grid of square images that is eight images wide; both are the contents of PNG files."""
    image, content = Image.open(io.BytesIO(grid), formats=("PNG",)), io.BytesIO()
    # Rounded up, because the last image has no gap to its right.
    pitch = -(-image.width // 8)
    image.crop((0, 0, image.width, min(image.height, 2 * pitch))).save(content, "png")
    return content.getvalue()


def _captioned(frame: Frame) -> tuple[bytes, str, str]:
    return frame.image, frame.label, frame.description
