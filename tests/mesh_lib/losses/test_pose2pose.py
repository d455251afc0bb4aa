"""The losses say what the paper says: perfect answers cost nothing, weak samples feel 2D and the regulariser alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, POSE2POSE25
from mesh_lib.geometry.cameras import project_to_crop
from mesh_lib.losses.pose2pose import Pose2PoseLossConfig, annotator_losses
from mesh_lib.nets.annotator import Annotation, Annotator
from mesh_lib.nets.pose2pose import STRIDE, Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2
from mesh_lib.supervision import Targets

MODEL = Pose2PoseConfig(backbone=18, input_width=192, input_height=256)
BATCH = 3


@pytest.fixture(scope="module")
def annotator(body: Body) -> Annotator:
    torch.manual_seed(1)
    return Annotator(MODEL, body=body, vposer=VPoserV2()).eval()


@pytest.fixture(scope="module")
def answer(annotator: Annotator) -> Annotation:
    with torch.no_grad():
        return annotator(torch.rand(BATCH, 3, 256, 192))


def perfect(answer: Annotation, *, weak: float = 0.0) -> Targets:
    """Targets that the answer meets exactly."""
    rel_m = answer.joints_m - answer.joints_m[:, BODY33.index("pelvis"), None]
    known = torch.full((BATCH,), 1.0 - weak)
    return Targets(
        keypoints_crop_px=answer.joints_crop_px,
        keypoints_valid=torch.ones(BATCH, 33),
        joints_rel_m=rel_m,
        joints_rel_valid=known[:, None].expand(BATCH, 33),
        mesh_crop_px=answer.joints_crop_px,
        mesh_rel_m=rel_m,
        mesh_valid=known,
        mesh_crop_valid=known,
        rotmats=answer.rotmats,
        betas=answer.betas,
        weak=torch.full((BATCH,), weak),
    )


def met_by_positions(answer: Annotation) -> Annotation:
    """The same answer with a position net that agrees with the mesh."""
    rel_m = answer.joints_m - answer.joints_m[:, BODY33.index("pelvis"), None]
    joints = BODY33.indices(POSE2POSE25.names)
    depth = (rel_m[:, joints, 2:] / 1.0 + 1) / 2 * 8  # half a box of 2 m
    return dataclasses.replace(answer, joints_hm=torch.cat([answer.joints_crop_px[:, joints] / STRIDE, depth], dim=2))


def losses(answer: Annotation, targets: Targets, **config: object) -> dict[str, float]:
    found = annotator_losses(answer, targets, model=MODEL, config=Pose2PoseLossConfig(**config))  # type: ignore[arg-type]
    return {name: value.item() for name, value in found.items()}


def test_a_perfect_answer_costs_nothing(answer: Annotation) -> None:
    for space in ("rotmat", "axis_angle"):
        found = losses(met_by_positions(answer), perfect(answer), pose_space=space)
        assert all(abs(value) < 1e-4 for value in found.values()), found


def test_a_weak_sample_feels_2d_and_the_regulariser_alone(answer: Annotation) -> None:
    other = dataclasses.replace(
        perfect(answer, weak=1.0), betas=answer.betas + 1, rotmats=answer.rotmats.mT,
        joints_rel_m=torch.ones(BATCH, 33, 3), mesh_rel_m=torch.ones(BATCH, 33, 3),
        mesh_crop_px=torch.zeros(BATCH, 33, 2),
    )  # fmt: skip
    found = losses(answer, other)
    for name in ("smpl_pose", "smpl_shape", "joint_cam", "smpl_joint_cam", "smpl_joint_img"):
        assert found[name] == 0, name
    assert found["joint_proj"] < 1e-5 and found["l2_pose"] > 0 and found["l2_shape"] > 0


def test_the_regulariser_is_the_weighted_mean_square_over_weak_samples(answer: Annotation) -> None:
    found = losses(answer, perfect(answer, weak=1.0), l2_weight=0.01)
    torch.testing.assert_close(found["l2_pose"], 0.01 * answer.z.square().mean().item())
    torch.testing.assert_close(found["l2_shape"], 0.01 * answer.betas.square().mean().item())
    strong = losses(answer, perfect(answer))
    assert strong["l2_pose"] == strong["l2_shape"] == 0
    assert "l2_pose" not in losses(answer, perfect(answer, weak=1.0), l2_weight=0.0)


def test_2d_is_measured_in_heatmap_bins(answer: Annotation) -> None:
    moved = dataclasses.replace(perfect(answer), keypoints_crop_px=answer.joints_crop_px.clamp(40, 150) + 3.2)
    at = dataclasses.replace(answer, joints_crop_px=answer.joints_crop_px.clamp(40, 150))
    torch.testing.assert_close(losses(at, moved)["joint_proj"], 3.2 / STRIDE)


def test_a_keypoint_outside_the_crop_teaches_no_position(answer: Annotation) -> None:
    far = dataclasses.replace(perfect(answer), keypoints_crop_px=answer.joints_crop_px + 5000)
    found = losses(answer, far)
    assert found["joint_proj"] == 0 and found["joint_img"] == 0


def test_a_joint_out_of_the_depth_range_teaches_no_position(answer: Annotation) -> None:
    """More than a metre before or behind the pelvis, on a sample whose 3D is known."""
    targets = perfect(answer)
    deep = targets.joints_rel_m.clone()
    deep[..., 2] = 1.2
    moved = dataclasses.replace(
        targets, joints_rel_m=deep, keypoints_crop_px=torch.full_like(targets.keypoints_crop_px, 60.0)
    )
    found = losses(answer, moved)
    assert found["joint_proj"] == 0 and found["joint_img"] == 0 and found["joint_cam"] > 0
    unknown = losses(answer, dataclasses.replace(moved, joints_rel_valid=torch.zeros(BATCH, 33)))
    assert unknown["joint_proj"] > 0


def test_depth_is_learned_only_where_it_is_known(answer: Annotation) -> None:
    met = met_by_positions(answer)
    lifted = dataclasses.replace(met, joints_hm=met.joints_hm + torch.tensor([0.0, 0, 1]))
    inside = dataclasses.replace(perfect(answer), keypoints_crop_px=answer.joints_crop_px)
    assert losses(lifted, dataclasses.replace(inside, joints_rel_valid=torch.zeros(BATCH, 33)))["joint_img"] < 1e-5
    assert losses(lifted, inside)["joint_img"] > 0.01


def test_normalising_by_valid_entries_undoes_the_masked_zeros(answer: Annotation) -> None:
    targets = perfect(answer)
    half = dataclasses.replace(targets, betas=answer.betas + 1, mesh_valid=torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(losses(answer, half, normalise_by="all")["smpl_shape"], 1 / 3)
    torch.testing.assert_close(losses(answer, half, normalise_by="valid")["smpl_shape"], 1.0)


def test_nan_in_what_is_not_known_does_not_reach_the_loss(answer: Annotation) -> None:
    targets = perfect(answer, weak=1.0)
    unknown = dataclasses.replace(targets, joints_rel_m=torch.full((BATCH, 33, 3), torch.nan))
    assert all(value == value for value in losses(answer, unknown).values())


def test_a_regressor_without_a_position_net_is_judged_by_the_rest(answer: Annotation) -> None:
    pooled = dataclasses.replace(answer, joints_hm=answer.joints_hm[:, :0])
    whole, rest = losses(answer, perfect(answer)), losses(pooled, perfect(answer))
    assert whole.keys() - rest.keys() == {"joint_img", "smpl_joint_img"}
    assert all(rest[name] == whole[name] for name in rest)


def test_the_vposer_decoder_stays_frozen_but_lets_gradients_through(annotator: Annotator) -> None:
    annotator.train()
    assert (
        annotator.vposer
        and not annotator.vposer.training
        and not any(p.requires_grad for p in annotator.vposer.parameters())
    )
    out = annotator(torch.rand(2, 3, 256, 192))
    project_to_crop(out.joints_m, input_size=MODEL.input_size).sum().backward()
    assert annotator.regressor.get_parameter("pose.weight").grad is not None
    annotator.eval()
