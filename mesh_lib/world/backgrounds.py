"""Places to stand: rooms, streets and fields in right perspective, drawn from numbers alone.

A place is a box around the camera with a texture on every wall, or open ground under a sky. Each pixel's ray is
followed to the first wall, and the wall's own coordinates give the colour.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mesh_lib.world.view import View

Rng = np.random.Generator
Place = Literal["studio", "street", "unseen"]
NOISE_SIDE = 256
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@lru_cache(maxsize=1)
def _noise_tiles() -> np.ndarray:
    """A few seamless noise textures, the same in every process: white, fine, coarse, cloudy; mean 0, range ±1."""
    rng = np.random.default_rng(20_26)
    tiles = []
    for blur in (0.0, 1.2, 4.0, 14.0, 30.0):
        tile = rng.standard_normal((NOISE_SIDE, NOISE_SIDE)).astype(np.float32)
        if blur:
            tile = np.tile(tile, (3, 3))
            tile = cv2.GaussianBlur(tile, (0, 0), blur)[NOISE_SIDE:-NOISE_SIDE, NOISE_SIDE:-NOISE_SIDE]
        tiles.append(np.clip(tile / (2 * tile.std()), -1, 1))
    return np.stack(tiles)


def noise(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Look up a noise texture (0 white … 4 cloudy) at any coordinates, one texel a unit."""
    columns = u.astype(np.int64) & (NOISE_SIDE - 1)
    rows = v.astype(np.int64) & (NOISE_SIDE - 1)
    return _noise_tiles()[kind][rows, columns]


def colour(
    rng: Rng, saturation: tuple[float, float], value: tuple[float, float], hue: float | None = None
) -> np.ndarray:
    hue = rng.random() if hue is None else hue
    return np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(*saturation), rng.uniform(*value)), np.float32)


