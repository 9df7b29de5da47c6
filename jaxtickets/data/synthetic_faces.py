"""Rendered cartoon faces with known attributes: a stand-in for CelebA that is made on this machine.

`draw_face(index)` draws what a face is like, `attributes` names it, `render` paints it. A face depends on (SEED, index)
alone. All that is drawn comes from one stream of uniform doubles: raise VERSION when the order of draws changes.
"""

import dataclasses
import io
import itertools

import numpy as np
import tensorflow_datasets as tfds

SEED = 0
SIZE = 64
TRAIN, TEST = 20_000, 2_000
# Shapes are painted without anti-aliasing on a canvas this many times larger, and averaged down.
OVERSAMPLING = 4
CANVAS = SIZE * OVERSAMPLING

# sRGB. Weights are the relative frequencies.
SKINS = {
    "pale": ((255, 226, 205), 3),
    "fair": ((247, 205, 172), 4),
    "tan": ((222, 170, 125), 4),
    "brown": ((176, 120, 80), 3),
    "dark": ((118, 76, 52), 3),
}
HAIR_COLOURS = {
    "black": ((38, 34, 40), 5),
    "brown": ((104, 64, 38), 5),
    "blond": ((232, 194, 104), 4),
    "red": ((190, 82, 36), 2),
    "gray": ((172, 172, 180), 2),
}
HAIR_STYLES = {"bald": 2, "short": 5, "spiky": 2, "curly": 3, "bob": 3, "long": 4, "wavy": 3, "bun": 2}
EYE_COLOURS = {"brown": ((92, 56, 30), 5), "blue": ((62, 124, 200), 3), "green": ((76, 146, 84), 2)}
EYE_SHAPES = {"round": 4, "almond": 4, "narrow": 2}
GAZES = {"ahead": 6, "left": 2, "right": 2, "up": 1, "down": 1}
MOUTHS = {"smile": 4, "grin": 4, "neutral": 3, "frown": 2, "open": 2}
GLASSES = {"none": 14, "round": 3, "square": 3, "sun": 2}
BEARDS = {"none": 14, "mustache": 2, "goatee": 2, "full": 3}
HATS = {"none": 17, "cap": 2, "beanie": 2}
LONG_STYLES = ("bob", "long", "wavy")

ATTRIBUTES = (
    # Names and meanings of CelebA.
    "Bald",
    "Bangs",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Pale_Skin",
    "Rosy_Cheeks",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    # Its own. Left and right are the viewer's.
    "Blue_Eyes",
    "Brown_Eyes",
    "Curly_Hair",
    "Dark_Background",
    "Dark_Skin",
    "Frowning",
    "Full_Beard",
    "Green_Eyes",
    "Head_Tilted_Left",
    "Head_Tilted_Right",
    "Head_Turned_Left",
    "Head_Turned_Right",
    "Lit_From_Left",
    "Lit_From_Right",
    "Long_Hair",
    "Looking_Down",
    "Looking_Left",
    "Looking_Right",
    "Looking_Up",
    "Red_Hair",
    "Sunglasses",
)


@dataclasses.dataclass(frozen=True)
class Face:
    """What is painted. Lengths are in half widths of an average head, x to the right and y down."""

    skin: str
    hair_colour: str
    hair_style: str
    bangs: bool
    eye_colour: str
    eye_shape: str
    gaze: str
    mouth: str
    glasses: str
    beard: str
    hat: str
    bushy: bool
    rosy: bool
    lipstick: bool
    earrings: bool
    dark_background: bool
    background: tuple[float, float, float]  # hue, saturation and the direction of the gradient, each in [0, 1)
    clothes: float  # hue
    hat_hue: float
    width: float
    chin: float
    scale: float
    offset: tuple[float, float]
    tilt: float  # radians, positive leans to the viewer's right
    yaw: float  # -1 (turned to the viewer's left) .. 1
    pitch: float
    light: float  # -1 (from the left) .. 1
    tone: float  # small change of all skin and hair colours


