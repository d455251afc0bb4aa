"""What people wear, painted at the pixel: clothes follow the rest pose, so they fit any body of the SMPL family.

A ray that meets the mesh knows its place on the T-posed body. Sleeves end at a fraction of the arm, trousers at a
fraction of the leg, hair behind a line on the head; left, right, front and back can be told apart from colours.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from mesh_lib.body.joints import SMPL24

Style = Literal["tight", "varied", "unseen"]
"""Studio suits; everyday clothes; everyday clothes in colours and patterns that training never saw."""

_HEAD, _HAND, _FOOT, _ARM, _LEG, _TRUNK = range(6)
_PART_OF = {
    "head": _HEAD, "neck": _HEAD, "left_wrist": _HAND, "left_hand": _HAND, "left_ankle": _FOOT, "left_foot": _FOOT,
    "left_shoulder": _ARM, "left_elbow": _ARM, "left_hip": _LEG, "left_knee": _LEG,
}  # fmt: skip


@dataclass(frozen=True)
class BodySurface:
    """What painting needs of a body: its T-posed shape, and which part each vertex belongs to."""

    template_m: Float[np.ndarray, "vertices 3"]
    joints_m: Float[np.ndarray, "joints 3"]
    faces: Int[np.ndarray, "faces 3"]
    dominant_joint: Int[np.ndarray, " vertices"]

    @cached_property
    def part(self) -> np.ndarray:
        """Per vertex: head, hand, foot, arm, leg or trunk."""
        parts = np.full(len(self.joints_m), _HAND)  # joints beyond SMPL's are fingers, or the face's
        for i, name in enumerate(SMPL24.names[: len(parts)]):
            parts[i] = _PART_OF.get(name.replace("right_", "left_"), _TRUNK)
        return parts[self.dominant_joint]

    @cached_property
    def _face_to_vertex(self) -> sparse.csr_matrix:
        rows, columns = self.faces.ravel(), np.repeat(np.arange(len(self.faces)), 3)
        ones = np.ones(len(rows), np.float32)
        return sparse.csr_matrix((ones, (rows, columns)), shape=(len(self.template_m), len(self.faces)))

    def joint(self, name: str) -> np.ndarray:
        return self.joints_m[SMPL24.index(name)]

    def face_normals(self, vertices_m: Float[np.ndarray, "vertices 3"]) -> Float[np.ndarray, "faces 3"]:
        """Outward, as long as twice each face's area."""
        a, b, c = vertices_m[self.faces].swapaxes(0, 1)
        u, v = b - a, c - a
        return np.stack([u[:, i] * v[:, j] - u[:, j] * v[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], 1)

    def vertex_normals(self, face_normals: Float[np.ndarray, "faces 3"]) -> Float[np.ndarray, "vertices 3"]:
        """Outward unit normals, weighted by the area of the faces around each vertex."""
        normals = self._face_to_vertex @ face_normals
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Outfit:
    """Colours in [0, 1] and lengths as fractions of the limb."""

    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    shirt_2: np.ndarray
    trousers: np.ndarray
    trousers_2: np.ndarray
    shoes: np.ndarray
    sleeve: float
    """1 reaches the wrist, 0.45 the elbow."""
    leg: float
    """1 reaches the ankle, 0.5 the knee."""
    shirt_pattern: str
    trousers_pattern: str
    scale: float
    """Repeats of the pattern a metre."""
    long_hair: bool
    waist: float
    """Where the shirt ends above (or below) the hips, metres."""


SKIN_TONES = np.array([
    (0.96, 0.83, 0.74), (0.90, 0.73, 0.60), (0.80, 0.60, 0.45), (0.63, 0.44, 0.31), (0.44, 0.29, 0.20),
    (0.29, 0.19, 0.14),
])  # fmt: skip
HAIR = np.array([(0.07, 0.05, 0.04), (0.22, 0.14, 0.08), (0.45, 0.28, 0.13), (0.78, 0.62, 0.36), (0.55, 0.53, 0.5)])
PATTERNS = ("plain", "plain", "plain", "stripes", "checks", "columns", "split", "spots")


def _colour(rng: np.random.Generator, style: Style) -> np.ndarray:
    """A cloth's colour: muted or strong, dark or light; unseen clothes take hues that the others leave out."""
    hue = rng.uniform(0.0, 0.42) if style == "varied" else rng.uniform(0.42, 0.58)
    if style == "varied" and rng.random() < 0.5:
        hue = rng.uniform(0.58, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, rng.beta(1.2, 2.2), rng.uniform(0.12, 0.97)))


