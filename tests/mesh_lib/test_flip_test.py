"""Flip averaging: what is symmetric stays as it is, what the network guesses shows as disagreement."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mesh_lib.body.files import Body
from mesh_lib.flip_test import flip_average, unflip
from mesh_lib.geometry.rotations import mean_rotation
from mesh_lib.nets.annotator import Annotation, Annotator
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2

SIZE = (64, 96)


@pytest.fixture(scope="module")
def annotator(body: Body) -> Annotator:
    torch.manual_seed(0)
    config = Pose2PoseConfig(backbone=18, input_width=SIZE[0], input_height=SIZE[1])
    return Annotator(config, body=body, vposer=VPoserV2()).eval()


class Consistent(Annotator):
    """Answers a crop with what is given, its mirror image with exactly the mirrored answer."""

    def __init__(self, annotator: Annotator, answer: Annotation, image: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.config, self.vposer, self.keypoints = annotator.config, annotator.vposer, annotator.keypoints
        self.answer, self.image, self.mirrored = answer, image, unflip(annotator, answer)

    def forward(self, image: torch.Tensor) -> Annotation:
        return self.answer if torch.equal(image, self.image) else self.mirrored


@torch.no_grad()
def test_a_mirrored_answer_is_seen_where_the_mirrored_pixels_are(annotator: Annotator) -> None:
    from mesh_lib.body.joints import BODY33

    answer = annotator(torch.rand(3, 3, SIZE[1], SIZE[0]))
    found = unflip(annotator, answer)
    expected = answer.joints_crop_px[:, list(BODY33.mirror)].clone()
    expected[..., 0] = SIZE[0] - 1 - expected[..., 0]
    # The open body is not perfectly symmetric, so its mirrored pose is not the mirror image to the last bit.
    assert (found.joints_crop_px - expected).abs().median() < 0.35
    twice = unflip(annotator, found)
    torch.testing.assert_close(twice.rotmats, answer.rotmats)
    torch.testing.assert_close(twice.transl_m, answer.transl_m, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_consistent_network_is_left_as_it_is(annotator: Annotator) -> None:
    image = torch.rand(4, 3, SIZE[1], SIZE[0])
    answer = annotator(image)
    consistent = Consistent(annotator, answer, image)
    tested = flip_average(consistent, image)
    torch.testing.assert_close(tested.answer.rotmats, answer.rotmats, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tested.answer.joints_m, answer.joints_m, atol=2e-4, rtol=1e-4)
    assert tested.disagreement_deg.max() < 0.1 and tested.disagreement_mm.max() < 0.1


@torch.no_grad()
def test_an_average_lies_between_and_its_disagreement_is_the_distance(annotator: Annotator) -> None:
    image = torch.rand(4, 3, SIZE[1], SIZE[0])
    tested = flip_average(annotator, image)
    plain, mirrored = annotator(image), unflip(annotator, annotator(image.flip(-1)))
    torch.testing.assert_close(tested.answer.betas, (plain.betas + mirrored.betas) / 2)
    torch.testing.assert_close(tested.answer.transl_m, (plain.transl_m + mirrored.transl_m) / 2, atol=1e-4, rtol=1e-4)
    cosine = ((plain.rotmats.transpose(-1, -2) @ mirrored.rotmats).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    expected = torch.rad2deg(cosine.double().clamp(-1, 1).acos()).mean(dim=1)
    torch.testing.assert_close(tested.disagreement_deg.double(), expected, atol=0.1, rtol=1e-2)
    assert tested.disagreement_deg.min() > 0.5, "an untrained network guesses"
    identity = tested.answer.rotmats @ tested.answer.rotmats.transpose(-1, -2)
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)
    assert tested.answer.z.shape == (4, 32)


@torch.no_grad()
def test_half_precision_is_for_the_network_alone(annotator: Annotator) -> None:
    image = torch.rand(4, 3, SIZE[1], SIZE[0])
    with torch.autocast("cpu", torch.bfloat16):
        tested = flip_average(annotator, image)
    answer = tested.answer
    assert {v.dtype for v in (answer.rotmats, answer.joints_m, answer.z, tested.disagreement_mm)} == {torch.float32}
    again = annotator.keypoints(rotmats=answer.rotmats, betas=answer.betas) + answer.transl_m[:, None]
    torch.testing.assert_close(answer.joints_m, again)


def test_an_answer_that_is_not_finite_stays_so_and_harms_no_other() -> None:
    there = torch.eye(3).repeat(2, 3, 1, 1)
    there[0, 1, 0, 0] = torch.nan
    mean = mean_rotation(there)
    assert mean[1].isnan().all() and torch.equal(mean[[0, 2]], torch.eye(3).repeat(2, 1, 1))
