"""A person of tubes and balls: a body of the SMPL family in milliseconds, for tests that need some body."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, SMPL24, SMPL_PARENTS
from mesh_lib.world.props import bone_radius_m
from mesh_lib.world.skeleton import REST_OFFSETS_M

FACE_M = {
    "nose": (0, 0.1, 0.1), "left_eye": (0.03, 0.13, 0.09), "left_ear": (0.08, 0.1, 0), "left_heel": (0, -0.05, -0.05),
    "left_big_toe": (-0.01, -0.03, 0.09), "left_small_toe": (0.03, -0.03, 0.07),
}  # fmt: skip


def tube_body() -> Body:
    joints = np.zeros((24, 3))
    for joint in range(1, 24):
        joints[joint] = joints[SMPL_PARENTS[joint]] + REST_OFFSETS_M[joint]
    vertices, faces, owner = [], [], []
    for joint in range(24):
        ends = joints[[SMPL_PARENTS[joint], joint]] if joint else joints[[0, 0]]
        tube = trimesh.creation.icosphere(subdivisions=1, radius=bone_radius_m(joint))
        parts = [tube.vertices + joints[joint]]
        if joint and np.linalg.norm(ends[1] - ends[0]) > 0.01:
            parts.append(trimesh.creation.cylinder(radius=bone_radius_m(joint), segment=ends, sections=8).vertices)
            shapes = [tube.faces, trimesh.creation.cylinder(radius=0.1, segment=ends, sections=8).faces]
        else:
            shapes = [tube.faces]
        for part, (points, triangles) in enumerate(zip(parts, shapes, strict=True)):
            faces.append(triangles + sum(map(len, vertices)))
            vertices.append(points)
            owner += [joint if part == 0 else SMPL_PARENTS[joint]] * len(points)
    template = np.concatenate(vertices)
    regressor = np.zeros((24, len(template)))
    for joint in range(24):  # the ball of each joint comes first among its parts
        balls = np.flatnonzero(np.linalg.norm(template - joints[joint], axis=1) < bone_radius_m(joint) * 1.001)
        balls = balls[[owner[i] == joint for i in balls]][:42]
        regressor[joint, balls] = 1 / len(balls)
    shapedirs = np.zeros((len(template), 3, 10))
    shapedirs[:, :, 0] = 0.03 * template
    return Body(
        name="tubes", v_template=template, shapedirs=shapedirs, posedirs=None, J_regressor=regressor,
        weights=np.eye(24)[owner], parents=SMPL_PARENTS, faces=np.concatenate(faces).astype(np.int32),
        keypoint_vertices=_keypoints(template, joints), sha256="",
    )  # fmt: skip


def _keypoints(template: np.ndarray, joints: np.ndarray) -> dict[str, int]:
    out = {}
    for name in BODY33.names:
        if name in SMPL24.names:
            continue
        side = -1 if name.startswith("right_") else 1
        base = name.replace("right_", "left_")
        at = "head" if base in ("nose", "left_eye", "left_ear") else "left_ankle" if base in FACE_M else "left_hand"
        place = joints[SMPL24.index(at)] + FACE_M.get(base, (0.03, 0, 0.01))
        out[name] = int(np.linalg.norm(template - place * (side, 1, 1), axis=1).argmin())
    return out


@pytest.fixture(scope="session")
def body() -> Body:
    return tube_body()