def draw_outfit(rng: np.random.Generator, style: Style) -> Outfit:
    skin = SKIN_TONES[rng.integers(len(SKIN_TONES))] * rng.uniform(0.9, 1.05)
    hair = HAIR[rng.integers(len(HAIR))] * rng.uniform(0.8, 1.2)
    if style == "tight":  # a few plain capture suits
        suits = ((0.13, 0.13, 0.15), (0.18, 0.22, 0.36), (0.35, 0.10, 0.12))
        shirt, trousers = np.array(suits[rng.integers(3)]), np.array(suits[rng.integers(2)])
        shoes = np.array((0.85, 0.85, 0.85))
        return Outfit(
            skin, hair, shirt, shirt, trousers, trousers, shoes,
            sleeve=float(rng.choice((0.4, 1.0))), leg=float(rng.choice((0.45, 1.0))), shirt_pattern="plain",
            trousers_pattern="plain", scale=10.0, long_hair=False, waist=0.06,
        )  # fmt: skip
    patterns = PATTERNS if style == "varied" else ("plain", "stripes", "diagonal", "diagonal")
    cloth = [_colour(rng, style) for _ in range(5)]
    return Outfit(
        skin, hair, *cloth,
        sleeve=float(rng.choice((0.12, 0.35, 0.45, 0.7, 0.97, 0.97))) + rng.normal(0, 0.03),
        leg=float(rng.choice((0.25, 0.45, 0.55, 0.8, 0.98, 0.98, 0.98))) + rng.normal(0, 0.03),
        shirt_pattern=str(rng.choice(patterns)),
        trousers_pattern=str(rng.choice(("plain", "plain", "plain", *patterns))),
        scale=rng.uniform(7, 24), long_hair=bool(rng.random() < 0.4), waist=rng.uniform(-0.08, 0.14),
    )  # fmt: skip


def paint(
    surface: BodySurface, outfit: Outfit, faces: Int[np.ndarray, " pixels"], barycentric: Float[np.ndarray, "pixels 3"]
) -> Float[np.ndarray, "pixels 3"]:
    """Colour of each hit, before light."""
    corners = surface.faces[faces]
    place = np.einsum("pk,pkc->pc", barycentric, surface.template_m[corners])
    nearest = np.take_along_axis(corners, barycentric.argmax(1)[:, None], 1)[:, 0]
    part = surface.part[nearest]
    colour = np.empty((len(faces), 3))
    colour[:] = outfit.skin
    shirt = _pattern(outfit.shirt_pattern, place, outfit.shirt, outfit.shirt_2, outfit.scale)
    trousers = _pattern(outfit.trousers_pattern, place, outfit.trousers, outfit.trousers_2, outfit.scale)
    arm = _along(np.abs(place[:, 0]), surface.joint("left_shoulder")[0], surface.joint("left_wrist")[0])
    leg = _along(-place[:, 1], -surface.joint("left_hip")[1], -surface.joint("left_ankle")[1])
    above_waist = place[:, 1] > surface.joint("pelvis")[1] + outfit.waist
    neckline = place[:, 1] < surface.joint("neck")[1] + 0.02
    wears_shirt = ((part == _TRUNK) & above_waist & neckline) | ((part == _ARM) & (arm < outfit.sleeve))
    wears_trousers = ((part == _TRUNK) & ~above_waist) | ((part == _LEG) & ((leg < outfit.leg) & (leg <= 1)))
    skirt = (part == _LEG) & (place[:, 1] > surface.joint("pelvis")[1] + outfit.waist)
    colour[wears_trousers] = trousers[wears_trousers]
    colour[wears_shirt | skirt] = shirt[wears_shirt | skirt]
    colour[part == _FOOT] = outfit.shoes
    _paint_head(surface, outfit, place, part == _HEAD, colour)
    return np.clip(colour, 0, 1)


