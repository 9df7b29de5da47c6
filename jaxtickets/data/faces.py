"""Cartoon faces: what a face is like, drawn at random, and the attributes that follow from it.

A face depends on (SEED, index) alone: all that is drawn comes from one stream of uniform doubles. Where the order of
draws changes, raise `VERSION` of `jaxtickets.data.synthetic_faces`.
"""

import dataclasses
import itertools

import numpy as np

SEED = 0

# Each name with its relative frequency, and colours as (sRGB, relative frequency).
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
    # Further ones. Left and right are the viewer's.
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
    """One face. Lengths are in half widths of an average head, with x to the right and y down."""

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
    """Draws face number `index` at random; the same index gives the same face."""
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
    """Returns a face's attributes by name, in the order of ATTRIBUTES.

    A bald head has no hair colour, and sunglasses hide the eyes.
    """
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
