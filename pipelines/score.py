"""Direct scores of labels against the truth that the open world keeps aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mesh_lib import tables
from mesh_lib.body.files import Body
from mesh_lib.body.joints import LSP14
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.geometry.align import align_similarity
from mesh_lib.geometry.rotations import mean_rotation, rotvec_to_rotmat
from mesh_lib.metrics.joints import MM_PER_M, pa_mpjpe_mm
from pipelines import storage


@dataclass(frozen=True)
class Score:
    """Label error over all labelled samples; 14 LSP joints of the body model, similarity-aligned (PA-MPJPE)."""

    samples: int
    pa_mpjpe_mm: float
    pa_x_mm: float
    pa_y_mm: float
    pa_z_mm: float
    """Mean absolute error per camera axis after the alignment; z is depth."""
    mean_pose_pa_mpjpe_mm: float
    """The same for one constant body: the mean pose and shape of the reference truth."""

    @property
    def per_axis_mm(self) -> dict[str, float]:
        return {"x": self.pa_x_mm, "y": self.pa_y_mm, "z": self.pa_z_mm}


COLUMNS = ["sample_key", "global_orient", "body_pose", "betas"]


@torch.no_grad()
def score_labels(*, labels: str, truth: str, reference: str, body: Body) -> Score:
    """Score the labels of a run against `truth`; `reference` is the truth whose mean pose is the yardstick.

    Raises ValueError where no label has a truth.
    """
    made = storage.read_parquet(storage.join(labels, "pseudo_gt", "status=ok"), columns=COLUMNS, what="labels")
    known = storage.read_parquet(truth, columns=COLUMNS, what="truth")
    mine, theirs = _matched(made, known)
    if not len(mine):
        raise ValueError(f"none of the labels in {labels} has its truth in {truth}")
    layer = KeypointLayer(body, LSP14)
    target = _joints(layer, known.take(pa.array(theirs)))
    predicted = _joints(layer, made.take(pa.array(mine)))
    aligned = align_similarity(moving=predicted, fixed=target)
    per_axis = (aligned - target).abs().mean(dim=(0, 1)) * MM_PER_M

    mean = storage.read_parquet(reference, columns=COLUMNS, what="truth")
    pose = rotvec_to_rotmat(_column(mean, "body_pose").unflatten(1, (23, 3)))
    rotmats = torch.cat([torch.eye(3)[None], mean_rotation(pose)])
    constant = layer(rotmats=rotmats[None], betas=_column(mean, "betas").mean(dim=0, keepdim=True))
    return Score(
        samples=len(mine),
        pa_mpjpe_mm=pa_mpjpe_mm(predicted_m=predicted, target_m=target).mean().item(),
        pa_x_mm=per_axis[0].item(),
        pa_y_mm=per_axis[1].item(),
        pa_z_mm=per_axis[2].item(),
        mean_pose_pa_mpjpe_mm=pa_mpjpe_mm(predicted_m=constant.expand_as(target), target_m=target).mean().item(),
    )


def _matched(made: pa.Table, known: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both tables with the same sample key."""
    keys = made.column("sample_key").to_numpy(), known.column("sample_key").to_numpy()
    _, mine, theirs = np.intersect1d(*keys, return_indices=True)
    return mine, theirs


def _column(table: pa.Table, name: str) -> torch.Tensor:
    return torch.from_numpy(tables.numpy_column(table, name).astype(np.float32))


def _joints(layer: KeypointLayer, table: pa.Table) -> torch.Tensor:
    pose = torch.cat([_column(table, "global_orient"), _column(table, "body_pose")], dim=1)
    return layer(rotmats=rotvec_to_rotmat(pose.unflatten(1, (24, 3))), betas=_column(table, "betas"))
