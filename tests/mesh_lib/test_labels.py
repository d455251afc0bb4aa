"""The label's camera is right: the stored mesh through the stored camera lands on the stored joints, in any crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mesh_lib import tables
from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33
from mesh_lib.body.layer import KeypointLayer
from mesh_lib.geometry.crop import apply_affine, crop_affine, network_box
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.labels import failures, flags, labels_table, make_labels
from mesh_lib.nets.annotator import Annotation, Annotator
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2

IMAGE_WH = (640, 480)
BOXES = {
    "inside": (250.0, 90.0, 110.0, 300.0),
    "leaves left and top": (-60.0, -80.0, 200.0, 300.0),
    "leaves right and bottom": (500.0, 300.0, 139.0, 179.0),
    "tiny": (100.0, 100.0, 12.0, 20.0),
    "wide": (10.0, 200.0, 600.0, 90.0),
}
Labels = dict[str, np.ndarray]
SIZES = np.tile(IMAGE_WH, (len(BOXES), 1))


@pytest.fixture(scope="module")
def annotator(body: Body) -> Annotator:
    torch.manual_seed(0)
    return Annotator(Pose2PoseConfig(backbone=18, input_width=64, input_height=96), body=body, vposer=VPoserV2()).eval()


@pytest.fixture(scope="module")
def answer(annotator: Annotator) -> Annotation:
    with torch.no_grad():
        return annotator(torch.rand(len(BOXES), 3, 96, 64))


def label(annotator: Annotator, answer: Annotation, keypoints: torch.Tensor | None = None) -> Labels:
    bbox = torch.tensor(list(BOXES.values()))
    size = annotator.config.input_size
    boxes = np.stack(
        [network_box(b.numpy().astype(float), image_size=IMAGE_WH, aspect=size[0] / size[1]) for b in bbox]
    )
    if keypoints is None:
        keypoints = torch.zeros(len(bbox), 33, 3)
    with torch.no_grad():
        made = make_labels(annotator, answer, box_xywh_px=torch.from_numpy(boxes), bbox_xywh_px=bbox,
                           keypoints_2d_px=keypoints)  # fmt: skip
    return {name: values.copy() for name, values in made.items()}  # the answer is every test's


def test_the_mesh_through_the_stored_camera_lands_on_the_stored_joints(
    annotator: Annotator, answer: Annotation, body: Body
) -> None:
    """From the label's columns alone, as a reader of the Parquet would: for crops that leave the picture too."""
    made = label(annotator, answer)
    layer = KeypointLayer(body, BODY33)
    for row, name in enumerate(BOXES):
        pose = torch.from_numpy(np.concatenate([made["global_orient"][row], made["body_pose"][row]])).view(1, 24, 3)
        points = layer(rotmats=rotvec_to_rotmat(pose), betas=torch.from_numpy(made["betas"][row])[None])[0].numpy()
        points = points + made["transl_m"][row]
        pixels = points[:, :2] / points[:, 2:] * made["focal_px"][row] + made["princpt_px"][row]
        error_px = np.linalg.norm(pixels - made["joints_2d_px"][row].reshape(33, 2), axis=1)
        assert error_px.max() < 0.5, name
        assert made["camera_self_check_px"][row] < 0.5


def test_joints_in_the_picture_are_the_joints_in_the_crop(annotator: Annotator, answer: Annotation) -> None:
    """The crop's affine, which cut the pixels, takes the label's joints back to where the network saw them."""
    made = label(annotator, answer)
    for row in range(len(BOXES)):
        affine = crop_affine(made["crop_box_xywh_px"][row], input_size=(64, 96), image_width=IMAGE_WH[0])
        back = apply_affine(affine, made["joints_2d_px"][row].reshape(33, 2))
        np.testing.assert_allclose(back, answer.joints_crop_px[row].numpy(), atol=1e-2)


