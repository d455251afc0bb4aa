"""Contact sheets: look at the open world, at its truth, and at the poses."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mesh_lib.body.joints import BODY33
from mesh_lib.world.appearance import Light, draw_outfit
from mesh_lib.world.poses import ACTIVITIES, sample_poses
from mesh_lib.world.scenes import DOMAINS, OpenWorld, draw_body
from mesh_lib.world.view import camera_rotation

COLUMNS = 8
_CHAINS = (
    ("pelvis", "neck", "nose"),
    ("nose", "left_eye", "left_ear"),
    ("nose", "right_eye", "right_ear"),
    ("neck", "left_shoulder", "left_elbow", "left_wrist", "left_middle1"),
    ("neck", "right_shoulder", "right_elbow", "right_wrist", "right_middle1"),
    ("pelvis", "left_hip", "left_knee", "left_ankle", "left_big_toe"),
    ("pelvis", "right_hip", "right_knee", "right_ankle", "right_big_toe"),
)
_LEFT, _RIGHT, _MIDDLE = (255, 140, 0), (0, 170, 255), (255, 255, 255)


def domain_sheet(world: OpenWorld, *, cell_px: int, truth: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """A row of pictures a domain; with their keypoints where `truth`."""
    rows = []
    for domain in DOMAINS:
        cells = []
        for index in range(COLUMNS):
            sample = world.render(domain, index)
            image = draw_keypoints(sample.image, sample.keypoints_2d_px) if truth else sample.image
            cells.append(cv2.resize(image, (cell_px, cell_px), interpolation=cv2.INTER_AREA))
        rows.append(np.hstack(cells))
    return np.vstack(rows)


def draw_keypoints(
    image: UInt8[np.ndarray, "h w 3"], keypoints_px: Float[np.ndarray, "33 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """BODY33 skeleton over a picture: left orange, right blue; what is not visible is left out."""
    canvas = image.copy()
    spots = {name: tuple(map(round, keypoints_px[i, :2].tolist())) for i, name in enumerate(BODY33.names)}
    visible = {name for i, name in enumerate(BODY33.names) if keypoints_px[i, 2] > 0}
    for chain in _CHAINS:
        for start, end in pairwise(chain):
            if {start, end} <= visible:
                cv2.line(canvas, spots[start], spots[end], _side_colour(end), 2, cv2.LINE_AA)
    for name in visible:
        cv2.circle(canvas, spots[name], 3, _side_colour(name), -1, cv2.LINE_AA)
    return canvas


def _side_colour(name: str) -> tuple[int, int, int]:
    return _LEFT if name.startswith("left_") else _RIGHT if name.startswith("right_") else _MIDDLE


def pose_sheet(world: OpenWorld, *, cell_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """A row of people an activity, on a plain ground."""
    poses = sample_poses(1500, seed=world.seed)
    rows = []
    for activity in ACTIVITIES:
        chosen = np.flatnonzero(poses.activity == activity)[:COLUMNS]
        cells = [_figure(world, poses.global_orient_rotvec[i], poses.body_pose_rotvec[i], cell_px) for i in chosen]
        rows.append(np.hstack(cells))
        cv2.putText(rows[-1], activity, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    return np.vstack(rows)


def _figure(world: OpenWorld, orient: np.ndarray, body_pose: np.ndarray, cell_px: int) -> np.ndarray:
    figure = world.pose_figure(orient, body_pose, np.zeros(10, np.float32), lifts=False)
    rotation = camera_rotation(0.15, 0.0)
    floor = figure.vertices_m[:, 1].min()
    foot = rotation @ np.array([0, floor, 0])
    root = np.array([0, 0.9, 6.0]) - foot  # everyone stands on the same line
    vertices = (figure.vertices_m @ rotation.T + root).astype(np.float32)
    canvas = np.full((cell_px, cell_px, 3), 0.93)
    canvas[round(cell_px * 0.86) :] = 0.85
    towards = np.array([-0.5, -0.7, -0.5])
    light = Light(towards / np.linalg.norm(towards), rotation[:, 1], np.full(3, 0.6), np.full(3, 0.55))
    outfit = draw_outfit(np.random.default_rng(5), "varied")
    draw_body(
        canvas, world.surface, vertices, outfit, light, focal_px=cell_px * 2.7, princpt_px=(cell_px / 2, cell_px / 2)
    )
    return np.clip(canvas * 255, 0, 255).astype(np.uint8)


def png(image: UInt8[np.ndarray, "h w 3"], *, most_bytes: int) -> bytes:
    """A PNG of at most `most_bytes`: colours are rounded, more and more, until it fits."""
    for bits in range(8):
        step = 1 << bits
        rounded = np.minimum((image.astype(np.int32) + step // 2) // step * step, 255).astype(np.uint8)
        data = cv2.imencode(".png", rounded[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
        if len(data) <= most_bytes:
            break
    return data
