"""A sheet to judge a body model by: T-pose, its shape components, and bends of a quarter turn."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from mesh_lib.body.files import Body
from mesh_lib.body.joints import SMPL24
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.render.overlay import PAPER, overlay, side_view

CELL_WH = (160, 190)
FOCAL_PX = np.array([900.0, 900.0])
DISTANCE_M = 11.0
SPREAD = 2.0
"""Standard deviations by which each shape component is shown."""
QUARTER = np.pi / 2
POSES: dict[str, dict[str, tuple[float, float, float]]] = {
    "T-pose": {},
    "elbows": {"left_elbow": (0, -QUARTER, 0), "right_elbow": (0, QUARTER, 0)},
    "shoulders": {"left_shoulder": (0, 0, -QUARTER), "right_shoulder": (0, 0, QUARTER)},
    "left knee": {"left_knee": (QUARTER, 0, 0)},
    "left hip": {"left_hip": (-QUARTER, 0, 0)},
    "sitting": {
        **{f"{side}_hip": (-QUARTER, 0, 0) for side in ("left", "right")},
        **{f"{side}_knee": (QUARTER, 0, 0) for side in ("left", "right")},
        "left_shoulder": (0, 0, -1.2),
        "right_shoulder": (0, 0, 1.2),
    },
    "twist": {
        **{spine: (0.1, 0.35, 0) for spine in ("spine1", "spine2", "spine3")},
        "left_shoulder": (0, 0.6, -0.8),
        "right_shoulder": (0, 0.6, 0.8),
        "head": (0, 0.4, 0),
    },
}
"""Rotation vectors by joint, radians: the T-pose and six poses."""


def pose_rotvec(name: str) -> Float[np.ndarray, "24 3"]:
    """One of POSES in the order of SMPL24."""
    pose = np.zeros((len(SMPL24), 3), np.float32)
    for joint, rotvec in POSES[name].items():
        pose[SMPL24.index(joint)] = rotvec
    return pose


def body_sheet(body: Body) -> UInt8[np.ndarray, "height width 3"]:
    """Front and side of the poses, then of each shape component at +2 and at -2 standard deviations."""
    layer = BodyLayer(body)
    zero = np.zeros(layer.num_betas, np.float32)
    rows = _pair(body, layer, [(name, pose_rotvec(name), zero) for name in POSES])
    rest = pose_rotvec("T-pose")
    for amount in (SPREAD, -SPREAD):
        shown = [
            (f"beta {i + 1}: {amount:+.0f}", rest, amount * np.eye(layer.num_betas, dtype=np.float32)[i])
            for i in range(layer.num_betas)
        ]
        rows += _pair(body, layer, shown)
    width = max(row.shape[1] for row in rows)
    paper = np.array(PAPER, np.uint8)
    return np.vstack([np.hstack([row, np.tile(paper, (len(row), width - row.shape[1], 1))]) for row in rows])


@torch.no_grad()
def _pair(body: Body, layer: BodyLayer, shown: list[tuple[str, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """A row of front views and a row of side views."""
    fronts, sides = [], []
    princpt = np.array(CELL_WH) / 2 - 0.5
    blank = np.full((CELL_WH[1], CELL_WH[0], 3), PAPER, np.uint8)
    for name, pose, betas in shown:
        posed = layer(rotmats=rotvec_to_rotmat(torch.from_numpy(pose)), betas=torch.from_numpy(betas))
        # Half a turn about x: from the body's y up and z forward to a camera that it faces, y down and z away.
        vertices = posed.vertices_m.numpy() * np.array([1, -1, -1], np.float32)
        vertices -= (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        vertices[:, 2] += DISTANCE_M
        front = overlay(blank, vertices, body.faces, focal_px=FOCAL_PX, princpt_px=princpt, opacity=1.0)
        cv2.putText(front, name, (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (70, 70, 70), 1, cv2.LINE_AA)
        fronts.append(front)
        sides.append(side_view(vertices, body.faces, focal_px=FOCAL_PX, princpt_px=princpt, size_wh=CELL_WH))
    return [np.hstack(fronts), np.hstack(sides)]