def test_errors_are_over_the_given_keypoints_alone(annotator: Annotator, answer: Annotation) -> None:
    exact = label(annotator, answer)["joints_2d_px"].reshape(-1, 33, 2)
    keypoints = torch.zeros(len(BOXES), 33, 3)
    keypoints[:, :4] = torch.tensor(np.concatenate([exact[:, :4] + [3, 4], np.ones((len(BOXES), 4, 1))], axis=2))
    keypoints[:, 4:, :2] = 9999
    made = label(annotator, answer, keypoints.float())
    np.testing.assert_allclose(made["reprojection_error_px"], 5, atol=1e-2)
    np.testing.assert_allclose(made["reprojection_error_box"], 5 / np.array([300, 300, 179, 20, 600]), atol=1e-3)
    assert (made["keypoints_used"] == 4).all()
    np.testing.assert_allclose(made["confidence"], [1, 1, 1, 0, 1])


def test_flags_name_what_a_reader_filters_on(annotator: Annotator, answer: Annotation) -> None:
    made = label(annotator, answer)
    made["reprojection_error_box"][:] = [0.05, 0.2, 0.05, 0.05, 0.05]
    made["pose_prior_norm"][:] = [1, 1, 9, 1, 1]
    made["betas"][:] = 0
    made["betas"][3, 7] = -3.5
    found = flags(made, image_size=SIZES)
    assert "high_reprojection" in found[1] and "high_reprojection" not in found[0]
    assert "implausible_pose" in found[2] and "implausible_shape" in found[3]
    assert "crop_leaves_image" in found[1] and "crop_leaves_image" not in found[0]
    assert all("few_keypoints" in row for row in found)


def test_without_a_pose_prior_its_norm_is_unknown_not_zero(body: Body) -> None:
    plain = Pose2PoseConfig(backbone=18, input_width=64, input_height=96, pose_head="rot6d")
    annotator = Annotator(plain, body=body, vposer=VPoserV2()).eval()
    with torch.no_grad():
        made = label(annotator, annotator(torch.rand(len(BOXES), 3, 96, 64)))
    assert made["pose_prior_norm"].shape == (len(BOXES), 0) == made["vposer_z"].shape
    assert not any("implausible_pose" in row for row in flags(made, image_size=SIZES))


def test_what_is_no_label_has_its_reason(annotator: Annotator, answer: Annotation) -> None:
    made = label(annotator, answer)
    assert (failures(made) == "ok").all()
    made["betas"][1, 0] = np.nan
    made["joints_3d_m"].reshape(-1, 33, 3)[2, 5, 2] = -0.1
    made["joints_3d_m"].reshape(-1, 33, 3)[3, 5, 2] = np.nan
    shifted = {**made, "camera_self_check_px": np.array([0.1, 0.1, 0.1, 0.1, 0.7])}
    assert failures(shifted).tolist()[4] == "camera_inconsistent"
    status = failures(made)
    assert status.tolist() == ["ok", "not_finite", "behind_camera", "not_finite", "ok"]
    identity = {name: [f"{name}{row}" for row in range(5)] for name in ("sample_id", "dataset", "split", "image_id")}
    identity |= {"sample_key": list(range(5)), "person_id": [None] * 5}
    table = labels_table(identity, status=status, label=made, image_size=SIZES)
    assert table.schema.equals(tables.PSEUDO_GT) and table["status"].to_pylist() == status.tolist()
    for name in ("global_orient", "joints_3d_m", "camera_self_check_px", "keypoints_used", "flags"):
        assert [value is None for value in table[name].to_pylist()] == [False, True, True, True, False], name
    np.testing.assert_array_equal(tables.numpy_column(table, "joints_3d_m")[4], made["joints_3d_m"][4])
    assert table["reprojection_error_px"].null_count == 5, "an error over no keypoint is unknown"


def test_a_camera_far_from_the_picture_is_still_exact(annotator: Annotator) -> None:
    """Joints that the network puts outside its crop are joints all the same."""
    torch.manual_seed(3)
    annotator.regressor.get_parameter("camera.bias").data[:2] += 2.0
    with torch.no_grad():
        away = annotator(torch.rand(len(BOXES), 3, 96, 64))
    annotator.regressor.get_parameter("camera.bias").data[:2] -= 2.0
    assert label(annotator, away)["camera_self_check_px"].max() < 0.5