def draw_face(index: int, seed: int = SEED) -> Face:
    """Draws the face number `index`."""
    rng = np.random.default_rng([seed, index])

    def pick(weights):
        numbers = [w[-1] if isinstance(w, tuple) else w for w in weights.values()]
        bounds = itertools.accumulate(numbers)
        drawn = rng.random() * sum(numbers)
        return next(name for name, bound in zip(weights, bounds, strict=True) if drawn < bound)

    def between(low, high):
        return low + (high - low) * rng.random()

    def chance(probability):
        return bool(rng.random() < probability)

    style = pick(HAIR_STYLES)
    long = style in (*LONG_STYLES, "bun")
    return Face(
        hair_style=style,
        skin=pick(SKINS),
        hair_colour=pick(HAIR_COLOURS),
        bangs=chance(0.45) and style not in ("bald", "spiky"),
        eye_colour=pick(EYE_COLOURS),
        eye_shape=pick(EYE_SHAPES),
        gaze=pick(GAZES),
        mouth=pick(MOUTHS),
        glasses=pick(GLASSES),
        beard="none" if long else pick(BEARDS),
        hat=pick(HATS),
        bushy=chance(0.25),
        rosy=chance(0.25),
        lipstick=chance(0.5) and long,
        earrings=chance(0.4 if long else 0.08),
        dark_background=chance(0.35),
        background=(rng.random(), rng.random(), rng.random()),
        clothes=rng.random(),
        hat_hue=rng.random(),
        width=between(0.9, 1.08),
        chin=between(0.72, 1.0),
        scale=between(0.94, 1.1),
        offset=(between(-0.16, 0.16), between(-0.1, 0.1)),
        tilt=between(-0.24, 0.24),
        yaw=between(-1, 1),
        pitch=between(-1, 1),
        light=between(-1, 1),
        tone=between(-1, 1),
    )


def attributes(face: Face) -> dict[str, bool]:
    """The face's attributes by the names in ATTRIBUTES. A bald head has no hair colour; sunglasses hide the eyes."""
    hair = face.hair_style != "bald"
    eyes = face.glasses != "sun"
    truths = {
        "Bald": not hair,
        "Bangs": face.bangs and face.hat == "none",
        "Bushy_Eyebrows": face.bushy,
        "Eyeglasses": face.glasses != "none",
        "Goatee": face.beard == "goatee",
        "Mouth_Slightly_Open": face.mouth in ("grin", "open"),
        "Mustache": face.beard in ("mustache", "full"),
        "Narrow_Eyes": eyes and face.eye_shape == "narrow",
        "No_Beard": face.beard in ("none", "mustache"),
        "Pale_Skin": face.skin == "pale",
        "Rosy_Cheeks": face.rosy,
        "Smiling": face.mouth in ("smile", "grin"),
        "Straight_Hair": face.hair_style in ("short", "bob", "long", "bun"),
        "Wavy_Hair": face.hair_style == "wavy",
        "Wearing_Earrings": face.earrings,
        "Wearing_Hat": face.hat != "none",
        "Wearing_Lipstick": face.lipstick,
        "Curly_Hair": face.hair_style == "curly",
        "Dark_Background": face.dark_background,
        "Dark_Skin": face.skin == "dark",
        "Frowning": face.mouth == "frown",
        "Full_Beard": face.beard == "full",
        "Head_Tilted_Left": face.tilt < -0.08,
        "Head_Tilted_Right": face.tilt > 0.08,
        "Head_Turned_Left": face.yaw < -0.35,
        "Head_Turned_Right": face.yaw > 0.35,
        "Lit_From_Left": face.light < -0.35,
        "Lit_From_Right": face.light > 0.35,
        "Long_Hair": face.hair_style in LONG_STYLES,
        "Sunglasses": not eyes,
    }
    truths |= {f"{colour.title()}_Hair": hair and face.hair_colour == colour for colour in HAIR_COLOURS}
    truths |= {f"{colour.title()}_Eyes": eyes and face.eye_colour == colour for colour in EYE_COLOURS}
    truths |= {f"Looking_{gaze.title()}": eyes and face.gaze == gaze for gaze in GAZES if gaze != "ahead"}
    return {name: bool(truths[name]) for name in ATTRIBUTES}


_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_STEPS = np.linspace(0, 1, 20)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def _ellipse(x, y, rx, ry):
    return _CIRCLE * (rx, ry) + (x, y)


def _arc(x, y, rx, ry, start, stop):
    """Points of an ellipse from angle `start` to `stop` in degrees, clockwise from the right."""
    angles = (start + (stop - start) * _STEPS) * (np.pi / 180)
    points = np.empty((len(angles), 2))
    points[:, 0], points[:, 1] = x + rx * np.cos(angles), y + ry * np.sin(angles)
    return points