@dataclass(frozen=True)
class Texture:
    """A wall's or the ground's surface, as a function of metres along it."""

    kind: str
    first: np.ndarray
    second: np.ndarray
    metres: float
    grain: float
    offset: tuple[float, float]

    def __call__(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        u, v = u + np.float32(self.offset[0]), v + np.float32(self.offset[1])
        a, b = u / np.float32(self.metres), v / np.float32(self.metres)
        fa, fb = a - np.floor(a), b - np.floor(b)
        match self.kind:
            case "tiles":
                pick = (fa < 0.05) | (fb < 0.05)
            case "bricks":
                shifted = a + 0.5 * (np.floor(b * 2) % 2)
                pick = (shifted - np.floor(shifted) < 0.04) | ((b * 2) % 1 < 0.09)
            case "planks":
                pick = (fa < 0.04) | (((np.floor(a) * 7) % 5) / 5 > 0.6)
            case "checker":
                pick = (np.floor(a) + np.floor(b)) % 2 > 0
            case "windows":
                pick = (fa > 0.28) & (fa < 0.72) & (fb > 0.25) & (fb < 0.75)
            case "blotches":
                pick = noise(3, a * 40, b * 40) > 0.15
            case _:
                pick = np.zeros(u.shape, bool)
        base = np.where(pick[:, None], self.second, self.first)
        grain = self.grain * (0.6 * noise(1, u * 90, v * 90) + 0.6 * noise(3, u * 30, v * 30))
        return base * (1 + grain[:, None])


WALLS = ("plain", "plain", "bricks", "bricks", "windows", "windows", "planks", "tiles", "blotches", "checker")
GROUNDS = ("tiles", "planks", "checker", "plain", "plain", "blotches", "bricks")


def draw_texture(rng: Rng, kinds: tuple[str, ...], place: Place) -> Texture:
    hue = None if place == "street" else rng.uniform(0.72, 0.95)
    strong = (0.0, 0.65) if rng.random() < 0.6 else (0.0, 0.25)
    first = colour(rng, strong, (0.15, 0.95), hue)
    second = (
        colour(rng, strong, (0.1, 0.95), None if rng.random() < 0.4 else hue) if rng.random() < 0.6 else first * 0.55
    )
    metres = float(np.exp(rng.uniform(np.log(0.2), np.log(1.6))))
    kind = str(rng.choice(kinds))
    if kind == "windows":
        metres = rng.uniform(1.6, 3.5)
    return Texture(kind, first, second, metres, rng.uniform(0.03, 0.25), (rng.uniform(0, 50), rng.uniform(0, 50)))


def paint_box(
    view: View, low: np.ndarray, high: np.ndarray, textures: list[Texture], *, sky: Sky | None = None
) -> Float[np.ndarray, "h w 3"]:
    """Inside of a box: walls at low and high x, the ground and the ceiling (or sky), walls at low and high z."""
    rays, eye = view.rays_world, view.camera_world_m.astype(np.float32)
    safe = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
    x, y, z = (
        np.where(safe[:, a] > 0, high[a] - eye[a], low[a] - eye[a]).astype(np.float32) / safe[:, a] for a in range(3)
    )
    nearest = np.minimum(np.minimum(x, y), z)
    axis = np.where(nearest == y, 1, np.where(nearest == x, 0, 2))
    place = eye + rays * nearest[:, None]
    out = np.empty_like(rays)
    for a, (u, v) in enumerate(((2, 1), (0, 2), (0, 1))):
        for is_high in (False, True):
            rows = np.flatnonzero((axis == a) & ((safe[:, a] > 0) == is_high))
            if not len(rows):
                continue
            if sky is not None and a == 1 and is_high:
                out[rows] = sky(rays[rows])
            else:
                shade = np.float32(1.0 if a == 1 else (0.82 if a == 0 else 0.92))
                out[rows] = textures[2 * a + is_high](place[rows, u], place[rows, v]) * shade
    return out.reshape(view.size, view.size, 3)


@dataclass(frozen=True)
class Sky:
    """Gradient from horizon to zenith, with clouds."""

    top: np.ndarray
    bottom: np.ndarray
    clouds: np.float32
    offset: np.ndarray

    def __call__(self, rays: Float[np.ndarray, "pixels 3"]) -> Float[np.ndarray, "pixels 3"]:
        length = np.sqrt(np.einsum("ni,ni->n", rays, rays))
        height = np.clip(rays[:, 1] / length, 0, 1)
        sky = self.bottom + (self.top - self.bottom) * np.sqrt(height)[:, None]
        stretch = np.float32(60) / (height + np.float32(0.15))
        cover = noise(4, rays[:, 0] * stretch + self.offset[0], rays[:, 2] * stretch + self.offset[1])
        return sky + self.clouds * np.maximum(cover, 0)[:, None]


def draw_sky(rng: Rng, place: Place) -> Sky:
    hue = rng.uniform(0.54, 0.64) if place == "street" else rng.uniform(0.9, 1.1)
    top, bottom = colour(rng, (0.1, 0.75), (0.35, 0.95), hue), colour(rng, (0.0, 0.3), (0.7, 1.0), hue)
    return Sky(top, bottom, np.float32(rng.uniform(0, 0.35)), rng.uniform(0, 256, 2).astype(np.float32))


def paint_field(rng: Rng, view: View, place: Place) -> Float[np.ndarray, "h w 3"]:
    """Open ground to the horizon, with hills, a tree line or a skyline on it."""
    rays, eye = view.rays_world, view.camera_world_m
    out = draw_sky(rng, place)(rays)
    azimuth = np.arctan2(rays[:, 0], -rays[:, 2])
    slope = rays[:, 1] / np.linalg.norm(rays[:, [0, 2]], axis=1)
    for _ in range(rng.integers(0, 4)):
        skyline = rng.random() < 0.5
        scale, reach = rng.uniform(30, 120), rng.uniform(0.03, 0.28)
        bumps = noise(
            2 if skyline else 3,
            np.floor(azimuth * scale) if skyline else azimuth * scale * 3,
            azimuth * 0 + rng.integers(256),
        )
        far = (slope < reach * (0.6 + 0.5 * bumps)) & (slope > 0)
        tint = colour(rng, (0.05, 0.6), (0.15, 0.7), None if skyline or place == "unseen" else rng.uniform(0.2, 0.45))
        out[far] = tint * (1 + 0.25 * noise(1, azimuth[far] * 300, slope[far] * 300)[:, None])
    ground = rays[:, 1] < -1e-4
    distance = (eye[1] / -rays[ground, 1]).astype(np.float32)
    texture = draw_texture(rng, GROUNDS, place)
    near = texture(eye[0] + rays[ground, 0] * distance, eye[2] + rays[ground, 2] * distance)
    haze = np.clip(distance / rng.uniform(25, 80), 0, 1)[:, None]  # far tiles would only alias
    out[ground] = near * (1 - haze) + near.mean(0) * haze
    return out.reshape(view.size, view.size, 3)


def paint_place(rng: Rng, view: View, place: Place) -> Float[np.ndarray, "h w 3"]:
    """A random place of the domain, as RGB around [0, 1]."""
    kind = rng.choice(("room", "street", "field", "backdrop"), p=(0.25, 0.4, 0.28, 0.07))
    if kind == "field":
        return paint_field(rng, view, place)
    eye = view.camera_world_m
    low, high = np.minimum(eye, 0), np.maximum(eye, 0)
    if kind == "backdrop":  # blurred colours: what a long lens sees
        tiles = np.stack(
            [cv2.resize(noise(3, *_grid(rng, 24)), (view.size,) * 2, interpolation=cv2.INTER_CUBIC) for _ in range(3)],
            -1,
        )
        return colour(rng, (0.0, 0.6), (0.3, 0.8)) + tiles * rng.uniform(0.1, 0.5)
    room = kind == "room"
    margin = rng.uniform(0.8, 3.5, 4) if room else rng.uniform(2.5, 12, 4)
    low = np.array([low[0] - margin[0], 0, low[2] - margin[1]])
    high = np.array([high[0] + margin[2], max(high[1] + 0.4, rng.uniform(2.3, 4)), high[2] + margin[3]])
    if not room:
        high[1] = max(high[1], rng.uniform(4, 18))
    textures = [draw_texture(rng, GROUNDS if wall == 2 else WALLS, place) for wall in range(6)]
    if rng.random() < 0.6:  # most places have walls of one kind
        textures[1] = textures[4] = textures[5] = textures[0]
    return paint_box(view, low, high, textures, sky=None if room else draw_sky(rng, place))


def _grid(rng: Rng, side: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(*(np.arange(side) * rng.uniform(3, 12),) * 2)
    return x + rng.uniform(0, 256), y + rng.uniform(0, 256)


def paint_studio(view: View, room: int) -> Float[np.ndarray, "h w 3"]:
    """One of three plain laboratories; nothing in it changes from picture to picture."""
    wall, floor = (
        ((0.62, 0.62, 0.60), (0.45, 0.44, 0.43)),
        ((0.34, 0.45, 0.36), (0.50, 0.47, 0.42)),
        ((0.72, 0.69, 0.63), (0.33, 0.35, 0.40)),
    )[room]
    plain = [Texture("plain", np.array(wall, np.float32), np.array(wall, np.float32), 1.0, 0.03, (0.0, 0.0))] * 6
    plain[2] = Texture("tiles", np.array(floor, np.float32), np.array(floor, np.float32) * 0.8, 1.0, 0.04, (0.0, 0.0))
    return paint_box(view, np.array([-4.5, 0, -4.5]), np.array([4.5, 3.4, 4.5]), plain)


def find_photos(folder: Path) -> list[Path]:
    """Pictures below a folder, sorted. Raises ValueError where there are none."""
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"no pictures ({', '.join(IMAGE_SUFFIXES)}) in the background folder {folder}")
    return found


def paint_photo(rng: Rng, photo: UInt8[np.ndarray, "h w 3"], size: int) -> Float[np.ndarray, "size size 3"]:
    """A random square of the user's photo, mirrored half the time."""
    height, width = photo.shape[:2]
    side = int(min(height, width) * rng.uniform(0.5, 1.0))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    square = photo[top : top + side, left : left + side]
    square = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return (square[:, ::-1] if rng.random() < 0.5 else square).astype(np.float32) / 255
