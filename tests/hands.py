"""A right hand of tubes in MANO's layout, and samples of it whose truth is known: for tests that need some hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch

from mesh_lib import tables
from mesh_lib.body.files import Body, load_body
from mesh_lib.body.joints import MANO16, MANO_FINGERS, MANO_TIPS, RIGHT_HAND21, JointSet
from mesh_lib.datasets.images import encode_jpeg
from mesh_lib.hand_supervision import HandModel, HandTruth

SIDE, FOCAL = 224, 480.0
RINGS, AROUND, SPARE = 6, 8, 5
PARENTS = (-1, *(3 * f + i if i else 0 for f in range(5) for i in (0, 1, 2)))
KNUCKLE_Z_M = {"index": 0.02, "middle": 0.0, "ring": -0.02, "pinky": -0.04, "thumb": 0.04}


def hand_arrays(*, side: int = 1) -> dict[str, np.ndarray]:
    """What MANO_RIGHT holds; side -1 is its mirror image."""
    wrist = np.array([0.09, 0.0, 0.0])
    joints, ends = np.zeros((16, 3)), np.zeros((16, 3))
    joints[0], ends[0] = wrist, [0.02, 0, 0]
    for finger in MANO_FINGERS:
        short = finger == "thumb"
        for i in (1, 2, 3):
            joint = MANO16.index(f"right_{finger}{i}")
            joints[joint] = [(0.06 if short else 0.0) - 0.028 * (i - 1), 0.004, KNUCKLE_Z_M[finger]]
            ends[joint] = joints[joint] - [0.026, 0, 0]
    vertices, owner, faces = np.zeros((778, 3)), np.zeros(778, int), []
    tips = {MANO16.index(name[:-1] + "3"): vertex for name, vertex in MANO_TIPS.items()}
    free = [i for i in range(778) if i not in tips.values()]
    regressor = np.zeros((16, 778))
    for joint in range(16):
        radius = 0.02 if joint == 0 else 0.007
        ids = np.array(free[joint * RINGS * AROUND :][: RINGS * AROUND]).reshape(RINGS, AROUND)
        angle = np.arange(AROUND) * 2 * np.pi / AROUND
        ring = np.stack([np.zeros(AROUND), np.cos(angle), np.sin(angle)], axis=1) * radius
        for i in range(RINGS):
            vertices[ids[i]] = joints[joint] + (ends[joint] - joints[joint]) * i / (RINGS - 1) + ring
        owner[ids], regressor[joint, ids[0]] = joint, 1 / AROUND
        for i in range(RINGS - 1):
            for a, b, c, d in zip(ids[i], np.roll(ids[i], -1), ids[i + 1], np.roll(ids[i + 1], -1), strict=True):
                faces += [[a, b, c], [b, d, c]]
        if joint in tips:
            vertices[tips[joint]], owner[tips[joint]] = ends[joint] - [0.006, 0, 0], joint
            faces += [[a, b, tips[joint]] for a, b in zip(ids[-1], np.roll(ids[-1], -1), strict=True)]
    vertices[free[-SPARE:]] = wrist
    shapedirs = np.zeros((778, 3, 10))
    shapedirs[:, :, 0], shapedirs[:, 1, 1] = 0.05 * (vertices - wrist), 0.001
    mirror = np.array([side, 1.0, 1.0])
    return {
        "v_template": vertices * mirror, "shapedirs": shapedirs * mirror[:, None], "J_regressor": regressor,
        "weights": np.eye(16)[owner], "kintree_table": np.array([PARENTS, range(16)]), "f": np.array(faces),
        "hands_mean": np.random.default_rng(0).normal(0, 0.15, 45),
    }  # fmt: skip


def right_hand(folder: Path, **changed: Any) -> Body:
    """The body of a file, MANO_RIGHT.npz, that is written into the folder; None leaves an array out."""
    arrays = {name: value for name, value in {**hand_arrays(), **changed}.items() if value is not None}
    np.savez(folder / "MANO_RIGHT.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return load_body(folder / "MANO_RIGHT.npz")


def draw(body: Body, vertices_m: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE, 3) picture of a hand before the camera: faces by depth, far ones first."""
    picture = np.full((SIDE, SIDE, 3), 90, np.uint8)
    pixels = vertices_m[:, :2] / vertices_m[:, 2:] * FOCAL + SIDE / 2
    depth = vertices_m[body.faces, 2].mean(axis=1)
    for face in np.argsort(-depth):
        shade = float(60 + 1500 * (depth.max() - depth[face]))
        colour = (min(shade, 255.0), min(shade * 0.8, 255.0), float(face % 200))
        cv2.fillConvexPoly(picture, np.round(pixels[body.faces[face]]).astype(np.int32), colour)
    return picture


