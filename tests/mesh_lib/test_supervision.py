"""Augmented truth stays one truth: what 3D projects to is what 2D says, and the pose is the mirrored person's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33, COCO17, JOINT_SETS, SMPL24, JointSet, to_body33
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.geometry import crop
from mesh_lib.geometry.cameras import crop_to_image_camera, project, project_to_crop
from mesh_lib.geometry.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from mesh_lib.supervision import Targets, Truth, make_targets

SIZE = (192, 256)
IMAGE_WH = (640, 480)
AUGMENTATIONS = {
    "none": crop.Augmentation(),
    "flip": crop.Augmentation(flip=True),
    "turn": crop.Augmentation(rotation_rad=0.7),
    "all": crop.Augmentation(scale=1.2, rotation_rad=-0.9, flip=True),
}


@pytest.fixture(scope="module")
def keypoints(body: Body) -> KeypointLayer:
    return KeypointLayer(body, BODY33)


def make_truth(keypoints: KeypointLayer, augmentation: crop.Augmentation, **changed: torch.Tensor) -> Truth:
    """A posed person, seen by the camera of their own box; the whole truth is known."""
    box = crop.network_box(np.array([250.0, 90.0, 110.0, 300.0]), image_size=IMAGE_WH, aspect=SIZE[0] / SIZE[1])
    camera = crop_to_image_camera(torch.tensor(box)[None], input_size=SIZE)
    rng = np.random.default_rng(3)
    rotvec = torch.from_numpy(rng.normal(0, 0.4, (1, 24, 3)).astype(np.float32))
    rotvec[:, 0] += torch.tensor([np.pi, 0, 0])
    betas, transl_m = torch.from_numpy(rng.normal(0, 1, (1, 10)).astype(np.float32)), torch.tensor([[0.1, -0.2, 40.0]])
    points_m = keypoints(rotmats=rotvec_to_rotmat(rotvec), betas=betas) + transl_m[:, None]
    focal, princpt = camera.focal_px.float(), camera.princpt_px.float()
    ones = torch.ones(1, len(BODY33), 1)
    affine = crop.crop_affine(box, input_size=SIZE, image_width=IMAGE_WH[0], augmentation=augmentation)
    fields = {
        "keypoints_2d_px": torch.cat([project(points_m, focal_px=focal, princpt_px=princpt), ones], dim=2),
        "keypoints_3d_m": torch.cat([points_m, ones], dim=2),
        "smpl_rotvec": rotvec,
        "smpl_betas": betas,
        "smpl_transl_m": transl_m,
        "smpl_valid": torch.tensor([True]),
        "focal_px": focal,
        "princpt_px": princpt,
        "affine": torch.from_numpy(affine[None].astype(np.float32)),
        "flip": torch.tensor([augmentation.flip]),
        "rotation_rad": torch.tensor([augmentation.rotation_rad]),
        "weak": torch.tensor([False]),
    }
    return Truth(**{**fields, **changed})


def placed(rel_m: torch.Tensor, targets: Targets, augmentation: crop.Augmentation) -> torch.Tensor:
    """Crop pixels of root-relative points, the root put where the augmented picture shows it."""
    pelvis = BODY33.index("pelvis")
    centre = torch.tensor([SIZE[0] / 2, SIZE[1] / 2])
    depth = 40.0 * augmentation.scale
    root = torch.cat([(targets.keypoints_crop_px[:, pelvis] - centre) / 5000 * depth, torch.tensor([[depth]])], dim=1)
    return project_to_crop(rel_m + root[:, None], input_size=SIZE)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_3d_projects_onto_augmented_2d(keypoints: KeypointLayer, name: str) -> None:
    augmentation = AUGMENTATIONS[name]
    targets = make_targets(make_truth(keypoints, augmentation), keypoints=keypoints)
    for rel_m in (targets.joints_rel_m, targets.mesh_rel_m):
        error_px = (placed(rel_m, targets, augmentation) - targets.keypoints_crop_px).norm(dim=-1)
        assert error_px.max() < 0.5
    assert (targets.mesh_crop_px - targets.keypoints_crop_px).norm(dim=-1).max() < 0.05


@pytest.mark.parametrize("joint_set", JOINT_SETS.values(), ids=lambda s: s.name)
def test_it_does_so_for_every_joint_set(keypoints: KeypointLayer, joint_set: JointSet) -> None:
    """What a dataset of these joints knows, moved to ours by name."""
    whole = make_truth(keypoints, AUGMENTATIONS["all"])

    def known(values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(to_body33(joint_set.take_from(values.numpy(), BODY33), joint_set))

    truth = make_truth(
        keypoints, AUGMENTATIONS["all"], keypoints_2d_px=known(whole.keypoints_2d_px),
        keypoints_3d_m=known(whole.keypoints_3d_m),
    )  # fmt: skip
    targets = make_targets(truth, keypoints=keypoints)
    valid = (targets.joints_rel_valid > 0) & (targets.keypoints_valid > 0)
    error_px = (placed(targets.joints_rel_m, targets, AUGMENTATIONS["all"]) - targets.keypoints_crop_px).norm(dim=-1)
    has_root = {"pelvis"} & set(joint_set.names) or {"left_hip", "right_hip"} <= set(joint_set.names)
    assert valid.sum() == (len(set(joint_set.names) & set(BODY33.names) | {"pelvis"}) if has_root else 0)
    assert not has_root or error_px[valid].max() < 0.5


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_augmented_pose_poses_the_augmented_person(body: Body, keypoints: KeypointLayer, name: str) -> None:
    flat = make_truth(keypoints, AUGMENTATIONS[name], smpl_betas=torch.zeros(1, 10))
    targets = make_targets(flat, keypoints=keypoints)
    layer = BodyLayer(body)
    pose = layer.joints_only(rotmats=targets.rotmats, betas=torch.zeros(1, 10))
    plain = layer.joints_only(rotmats=rotvec_to_rotmat(flat.smpl_rotvec), betas=torch.zeros(1, 10))
    mirror = torch.diag(torch.tensor([-1.0 if AUGMENTATIONS[name].flip else 1.0, 1, 1]))
    turn = rotvec_to_rotmat(torch.tensor([0, 0, AUGMENTATIONS[name].rotation_rad]))
    expected = (plain - plain[:, :1]) @ (turn @ mirror).mT
    if AUGMENTATIONS[name].flip:
        expected = expected[:, list(SMPL24.mirror)]
    torch.testing.assert_close(pose - pose[:, :1], expected, atol=2e-3, rtol=0)


def test_a_flipped_left_wrist_is_the_pictures_right_one(keypoints: KeypointLayer) -> None:
    left, right = BODY33.index("left_wrist"), BODY33.index("right_wrist")
    truth = make_truth(keypoints, AUGMENTATIONS["none"])
    seen = truth.keypoints_2d_px.clone()
    seen[:, left, 2] = 0
    flipped = make_truth(keypoints, AUGMENTATIONS["flip"], keypoints_2d_px=seen)
    targets = make_targets(flipped, keypoints=keypoints)
    assert targets.keypoints_valid[0, right] == 0 and targets.keypoints_valid[0, left] == 1


def test_a_weak_sample_teaches_no_3d(keypoints: KeypointLayer) -> None:
    targets = make_targets(make_truth(keypoints, AUGMENTATIONS["none"], weak=torch.tensor([True])), keypoints=keypoints)
    assert targets.joints_rel_valid.sum() == 0 and targets.mesh_valid.sum() == 0 and targets.weak.sum() == 1
    assert targets.keypoints_valid.sum() == len(BODY33)


def test_without_a_pelvis_3d_joints_have_no_root_and_teach_nothing(keypoints: KeypointLayer) -> None:
    known = make_truth(keypoints, AUGMENTATIONS["none"]).keypoints_3d_m.clone()
    known[:, BODY33.index("pelvis"), 3] = 0
    targets = make_targets(make_truth(keypoints, AUGMENTATIONS["none"], keypoints_3d_m=known), keypoints=keypoints)
    assert targets.joints_rel_valid.sum() == 0


def test_betas_beyond_three_are_taken_for_a_failed_fit(keypoints: KeypointLayer) -> None:
    betas = torch.zeros(1, 10)
    betas[0, 4] = 3.2
    assert (
        make_targets(make_truth(keypoints, AUGMENTATIONS["none"], smpl_betas=betas), keypoints=keypoints)
        .betas.abs()
        .sum()
        == 0
    )


def test_a_turn_by_pi_keeps_the_pose_a_rotation(keypoints: KeypointLayer) -> None:
    rotvec = torch.zeros(1, 24, 3)
    rotvec[:, 0, 0] = np.pi
    targets = make_targets(make_truth(keypoints, AUGMENTATIONS["all"], smpl_rotvec=rotvec), keypoints=keypoints)
    assert rotmat_to_rotvec(targets.rotmats).isfinite().all()
    torch.testing.assert_close(torch.linalg.det(targets.rotmats), torch.ones(1, 24))


def test_coco_gets_its_pelvis_between_the_hips() -> None:
    keypoints = np.zeros((17, 3))
    left, right = COCO17.index("left_hip"), COCO17.index("right_hip")
    keypoints[left], keypoints[right] = (10, 20, 1), (30, 40, 1)
    pelvis = BODY33.index("pelvis")
    np.testing.assert_array_equal(to_body33(keypoints, COCO17)[pelvis], (20, 30, 1))
    keypoints[right, 2] = 0
    assert to_body33(keypoints, COCO17)[pelvis, 2] == 0


def test_joints_are_converted_by_name() -> None:
    odd = JointSet("odd", ("right_wrist", "tail", "nose"))
    found = to_body33(np.array([[1.0, 2, 1], [3, 4, 1], [5, 6, 1]]), odd)
    np.testing.assert_array_equal(found[BODY33.index("right_wrist")], (1, 2, 1))
    np.testing.assert_array_equal(found[BODY33.index("nose")], (5, 6, 1))
    assert found[:, 2].sum() == 2


def test_a_mesh_without_a_camera_is_compared_in_3d_alone(keypoints: KeypointLayer) -> None:
    truth = make_truth(keypoints, crop.Augmentation(), focal_px=torch.zeros(1, 2), princpt_px=torch.zeros(1, 2))
    targets = make_targets(truth, keypoints=keypoints)
    assert targets.mesh_valid.tolist() == [1] and targets.mesh_crop_valid.tolist() == [0]
    assert torch.isfinite(targets.mesh_crop_px).all()
