"""Linear blend skinning for the SMPL family (Loper et al., 2015), computing only what was asked for.

Joints of a shaped body come from J_regressor @ v_template and J_regressor @ shapedirs, made once; posed points
need only the vertices that matter for them. So losses and metrics never touch the whole mesh. Written from the
paper's equations 2 to 10; equal to the `smplx` package up to rounding, which the tests check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mesh_lib.body.files import Body
from mesh_lib.body.joints import SMPL24, JointSet


@dataclass(frozen=True)
class PosedBody:
    """Body frame: no translation, no camera; metres."""

    vertices_m: Float[Tensor, "*batch vertices 3"]
    joints_m: Float[Tensor, "*batch joints 3"]
    """Kinematic joints: where the rotations act."""


class BodyLayer(nn.Module):
    """Shape and pose to vertices. `vertex_ids` keeps only those vertices, in that order; None keeps all."""

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor | None
    weights: Tensor
    joint_template: Tensor
    joint_shapedirs: Tensor

    def __init__(self, body: Body, *, vertex_ids: np.ndarray | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        ids = slice(None) if vertex_ids is None else np.asarray(vertex_ids)
        self.num_betas = body.shapedirs.shape[2]
        self.parents = body.parents
        self.levels = _levels(body.parents)

        def buffer(name: str, value: np.ndarray) -> None:
            self.register_buffer(name, torch.as_tensor(np.ascontiguousarray(value), dtype=dtype), persistent=False)

        buffer("v_template", body.v_template[ids])
        buffer("shapedirs", body.shapedirs[ids].transpose(2, 0, 1).reshape(self.num_betas, -1))
        buffer("weights", body.weights[ids])
        buffer("joint_template", body.J_regressor @ body.v_template)
        flat = body.shapedirs.transpose(0, 2, 1).reshape(len(body.v_template), -1)
        joint_dirs = (body.J_regressor @ flat).reshape(-1, self.num_betas, 3).transpose(1, 0, 2)
        buffer("joint_shapedirs", joint_dirs.reshape(self.num_betas, -1))
        if body.posedirs is None:
            self.posedirs = None
        else:
            buffer("posedirs", body.posedirs[ids].transpose(2, 0, 1).reshape(body.posedirs.shape[2], -1))

    def forward(
        self, *, rotmats: Float[Tensor, "*batch joints 3 3"], betas: Float[Tensor, "*batch betas"]
    ) -> PosedBody:
        """rotmats are relative to the parent; joint 0's turns the body about joint 0."""
        batch = rotmats.shape[:-3]
        rotmats, betas = rotmats.reshape(-1, *rotmats.shape[-3:]), betas.reshape(-1, betas.shape[-1])
        turns, joints_m, offsets = self._chain(rotmats, betas)
        shaped = self.v_template + (betas @ self.shapedirs).unflatten(1, (-1, 3))
        if self.posedirs is not None:
            feature = (rotmats[:, 1:] - torch.eye(3, dtype=rotmats.dtype, device=rotmats.device)).flatten(1)
            shaped = shaped + (feature @ self.posedirs).unflatten(1, (-1, 3))
        # One matrix product blends rotation and offset together: (V, J) @ (J, 12).
        blended = torch.matmul(self.weights, torch.cat([turns.flatten(2), offsets], dim=2))
        turned = (blended[..., :9].unflatten(2, (3, 3)) @ shaped[..., None])[..., 0] + blended[..., 9:]
        return PosedBody(turned.reshape(*batch, *turned.shape[1:]), joints_m.reshape(*batch, *joints_m.shape[1:]))

    def joints_only(
        self, *, rotmats: Float[Tensor, "*batch joints 3 3"], betas: Float[Tensor, "*batch betas"]
    ) -> Float[Tensor, "*batch joints 3"]:
        """The kinematic joints alone."""
        batch = rotmats.shape[:-3]
        _, joints_m, _ = self._chain(rotmats.reshape(-1, *rotmats.shape[-3:]), betas.reshape(-1, betas.shape[-1]))
        return joints_m.reshape(*batch, *joints_m.shape[1:])

    def _chain(self, rotmats: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Forward kinematics, a level of the tree at a time: world rotations, joints, and blend offsets."""
        rest = self.joint_template + (betas @ self.joint_shapedirs).unflatten(1, (-1, 3))
        turns: list[Tensor] = [rotmats[:, 0]] + [rotmats[:, 0]] * (rotmats.shape[1] - 1)
        places: list[Tensor] = [rest[:, 0]] + [rest[:, 0]] * (rotmats.shape[1] - 1)
        for children, parents in self.levels:
            parent_turns = torch.stack([turns[p] for p in parents], dim=1)
            bones = rest[:, children] - rest[:, parents]
            level_turns = parent_turns @ rotmats[:, children]
            level_places = torch.stack([places[p] for p in parents], dim=1) + (parent_turns @ bones[..., None])[..., 0]
            for i, child in enumerate(children):
                turns[child], places[child] = level_turns[:, i], level_places[:, i]
        world, joints_m = torch.stack(turns, dim=1), torch.stack(places, dim=1)
        return world, joints_m, joints_m - (world @ rest[..., None])[..., 0]


class KeypointLayer(nn.Module):
    """Named joints of the posed mesh, computed from the few vertices that matter.

    SMPL joints are the J_regressor applied to the *posed* vertices, as published (Pose2Pose, SPIN); they differ
    from the kinematic joints by millimetres. Other names (nose, toes …) are one vertex each.
    """

    regressor: Tensor

    def __init__(self, body: Body, joint_set: JointSet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        rows = np.zeros((len(joint_set), len(body.v_template)))
        dense = body.J_regressor if isinstance(body.J_regressor, np.ndarray) else body.J_regressor.toarray()
        for i, name in enumerate(joint_set.names):
            if name in SMPL24.names:
                rows[i] = dense[SMPL24.index(name)]
            elif name in body.keypoint_vertices:
                rows[i, body.keypoint_vertices[name]] = 1.0
            else:
                raise ValueError(f"body {body.name} has no joint or keypoint vertex {name!r}")
        used = np.flatnonzero(np.abs(rows).sum(axis=0))
        self.layer = BodyLayer(body, vertex_ids=used, dtype=dtype)
        self.register_buffer("regressor", torch.as_tensor(rows[:, used], dtype=dtype), persistent=False)

    def forward(
        self, *, rotmats: Float[Tensor, "*batch joints 3 3"], betas: Float[Tensor, "*batch betas"]
    ) -> Float[Tensor, "*batch keypoints 3"]:
        return self.regressor @ self.layer(rotmats=rotmats, betas=betas).vertices_m


def _levels(parents: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """(children, their parents) by depth in the tree, the root's children first."""
    depth = [0] * len(parents)
    for joint, parent in enumerate(parents):
        depth[joint] = 0 if parent < 0 else depth[parent] + 1
    levels = []
    for wanted in range(1, max(depth) + 1):
        children = [joint for joint, level in enumerate(depth) if level == wanted]
        levels.append((children, [parents[child] for child in children]))
    return levels
