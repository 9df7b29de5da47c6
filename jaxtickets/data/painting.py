"""Paints the cartoon faces of `jaxtickets.data.faces`, from the background to the hat."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from jaxtickets.data.faces import EYE_COLOURS, HAIR_COLOURS, SKINS, Face

SIZE = 64
# Shapes are painted without anti-aliasing on a canvas this many times larger, and averaged down.
OVERSAMPLING = 4
CANVAS = SIZE * OVERSAMPLING

_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_STEPS = np.linspace(0, 1, 20)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)
_DARK = (34, 32, 40)


def render(face: Face) -> np.ndarray:
    """Paints a face. Returns uint8 [64, 64, 3]."""
    canvas = _background(face)
    brush = _brush(face, ImageDraw.Draw(canvas))
    # Each part covers the ones before it.
    for paint in (_hair_behind, _body, _ears, _head, _nose, _mouth, _eyes, _hair_on_top, _hat):
        paint(face, brush)
    return _lit(face, canvas.reduce(OVERSAMPLING))


class _Brush(NamedTuple):
    """Paints shapes given in the head's coordinates, and knows what several parts of the face share.

    draw: of the canvas. unit, middle: the head's half width and its centre, in pixels of the canvas. turn: [2, 2], from
    the head's coordinates to pixels around its centre. skin, hair: sRGB, [3]. features: how far eyes, nose and mouth
    are moved to the right and down, because the head is turned. back: how far hair and ears are moved to the right.
    """

    draw: Any
    unit: float
    middle: np.ndarray
    turn: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    features: tuple[float, float]
    back: float

    def fill(self, points, colour, factor=1.0):
        """Fills a polygon."""
        self.draw.polygon(self._place(points), fill=_rgb(colour, factor))

    def fill_upright(self, points, colour, factor=1.0):
        """Fills a polygon that does not tilt with the head."""
        self.draw.polygon((points * self.unit + self.middle).ravel().tolist(), fill=_rgb(colour, factor))

    def stroke(self, points, colour, width, factor=1.0):
        """Draws a line through the points."""
        pixels = max(1, round(width * self.unit))
        # Round joints are slow, and a line of many points bends too little to need them.
        joint = "curve" if len(points) < 10 else None
        self.draw.line(self._place(points), fill=_rgb(colour, factor), width=pixels, joint=joint)

    def _place(self, points):
        return (np.asarray(points) @ self.turn + self.middle).ravel().tolist()


def _brush(face, draw):
    unit = 0.285 * CANVAS * face.scale
    cosine, sine = np.cos(face.tilt), np.sin(face.tilt)
    return _Brush(
        draw=draw,
        unit=unit,
        middle=np.array([0.5 + 0.3 * face.offset[0], 0.53 + 0.3 * face.offset[1]]) * CANVAS,
        turn=unit * np.array([[cosine, sine], [-sine, cosine]]),
        skin=np.array(SKINS[face.skin][0]) * (1 + 0.05 * face.tone),
        hair=np.array(HAIR_COLOURS[face.hair_colour][0]) * (1 + 0.14 * face.tone),
        # The features slide over the head as it turns; hair and ears slide a little the other way.
        features=(0.17 * face.yaw, 0.07 * face.pitch),
        back=-0.06 * face.yaw,
    )


def _background(face):
    """Returns the canvas, painted with a gradient."""
    hue, saturation, direction = face.background
    near = _hsv(hue, 0.12 + 0.3 * saturation, 0.34 if face.dark_background else 0.96)
    far = _hsv(hue + 0.06, 0.2 + 0.36 * saturation, 0.16 if face.dark_background else 0.74)
    slopes = direction * np.array([[0, 1], [0, 1]]) + (1 - direction) * np.array([[0, 0], [1, 1]])
    corners = near + slopes[..., None] * (far - near)
    background = Image.fromarray(corners.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return background.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)


# The parts of a face, each painted with `(face, brush)`; x and y are the head's coordinates.


def _hair_behind(face, brush):
    style, width, back = face.hair_style, face.width, brush.back
    if style in ("long", "wavy", "bob"):
        bottom = 0.75 if style == "bob" else 1.75
        side = _arc(back, -0.25, 1.2 * width, 1.1, 180, 360)
        if style == "wavy":
            y = np.linspace(-0.25, bottom, 24)
            wave = 1.22 * width + 0.12 * np.sin(y * 8)
            right, left = np.stack([back + wave, y], 1), np.stack([back - wave, y], 1)
        else:
            flare = 1.28 if style == "bob" else 1.2
            right, left = np.array([[back + flare * width, bottom]]), np.array([[back - flare * width, bottom]])
        brush.fill(np.concatenate([side, right, left[::-1]]), brush.hair, 0.8)
    elif style == "curly":
        for angle in np.linspace(160, 380, 11):
            x, y = _arc(back, -0.3, 1.02 * width, 0.95, angle, angle)[0]
            brush.fill(_ellipse(x, y, 0.34, 0.34), brush.hair, 0.86)
    elif style == "bun" and face.hat == "none":
        brush.fill(_ellipse(back, -1.4, 0.42, 0.4), brush.hair, 0.86)


def _body(face, brush):
    """Paints shoulders and neck, which stay upright."""
    brush.fill_upright(_ellipse(0, 2.35, 1.75, 1.15), _hsv(face.clothes, 0.62, 0.8))
    neck = np.array([[-0.36, 0.6], [0.36, 0.6], [0.42, 1.32], [0, 1.55], [-0.42, 1.32]])
    brush.fill_upright(neck, brush.skin, 0.8)


def _ears(face, brush):
    for sign in (-1, 1):
        brush.fill(_ellipse(sign * face.width + brush.back, 0.06, 0.17, 0.26), brush.skin, 0.9)
        if face.earrings:
            brush.fill(_ellipse(sign * 1.05 * face.width + brush.back, 0.4, 0.1, 0.12), (255, 214, 92))


def _head(face, brush):
    """Paints the head, an ellipse whose lower half narrows to the chin, with beard and cheeks."""
    x, y = brush.features
    cosines, sines = np.cos(_ANGLES), np.sin(_ANGLES)
    narrow = 1 - (1 - face.chin) * 0.55 * np.clip(sines, 0, 1)
    head = np.stack([face.width * narrow * np.sign(cosines) * np.abs(cosines) ** 0.9, 1.16 * sines], 1)
    brush.fill(head, brush.skin)
    if face.beard == "full":
        jaw = head[(sines > 0.1)]
        brush.fill(np.concatenate([jaw * 1.02, [[-0.5 + x, 0.36], [x, 0.42 + y], [0.5 + x, 0.36]]]), brush.hair, 0.95)
    if face.beard == "goatee":
        brush.fill(_ellipse(0.6 * x, 1.0, 0.27, 0.24), brush.hair, 0.95)
    if face.rosy:
        blush = brush.skin * 0.6 + np.array([236, 88, 96]) * 0.4
        for sign in (-1, 1):
            brush.fill(_ellipse(sign * 0.54 + x, 0.36 + y, 0.2, 0.13), blush)


def _nose(face, brush):
    x, y = brush.features
    nose = np.array([[x, -0.02 + y], [x * 1.5 + 0.13, 0.3 + y], [x * 1.5, 0.36 + y], [x * 1.5 - 0.13, 0.3 + y]])
    brush.fill(nose, brush.skin, 0.84)


def _mouth(face, brush):
    """Paints the mouth, and the moustache over it."""
    fx, fy = brush.features
    lips = np.array([206, 52, 78]) if face.lipstick else brush.skin * 0.42 + np.array([62, 4, 10])
    line = 0.12 if face.lipstick else 0.095
    x, y = fx, 0.62 + fy
    if face.mouth == "smile":
        brush.stroke(_arc(x, y - 0.12, 0.4, 0.24, 15, 165), lips, line)
    elif face.mouth == "grin":
        brush.fill(_arc(x, y - 0.12, 0.46, 0.38, 0, 180), lips)
        brush.fill(_arc(x, y - 0.09, 0.37, 0.25, 0, 180), (252, 250, 246))
    elif face.mouth == "neutral":
        brush.stroke([[x - 0.27, y], [x + 0.27, y]], lips, line)
    elif face.mouth == "frown":
        brush.stroke(_arc(x, y + 0.2, 0.34, 0.24, 200, 340), lips, line)
    else:
        brush.fill(_ellipse(x, y + 0.02, 0.2, 0.22), lips)
        brush.fill(_ellipse(x, y + 0.03, 0.12, 0.14), (70, 16, 26))
    if face.beard in ("mustache", "full"):
        for sign in (-1, 1):
            half = [[fx, 0.36 + fy], [fx + sign * 0.26, 0.39 + fy], [fx + sign * 0.44, 0.55 + fy], [fx, 0.5 + fy]]
            brush.fill(half, brush.hair, 0.9)


def _eyes(face, brush):
    """Paints eyes, brows and glasses."""
    fx, fy = brush.features
    for sign in (-1, 1):
        # The far eye is a little narrower when the head is turned.
        scale = 1 - 0.16 * max(0, sign * face.yaw)
        x, y = fx + sign * 0.41 * scale, -0.1 + fy
        if face.glasses != "sun":
            _eye(face, brush, x, y, 0.225 * scale)
        _brow(face, brush, x, y, sign)
        if face.glasses != "none":
            _lens(face, brush, x, y, scale, sign)
    if face.glasses != "none":
        brush.stroke([[fx - 0.12, -0.12 + fy], [fx + 0.12, -0.12 + fy]], _DARK, 0.06)


def _eye(face, brush, x, y, width):
    looks = {"ahead": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[face.gaze]
    height = {"round": 0.21, "almond": 0.155, "narrow": 0.09}[face.eye_shape]
    brush.fill(_ellipse(x, y - 0.02, width + 0.035, height + 0.05), brush.skin, 0.62)
    brush.fill(_ellipse(x, y, width, height), (252, 252, 252))
    iris = min(0.14, height)
    x, y = x + looks[0] * (width - iris * 0.75), y + looks[1] * height * 0.4
    brush.fill(_ellipse(x, y, iris * 0.95, iris), EYE_COLOURS[face.eye_colour][0])
    brush.fill(_ellipse(x, y, iris * 0.5, iris * 0.55), (18, 16, 20))
    brush.fill(_ellipse(x + 0.05, y - 0.05, 0.038, 0.038), (255, 255, 255))


def _brow(face, brush, x, y, sign):
    colour = brush.hair * 0.8 if face.hair_style != "bald" or face.beard != "none" else brush.skin * 0.5
    lift = {"frown": 0.07, "open": -0.05}.get(face.mouth, 0.0)
    points = [[x - sign * 0.2, y - 0.3 + lift], [x, y - 0.35], [x + sign * 0.22, y - 0.29 - lift]]
    brush.stroke(points, colour, 0.13 if face.bushy else 0.075)


def _lens(face, brush, x, y, scale, sign):
    """Paints one lens and its temple."""
    lens = _ellipse(x, y, 0.31 * scale, 0.27)
    if face.glasses == "square":
        lens = [(x + dx * 0.31 * scale, y + dy * 0.22) for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    if face.glasses == "sun":
        brush.fill(lens, (30, 32, 46))
        brush.stroke([[x - 0.14, y - 0.1], [x + 0.04, y - 0.16]], (120, 126, 150), 0.06)
    brush.stroke([*lens, lens[0], lens[1]], _DARK, 0.06)
    brush.stroke([[x + sign * 0.3 * scale, y - 0.05], [sign * face.width + brush.back, y]], _DARK, 0.05)


def _hair_on_top(face, brush):
    style, width, back, hair = face.hair_style, face.width, brush.back, brush.hair
    if style == "bald":
        return
    low = -0.48 if face.bangs else -0.68
    cap = _arc(back * 0.5, -0.36, 1.1 * width, 0.95, 172, 368)
    if face.bangs:
        fringe = [[0.98, -0.2], [0.62, low], [0.2, low + 0.06], [-0.3, low], [-0.72, low + 0.06], [-0.98, -0.2]]
    else:
        part = 0.45 if face.tone > 0 else -0.45
        fringe = [[0.98, -0.2], [0.8, -0.5], [part, -0.86], [-0.8, -0.5], [-0.98, -0.2]]
    fringe = np.array(fringe) * (width, 1) + (brush.features[0] * 0.5, 0)
    brush.fill(np.concatenate([cap, fringe]), hair)
    if style == "spiky":
        for spike in np.linspace(-0.95, 0.95, 7):
            tip = [spike * 1.25 + back, -1.62 + 0.45 * spike * spike]
            brush.fill([[spike - 0.26 + back, -0.82], tip, [spike + 0.26 + back, -0.82]], hair)
    elif style == "curly":
        for spot in np.linspace(-0.85, 0.85, 6):
            brush.fill(_ellipse(spot * width + back, -1.02 + 0.36 * spot * spot, 0.3, 0.28), hair, 1.08)
    else:
        shine = 1.22 if hair.max() > 80 else 1.8
        brush.stroke(_arc(back, -0.36, 0.78 * width, 0.68, 225, 290), hair, 0.09, shine)


def _hat(face, brush):
    width, back = face.width, brush.back
    cloth = _hsv(face.hat_hue, 0.6, 0.74)
    if face.hat != "none":
        brush.fill(_arc(back * 0.5, -0.56, 1.14 * width, 0.98, 180, 360), cloth)
    if face.hat == "beanie":
        band = [[-1.16, -0.74], [1.16, -0.74], [1.16, -0.44], [-1.16, -0.44]]
        brush.fill(np.array(band) * (width, 1) + (back * 0.5, 0), cloth, 0.72)
        brush.fill(_ellipse(back * 0.5, -1.58, 0.2, 0.2), cloth, 1.2)
    elif face.hat == "cap":
        brush.fill(_ellipse(brush.features[0] * 2.2, -0.58, 1.02 * width, 0.19), cloth, 0.7)


def _lit(face, canvas):
    """Returns the image in the face's light, which falls from one side and from above. uint8 [64, 64, 3]."""
    image = np.asarray(canvas, np.float32)
    across = np.linspace(-1, 1, SIZE, dtype=np.float32)
    shade = np.float32(1) + np.float32(0.24 * face.light) * across[None, :] - np.float32(0.07) * across[:, None]
    return np.minimum(image * shade[..., None], 255).astype(np.uint8)


# Shapes and colours.


def _ellipse(x, y, rx, ry):
    return _CIRCLE * (rx, ry) + (x, y)


def _arc(x, y, rx, ry, start, stop):
    """Returns points of an ellipse from angle `start` to `stop` in degrees, clockwise from the right."""
    angles = (start + (stop - start) * _STEPS) * (np.pi / 180)
    points = np.empty((len(angles), 2))
    points[:, 0], points[:, 1] = x + rx * np.cos(angles), y + ry * np.sin(angles)
    return points


def _hsv(hue, saturation, value):
    """Returns the sRGB colour, 0 to 255, of a hue, saturation and value in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return 255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _rgb(colour, factor=1.0):
    """Returns a colour times `factor` as a tuple of ints, as Pillow needs it."""
    red, green, blue = colour
    return (
        int(min(255, max(0, red * factor))),
        int(min(255, max(0, green * factor))),
        int(min(255, max(0, blue * factor))),
    )