def _along(value: np.ndarray, start: np.floating, end: np.floating) -> np.ndarray:
    return (value - start) / (end - start)


def _paint_head(surface: BodySurface, outfit: Outfit, place: np.ndarray, head: np.ndarray, colour: np.ndarray) -> None:
    """Hair on top and behind; brows, eyes and a mouth in front, so that a face looks like one from afar."""
    skull = surface.template_m[surface.part == _HEAD]
    low, high = surface.joint("head")[1], skull[:, 1].max()
    upper = skull[skull[:, 1] > low]
    back, front = upper[:, 2].min(), upper[:, 2].max()
    up, forward = _along(place[:, 1], low, high), _along(place[:, 2], back, front)
    x = np.abs(place[:, 0])
    hairline = np.where(up > 0.78, 0.86, 0.52)
    hair = head & (up > (-0.25 if outfit.long_hair else 0.28)) & (forward < hairline) | (head & (up > 0.93))
    colour[hair] = outfit.hair
    face = head & ~hair & (forward > 0.6)
    colour[face & (np.abs(up - 0.57) < 0.045) & (np.abs(x - 0.032) < 0.017)] = (0.93, 0.93, 0.93)
    colour[face & (np.abs(up - 0.57) < 0.045) & (np.abs(x - 0.032) < 0.008)] = (0.08, 0.06, 0.05)
    colour[face & (np.abs(up - 0.67) < 0.025) & (np.abs(x - 0.034) < 0.02)] = outfit.hair * 0.8
    colour[face & (np.abs(up - 0.21) < 0.03) & (x < 0.026)] = outfit.skin * (0.85, 0.45, 0.45)


def _pattern(name: str, place: np.ndarray, first: np.ndarray, second: np.ndarray, scale: float) -> np.ndarray:
    x, y, z = place.T
    match name:
        case "stripes":
            pick = np.sin(2 * np.pi * scale * y) > 0
        case "columns":
            pick = np.sin(2 * np.pi * scale * x) > 0.2
        case "checks":
            pick = np.sin(2 * np.pi * scale * x) * np.sin(2 * np.pi * scale * y) > 0
        case "spots":
            pick = np.cos(2 * np.pi * scale * x) + np.cos(2 * np.pi * scale * y) > 0.9
        case "split":
            pick = x > 0
        case "diagonal":
            pick = np.sin(2 * np.pi * scale * (x + y + 0.5 * z)) > 0.1
        case _:
            return np.broadcast_to(first, place.shape)
    return np.where(pick[:, None], second, first)


@dataclass(frozen=True)
class Light:
    """One lamp or sun, and light from all around."""

    towards: Float[np.ndarray, " 3"]
    """Unit vector to the lamp, camera frame."""
    up: Float[np.ndarray, " 3"]
    colour: np.ndarray
    ambient: np.ndarray
    shine: float = 0.0


def light_up(
    colour: Float[np.ndarray, "pixels 3"], normals: Float[np.ndarray, "pixels 3"], light: Light
) -> Float[np.ndarray, "pixels 3"]:
    """Lambert's law for the lamp; sky light falls off towards the ground; a little gloss where asked for."""
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    lamp = np.maximum(normals @ light.towards, 0)[:, None]
    sky = (0.65 + 0.35 * (normals @ light.up))[:, None]
    lit = colour * (lamp * light.colour + sky * light.ambient)
    if light.shine:
        half = light.towards - np.array([0, 0, 1.0])
        half = half / max(float(np.linalg.norm(half)), 1e-9)
        lit = lit + light.shine * np.maximum(normals @ half, 0)[:, None] ** 18 * light.colour
    return lit
