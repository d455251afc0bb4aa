"""Things that stand about: boxes, posts, trees, balls and passers-by, behind the person or in front, and shadows."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mesh_lib.body.joints import SMPL24, SMPL_PARENTS
from mesh_lib.world.poses import Poses
from mesh_lib.world.skeleton import joint_positions, rotvec_to_rotmat
from mesh_lib.world.view import View

Rng = np.random.Generator
_RADIUS_M = {
    "pelvis": 0.13, "spine1": 0.13, "spine2": 0.13, "spine3": 0.13, "neck": 0.06, "head": 0.08, "collar": 0.08,
    "hip": 0.11, "knee": 0.075, "ankle": 0.055, "foot": 0.045, "shoulder": 0.06, "elbow": 0.05, "wrist": 0.04,
    "hand": 0.04,
}  # fmt: skip
_FRACTION_BITS = 4


def bone_radius_m(joint: int) -> float:
    return _RADIUS_M[SMPL24.names[joint].removeprefix("left_").removeprefix("right_")]


def draw_capsules(
    canvas: np.ndarray, view: View, joints_cam_m: Float[np.ndarray, "24 3"], colours: list[tuple[float, ...]]
) -> None:
    """A stick figure with flesh, far bones first."""
    if (joints_cam_m[:, 2] < 0.2).any():
        return
    pixels = np.round(view.project(joints_cam_m) * (1 << _FRACTION_BITS)).astype(int)
    limit = 40 * view.size << _FRACTION_BITS
    pixels = np.clip(pixels, -limit, limit)
    order = np.argsort(-joints_cam_m[1:, 2]) + 1
    for joint in order:
        thickness = max(1, round(2 * bone_radius_m(int(joint)) * view.focal_px / joints_cam_m[joint, 2]))
        start, end = (tuple(map(int, pixels[i])) for i in (SMPL_PARENTS[joint], joint))
        cv2.line(canvas, start, end, colours[joint], min(thickness, 500), cv2.LINE_AA, _FRACTION_BITS)
    head = joints_cam_m[SMPL24.index("head")]
    centre = head + (head - joints_cam_m[SMPL24.index("neck")]) * 0.8
    spot = np.clip(np.round(view.project(centre)), -20 * view.size, 20 * view.size).astype(int)
    radius = max(1, round(0.11 * view.focal_px / max(float(centre[2]), 0.2)))
    cv2.circle(canvas, (int(spot[0]), int(spot[1])), min(radius, 500), colours[SMPL24.index("head")], -1, cv2.LINE_AA)


def draw_passer_by(rng: Rng, canvas: np.ndarray, view: View, poses: Poses, foot_world_m: np.ndarray) -> None:
    """Somebody else, roughly: colours by limb, no face."""
    pick = int(rng.integers(len(poses)))
    rotvecs = np.concatenate(
        [poses.global_orient_rotvec[pick : pick + 1, None], poses.body_pose_rotvec[pick : pick + 1]], 1
    )
    joints = joint_positions(rotvec_to_rotmat(rotvecs))[0] * rng.uniform(0.85, 1.1)
    joints = joints + foot_world_m - np.array([0, joints[:, 1].min() - 0.04, 0])
    shirt, trousers, skin = (rng.uniform(0.05, 0.95, 3) for _ in range(3))
    skin = np.array([0.8, 0.6, 0.48]) * rng.uniform(0.4, 1.15)
    colours = []
    for joint, name in enumerate(SMPL24.names):
        base = trousers if joint and name.endswith(("knee", "ankle", "hip")) else shirt
        base = skin if name.endswith(("wrist", "hand", "neck", "head")) else base
        colours.append(tuple(float(c) for c in base * rng.uniform(0.75, 1.0)))
    draw_capsules(canvas, view, view.to_camera(joints), colours)


def cast_shadow(
    view: View, joints_cam_m: Float[np.ndarray, "24 3"], towards: np.ndarray, softness_px: float
) -> Float[np.ndarray, "h w"]:
    """How much of the lamp the person takes from each pixel of the ground, in [0, 1]; flesh around the bones."""
    up = view.up_cam
    mask = np.zeros((view.size, view.size), np.float32)
    if towards @ up < 0.12:
        return mask
    height = (joints_cam_m - view.origin_cam_m) @ up
    fallen = joints_cam_m - (height / (towards @ up))[:, None] * towards
    draw_capsules(mask, view, fallen, [(1.0,)] * 24)
    return cv2.GaussianBlur(mask, (0, 0), softness_px) if softness_px > 0.3 else mask


def _box(rng: Rng, canvas: np.ndarray, view: View, foot: np.ndarray, tint: np.ndarray) -> None:
    """A crate, bench, cupboard or car body: three visible sides of a turned box."""
    half = np.array([rng.uniform(0.12, 0.9), rng.uniform(0.1, 0.8), rng.uniform(0.12, 0.5)])
    turn = rng.uniform(0, np.pi)
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (0, 2) for z in (-1, 1)]) * half
    c, s = np.cos(turn), np.sin(turn)
    corners = view.to_camera(corners @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) + foot)
    if (corners[:, 2] < 0.3).any():
        return
    pixels = np.clip(view.project(corners), -9999, 9999)
    sides = ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5))
    order = sorted(range(6), key=lambda side: -corners[list(sides[side]), 2].mean())
    for side in order[3:]:
        shade = tint * (0.6, 0.75, 0.5, 1.0, 0.85, 0.9)[side]
        cv2.fillConvexPoly(
            canvas, np.round(pixels[list(sides[side])]).astype(np.int32), tuple(map(float, shade)), cv2.LINE_AA
        )


def _post(rng: Rng, canvas: np.ndarray, view: View, foot: np.ndarray, tint: np.ndarray, *, crown: bool = True) -> None:
    """A lamp post, a trunk with a crown, or a street sign."""
    height, radius = rng.uniform(1.0, 5.0), rng.uniform(0.02, 0.16)
    ends = view.to_camera(foot + np.array([[0, 0, 0], [rng.normal(0, 0.05) * height, height, 0]]))
    if (ends[:, 2] < 0.3).any():
        return
    pixels = np.clip(np.round(view.project(ends)), -9999, 9999).astype(int)
    scale = view.focal_px / ends[0, 2]
    cv2.line(
        canvas,
        tuple(map(int, pixels[0])),
        tuple(map(int, pixels[1])),
        tuple(map(float, tint)),
        max(1, round(2 * radius * scale)),
        cv2.LINE_AA,
    )
    if crown and rng.random() < 0.6:
        leaves = np.array([0.2, 0.45, 0.15]) * rng.uniform(0.4, 1.3) if rng.random() < 0.7 else rng.uniform(0, 1, 3)
        for _ in range(int(rng.integers(1, 7))):
            spot = pixels[1] + rng.normal(0, 0.35, 2) * scale
            axes = np.maximum(1, rng.uniform(0.2, 0.7, 2) * scale).astype(int)
            cv2.ellipse(canvas, tuple(map(int, spot)), tuple(map(int, axes)), float(rng.uniform(0, 180)), 0, 360,
                        tuple(map(float, leaves * rng.uniform(0.7, 1.2))), -1, cv2.LINE_AA)  # fmt: skip


def draw_behind(rng: Rng, canvas: np.ndarray, view: View, poses: Poses, *, count: int) -> None:
    """Clutter on the ground beyond the person, far things first."""
    depth = -np.sort(-rng.uniform(0.9, 12, count))
    for away in depth:
        foot = np.array([rng.normal(0, 0.25 + 0.35 * away), 0, -away])
        tint = rng.uniform(0.05, 0.95, 3) * rng.uniform(0.4, 1)
        kind = rng.random()
        if kind < 0.4:
            _box(rng, canvas, view, foot, tint)
        elif kind < 0.75:
            _post(rng, canvas, view, foot, tint)
        else:
            draw_passer_by(rng, canvas, view, poses, foot)


def draw_in_front(rng: Rng, canvas: np.ndarray, view: View, poses: Poses) -> Bool[np.ndarray, "h w"]:
    """Something between the camera and the person; returns the pixels it hides."""
    before = np.full_like(canvas, -1.0)
    eye = view.camera_world_m
    foot = eye * rng.uniform(0.3, 0.72) + np.array([rng.normal(0, 0.45), 0, 0])
    foot[1] = 0
    tint, kind = rng.uniform(0.05, 0.95, 3), rng.random()
    if kind < 0.45:
        _box(rng, before, view, foot, tint)
    elif kind < 0.8:
        _post(rng, before, view, foot, tint, crown=False)
    else:
        draw_passer_by(rng, before, view, poses, foot + np.array([rng.choice((-0.35, 0.35)), 0, 0]))
    hides = before[..., 0] > -0.5
    canvas[hides] = np.maximum(before[hides], 0)
    return hides