def hand_truth(body: Body, count: int, *, seed: int = 0, **changed: Any) -> HandTruth:
    """Posed right hands before the camera, unaugmented, whose whole truth is known; the crop is the picture."""
    rng = np.random.default_rng(seed)
    rotvec = rng.normal(0, 0.25, (count, 16, 3))
    rotvec[:, 0] = [np.pi / 2, 0, 0] + rng.normal(0, 0.3, (count, 3))
    fields: dict[str, Any] = {
        "mano_rotvec": rotvec, "mano_betas": rng.normal(0, 1, (count, 10)),
        "mano_transl_m": rng.normal(0, 0.01, (count, 3)) + [-0.04, 0, 0.6],
        "keypoints_2d_px": np.ones((count, 21, 3)), "keypoints_3d_m": np.ones((count, 21, 4)),
        "focal_px": np.full((count, 2), FOCAL), "princpt_px": np.full((count, 2), SIDE / 2),
        "affine": np.tile(np.eye(2, 3), (count, 1, 1)), "rotation_rad": np.zeros(count),
    }  # fmt: skip
    yes, no = torch.ones(count) > 0, torch.zeros(count) > 0
    tensors = {name: torch.as_tensor(np.asarray(value), dtype=torch.float32) for name, value in fields.items()}
    truth = HandTruth(**tensors, mano_valid=yes, mano_transl_valid=yes, flip=no, weak=no)
    joints_m = HandModel(body)(truth).joints_m
    pixels = joints_m[..., :2] / joints_m[..., 2:] * FOCAL + SIDE / 2
    one = torch.ones(count, 21, 1)
    known = {"keypoints_3d_m": torch.cat([joints_m, one], 2), "keypoints_2d_px": torch.cat([pixels, one], 2)}
    return HandTruth(**{**vars(truth), **known, **changed})


def write_samples(
    folder: Path, body: Body, count: int, *, seed: int = 0, joint_set: JointSet = RIGHT_HAND21, placed: bool = True
) -> HandTruth:
    """Samples with their pictures, as jobs/ingest.py writes them; `placed` False: read without MANO's file."""
    truth = hand_truth(body, count, seed=seed)
    vertices_m = HandModel(body)(truth).vertices_m.numpy()
    rows = []
    for i in range(count):
        mano = {"pose": (2, 48), "betas": (2, 10), "transl_m": (2, 3)}
        both = {name: np.full(shape, np.nan) for name, shape in mano.items()}
        both["pose"][1], both["betas"][1] = truth.mano_rotvec[i].ravel(), truth.mano_betas[i]
        if placed:
            both["transl_m"][1] = truth.mano_transl_m[i]
        seen = truth.keypoints_2d_px[i, :, :2].numpy()
        low, size = seen.min(axis=0), np.ptp(seen, axis=0)
        rows.append({
            "sample_id": f"tubes/test/{seed}-{i}/0", "image_id": f"{seed}-{i}", "person_id": "0", "dataset": "tubes",
            "split": "test", "image": encode_jpeg(draw(body, vertices_m[i])), "image_size": np.array([SIDE, SIDE]),
            "crop_to_image": np.eye(2, 3), "bbox_xywh_px": np.concatenate([low - 0.1 * size, 1.2 * size]),
            "keypoints_2d_px": joint_set.take_from(truth.keypoints_2d_px[i].numpy(), RIGHT_HAND21),
            "keypoints_3d_m": joint_set.take_from(truth.keypoints_3d_m[i].numpy(), RIGHT_HAND21),
            "smpl_valid": False, **{f"mano_{name}": value for name, value in both.items()},
            "mano_valid": np.array([False, True]), "supervision": "mocap",
            "camera": {"focal_px": np.full(2, FOCAL), "princpt_px": np.full(2, SIDE / 2), "rotation": np.eye(3),
                       "translation_m": np.zeros(3)},
        })  # fmt: skip
    folder.mkdir(parents=True)
    pq.write_table(tables.samples_table(rows, joint_set), folder / "part-00000.parquet")
    return truth