def _hsv(hue, saturation, value):
    """sRGB 0..255 of a colour whose parts are in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return 255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _rgb(colour, factor=1.0):
    """A colour times `factor` as the tuple of ints that Pillow takes."""
    red, green, blue = colour
    return (
        int(min(255, max(0, red * factor))),
        int(min(255, max(0, green * factor))),
        int(min(255, max(0, blue * factor))),
    )


def render(face: Face) -> np.ndarray:
    """Paints a face. Returns uint8 [64, 64, 3]."""
    from PIL import Image, ImageDraw

    hue, saturation, direction = face.background
    near = _hsv(hue, 0.12 + 0.3 * saturation, 0.34 if face.dark_background else 0.96)
    far = _hsv(hue + 0.06, 0.2 + 0.36 * saturation, 0.16 if face.dark_background else 0.74)
    slopes = direction * np.array([[0, 1], [0, 1]]) + (1 - direction) * np.array([[0, 0], [1, 1]])
    corners = near + slopes[..., None] * (far - near)
    background = Image.fromarray(corners.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    canvas = background.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)

    unit = 0.285 * CANVAS * face.scale
    middle = np.array([0.5 + 0.3 * face.offset[0], 0.53 + 0.3 * face.offset[1]]) * CANVAS
    cosine, sine = np.cos(face.tilt), np.sin(face.tilt)
    turn = unit * np.array([[cosine, sine], [-sine, cosine]])

    def place(points):
        return (np.asarray(points) @ turn + middle).ravel().tolist()

    def fill(points, colour, factor=1.0):
        draw.polygon(place(points), fill=_rgb(colour, factor))

    def stroke(points, colour, width, factor=1.0):
        pixels = max(1, round(width * unit))
        # Round joints are slow, and a line of many points bends too little to need them.
        joint = "curve" if len(points) < 10 else None
        draw.line(place(points), fill=_rgb(colour, factor), width=pixels, joint=joint)

    skin = np.array(SKINS[face.skin][0]) * (1 + 0.05 * face.tone)
    hair = np.array(HAIR_COLOURS[face.hair_colour][0]) * (1 + 0.14 * face.tone)
    style, width = face.hair_style, face.width
    # The features slide over the head as it turns; hair and ears slide a little the other way.
    fx, fy = 0.17 * face.yaw, 0.07 * face.pitch
    bx = -0.06 * face.yaw

    # Behind the head.
    if style in ("long", "wavy", "bob"):
        bottom = 0.75 if style == "bob" else 1.75
        side = _arc(bx, -0.25, 1.2 * width, 1.1, 180, 360)
        if style == "wavy":
            y = np.linspace(-0.25, bottom, 24)
            wave = 1.22 * width + 0.12 * np.sin(y * 8)
            right, left = np.stack([bx + wave, y], 1), np.stack([bx - wave, y], 1)
        else:
            flare = 1.28 if style == "bob" else 1.2
            right, left = np.array([[bx + flare * width, bottom]]), np.array([[bx - flare * width, bottom]])
        fill(np.concatenate([side, right, left[::-1]]), hair, 0.8)
    elif style == "curly":
        for angle in np.linspace(160, 380, 11):
            x, y = _arc(bx, -0.3, 1.02 * width, 0.95, angle, angle)[0]
            fill(_ellipse(x, y, 0.34, 0.34), hair, 0.86)
    elif style == "bun" and face.hat == "none":
        fill(_ellipse(bx, -1.4, 0.42, 0.4), hair, 0.86)

    # Neck and shoulders stay upright, below the head.
    cloth = _hsv(face.clothes, 0.62, 0.8)
    x, y = middle
    draw.polygon((_ellipse(0, 2.35, 1.75, 1.15) * unit + (x, y)).ravel().tolist(), fill=_rgb(cloth))
    neck = np.array([[-0.36, 0.6], [0.36, 0.6], [0.42, 1.32], [0, 1.55], [-0.42, 1.32]]) * unit + (x, y)
    draw.polygon(neck.ravel().tolist(), fill=_rgb(skin, 0.8))

    for sign in (-1, 1):
        fill(_ellipse(sign * width + bx, 0.06, 0.17, 0.26), skin, 0.9)
        if face.earrings:
            fill(_ellipse(sign * 1.05 * width + bx, 0.4, 0.1, 0.12), (255, 214, 92))

    # Head: an ellipse whose lower half narrows to the chin.
    cosines, sines = np.cos(_ANGLES), np.sin(_ANGLES)
    narrow = 1 - (1 - face.chin) * 0.55 * np.clip(sines, 0, 1)
    head = np.stack([width * narrow * np.sign(cosines) * np.abs(cosines) ** 0.9, 1.16 * sines], 1)
    fill(head, skin)

    if face.beard == "full":
        jaw = head[(sines > 0.1)]
        fill(np.concatenate([jaw * 1.02, [[-0.5 + fx, 0.36], [fx, 0.42 + fy], [0.5 + fx, 0.36]]]), hair, 0.95)
    if face.beard == "goatee":
        fill(_ellipse(0.6 * fx, 1.0, 0.27, 0.24), hair, 0.95)
    if face.rosy:
        blush = skin * 0.6 + np.array([236, 88, 96]) * 0.4
        for sign in (-1, 1):
            fill(_ellipse(sign * 0.54 + fx, 0.36 + fy, 0.2, 0.13), blush)

    # Nose.
    nose = np.array([[fx, -0.02 + fy], [fx * 1.5 + 0.13, 0.3 + fy], [fx * 1.5, 0.36 + fy], [fx * 1.5 - 0.13, 0.3 + fy]])
    fill(nose, skin, 0.84)

    # Mouth.
    lips = np.array([206, 52, 78]) if face.lipstick else skin * 0.42 + np.array([62, 4, 10])
    line = 0.12 if face.lipstick else 0.095
    mx, my = fx, 0.62 + fy
    if face.mouth == "smile":
        stroke(_arc(mx, my - 0.12, 0.4, 0.24, 15, 165), lips, line)
    elif face.mouth == "grin":
        fill(_arc(mx, my - 0.12, 0.46, 0.38, 0, 180), lips)
        fill(_arc(mx, my - 0.09, 0.37, 0.25, 0, 180), (252, 250, 246))
    elif face.mouth == "neutral":
        stroke([[mx - 0.27, my], [mx + 0.27, my]], lips, line)
    elif face.mouth == "frown":
        stroke(_arc(mx, my + 0.2, 0.34, 0.24, 200, 340), lips, line)
    else:
        fill(_ellipse(mx, my + 0.02, 0.2, 0.22), lips)
        fill(_ellipse(mx, my + 0.03, 0.12, 0.14), (70, 16, 26))
    if face.beard in ("mustache", "full"):
        for sign in (-1, 1):
            fill(
                [[fx, 0.36 + fy], [fx + sign * 0.26, 0.39 + fy], [fx + sign * 0.44, 0.55 + fy], [fx, 0.5 + fy]],
                hair,
                0.9,
            )

    # Eyes: the far one is a little narrower when the head is turned.
    looks = {"ahead": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[face.gaze]
    height = {"round": 0.21, "almond": 0.155, "narrow": 0.09}[face.eye_shape]
    brow = hair * 0.8 if style != "bald" or face.beard != "none" else skin * 0.5
    for sign in (-1, 1):
        far_side = 1 - 0.16 * max(0, sign * face.yaw)
        ex, ey, rx = fx + sign * 0.41 * far_side, -0.1 + fy, 0.225 * far_side
        if face.glasses != "sun":
            fill(_ellipse(ex, ey - 0.02, rx + 0.035, height + 0.05), skin, 0.62)
            fill(_ellipse(ex, ey, rx, height), (252, 252, 252))
            iris = min(0.14, height)
            ix, iy = ex + looks[0] * (rx - iris * 0.75), ey + looks[1] * height * 0.4
            fill(_ellipse(ix, iy, iris * 0.95, iris), EYE_COLOURS[face.eye_colour][0])
            fill(_ellipse(ix, iy, iris * 0.5, iris * 0.55), (18, 16, 20))
            fill(_ellipse(ix + 0.05, iy - 0.05, 0.038, 0.038), (255, 255, 255))
        lift = {"frown": 0.07, "open": -0.05}.get(face.mouth, 0.0)
        stroke(
            [[ex - sign * 0.2, ey - 0.3 + lift], [ex, ey - 0.35], [ex + sign * 0.22, ey - 0.29 - lift]],
            brow,
            0.13 if face.bushy else 0.075,
        )
        if face.glasses != "none":
            lens = _ellipse(ex, ey, 0.31 * far_side, 0.27)
            if face.glasses == "square":
                lens = [(ex + dx * 0.31 * far_side, ey + dy * 0.22) for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            frame = np.array([34, 32, 40])
            if face.glasses == "sun":
                fill(lens, (30, 32, 46))
                stroke([[ex - 0.14, ey - 0.1], [ex + 0.04, ey - 0.16]], (120, 126, 150), 0.06)
            stroke([*lens, lens[0], lens[1]], frame, 0.06)
            stroke([[ex + sign * 0.3 * far_side, ey - 0.05], [sign * width + bx, ey]], frame, 0.05)
    if face.glasses != "none":
        stroke([[fx - 0.12, -0.12 + fy], [fx + 0.12, -0.12 + fy]], (34, 32, 40), 0.06)

    # Hair on top.
    if style != "bald":
        low = -0.48 if face.bangs else -0.68
        cap = _arc(bx * 0.5, -0.36, 1.1 * width, 0.95, 172, 368)
        if face.bangs:
            fringe = np.array(
                [[0.98, -0.2], [0.62, low], [0.2, low + 0.06], [-0.3, low], [-0.72, low + 0.06], [-0.98, -0.2]]
            )
        else:
            part = 0.45 if face.tone > 0 else -0.45
            fringe = np.array([[0.98, -0.2], [0.8, -0.5], [part, -0.86], [-0.8, -0.5], [-0.98, -0.2]])
        fringe = fringe * (width, 1) + (fx * 0.5, 0)
        fill(np.concatenate([cap, fringe]), hair)
        if style == "spiky":
            for spike in np.linspace(-0.95, 0.95, 7):
                tip = [spike * 1.25 + bx, -1.62 + 0.45 * spike * spike]
                fill([[spike - 0.26 + bx, -0.82], tip, [spike + 0.26 + bx, -0.82]], hair)
        elif style == "curly":
            for spot in np.linspace(-0.85, 0.85, 6):
                fill(_ellipse(spot * width + bx, -1.02 + 0.36 * spot * spot, 0.3, 0.28), hair, 1.08)
        else:
            stroke(_arc(bx, -0.36, 0.78 * width, 0.68, 225, 290), hair, 0.09, 1.22 if hair.max() > 80 else 1.8)
    if face.hat != "none":
        cloth = _hsv(face.hat_hue, 0.6, 0.74)
        fill(np.concatenate([_arc(bx * 0.5, -0.56, 1.14 * width, 0.98, 180, 360)]), cloth)
        if face.hat == "beanie":
            band = [[-1.16, -0.74], [1.16, -0.74], [1.16, -0.44], [-1.16, -0.44]]
            fill(np.array(band) * (width, 1) + (bx * 0.5, 0), cloth, 0.72)
            fill(_ellipse(bx * 0.5, -1.58, 0.2, 0.2), cloth, 1.2)
        else:
            fill(_ellipse(fx * 2.2, -0.58, 1.02 * width, 0.19), cloth, 0.7)

    image = np.asarray(canvas.reduce(OVERSAMPLING), np.float32)
    across = np.linspace(-1, 1, SIZE, dtype=np.float32)
    shade = np.float32(1) + np.float32(0.24 * face.light) * across[None, :] - np.float32(0.07) * across[:, None]
    return np.minimum(image * shade[..., None], 255).astype(np.uint8)


class SyntheticFaces(tfds.core.GeneratorBasedBuilder):
    """22,000 rendered 64x64 RGB faces: indices 0..19,999 are the train split, the next 2,000 the test split."""

    VERSION = tfds.core.Version("1.0.0")
    COUNTS = {"train": TRAIN, "test": TEST}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Anti-aliased cartoon faces rendered from known attributes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "attributes": {name: np.bool_ for name in ATTRIBUTES},
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        train, test = self.COUNTS["train"], self.COUNTS["test"]
        return {
            "train": self._generate_examples(range(train)),
            "test": self._generate_examples(range(train, train + test)),
        }

    def _generate_examples(self, indices):
        from PIL import Image

        for index in indices:
            face = draw_face(index)
            # TFDS encodes arrays with TensorFlow; a stream that is a PNG already is stored as it is.
            stream = io.BytesIO()
            Image.fromarray(render(face)).save(stream, "png", compress_level=1)
            stream.seek(0)
            yield index, {"image": stream, "attributes": attributes(face)}
