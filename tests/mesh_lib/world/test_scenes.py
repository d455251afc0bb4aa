"""Scenes: the truth that goes with a picture is the truth of that picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.body.joints import BODY33
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.render.raster import cast
from mesh_lib.world.backgrounds import find_photos
from mesh_lib.world.poses import Poses, sample_poses
from mesh_lib.world.scenes import DOMAINS, Domain, OpenWorld, Sample

INDICES = range(6)
TWO: tuple[Domain, Domain] = ("studio", "street")


@pytest.fixture(scope="module")
def world(body: Body) -> OpenWorld:
    return OpenWorld(body, seed=3, size=160)


@pytest.fixture(scope="module")
def samples(world: OpenWorld) -> dict[str, list[Sample]]:
    return {domain: [world.render(domain, index) for index in INDICES] for domain in DOMAINS}


def every(samples: dict[str, list[Sample]]) -> list[Sample]:
    return [sample for group in samples.values() for sample in group]


def inputs(sample: Sample) -> dict[str, torch.Tensor]:
    rotvecs = np.concatenate([sample.global_orient, sample.body_pose]).reshape(24, 3)
    return {"rotmats": rotvec_to_rotmat(torch.from_numpy(rotvecs)), "betas": torch.from_numpy(sample.betas)}


def test_3d_keypoints_project_onto_the_2d_keypoints(samples: dict[str, list[Sample]]) -> None:
    for sample in every(samples):
        points = sample.keypoints_3d_m[:, :3].astype(np.float64)
        pixels = points[:, :2] / points[:, 2:] * sample.focal_px + sample.princpt_px
        assert np.abs(pixels - sample.keypoints_2d_px[:, :2]).max() < 0.01


def test_the_smpl_truth_gives_the_3d_keypoints(samples: dict[str, list[Sample]], body: Body) -> None:
    layer = KeypointLayer(body, BODY33)
    for sample in every(samples):
        points = layer(**inputs(sample)).numpy() + sample.transl_m
        assert np.abs(points - sample.keypoints_3d_m[:, :3]).max() < 1e-4


def test_the_smpl_truth_covers_the_persons_pixels_and_no_others(samples: dict[str, list[Sample]], body: Body) -> None:
    layer = BodyLayer(body)
    for domain, sample in ((domain, sample) for domain, group in samples.items() for sample in group):
        vertices = layer(**inputs(sample)).vertices_m.numpy() + sample.transl_m
        height, width = sample.person.shape
        hits = cast(
            vertices, body.faces, focal_px=sample.focal_px, princpt_px=sample.princpt_px, size_wh=(width, height)
        )
        assert (sample.person & ~hits.mask).sum() <= 0.005 * hits.mask.sum() + 1
        if domain == "studio":  # nothing stands in front there
            assert (hits.mask & ~sample.person).sum() <= 0.005 * hits.mask.sum() + 1


def test_the_person_looks_different_from_what_is_around(world: OpenWorld) -> None:
    """The picture shows the person where the mask says: its pixels change when the person's pose does not."""
    sample = world.render("studio", 1)
    inside = sample.image[sample.person].astype(float)
    ring = cv2.dilate(sample.person.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~sample.person
    assert np.linalg.norm(inside.mean(0) - sample.image[ring].astype(float).mean(0)) > 15


def test_visible_keypoints_lie_in_the_picture_and_enough_are_visible(samples: dict[str, list[Sample]]) -> None:
    for sample in every(samples):
        seen = sample.keypoints_2d_px[:, 2] > 0
        assert set(np.unique(sample.keypoints_2d_px[:, 2])) <= {0.0, 1.0}
        assert seen.sum() >= 8
        spots = sample.keypoints_2d_px[seen, :2]
        assert (spots >= -0.5).all() and (spots <= 159.5).all()
        x, y, w, h = sample.bbox_xywh_px
        assert x >= 0 and y >= 0 and x + w <= 160 and y + h <= 160
        assert (spots[:, 0] >= x - 0.51).all() and (spots[:, 0] <= x + w + 0.51).all()


def test_everyone_is_in_front_of_the_camera(samples: dict[str, list[Sample]]) -> None:
    for sample in every(samples):
        assert (sample.keypoints_3d_m[:, 2] > 0.3).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_sample_depends_on_seed_domain_and_index_alone(domain: Domain, world: OpenWorld, body: Body) -> None:
    fresh = OpenWorld(body, seed=3, size=160)
    first, again = world.render(domain, 5), fresh.render(domain, 5)  # one has drawn others before, one has not
    assert first.jpeg() == again.jpeg()
    assert np.array_equal(first.keypoints_3d_m, again.keypoints_3d_m)
    other = OpenWorld(body, seed=4, size=160).render(domain, 5)
    assert not np.array_equal(first.image, other.image)


def test_the_street_has_occlusion_and_truncation_and_the_studio_has_neither(world: OpenWorld) -> None:
    hidden = {
        domain: np.mean([(world.render(domain, i).keypoints_2d_px[:, 2] == 0).any() for i in range(30)])
        for domain in TWO
    }
    assert hidden["studio"] == 0 and 0.1 < hidden["street"] < 0.9


def test_the_street_looks_more_varied_than_the_studio(world: OpenWorld) -> None:
    colours = {
        domain: np.array([world.render(domain, i).image.reshape(-1, 3).mean(0) for i in range(30)]) for domain in TWO
    }
    assert colours["street"].std(0).mean() > 2 * colours["studio"].std(0).mean()


def test_the_users_photos_replace_the_places(tmp_path: Path, body: Body) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((200, 300, 3), (10, 20, 200), np.uint8))
    world = OpenWorld(body, seed=0, size=128, photos=find_photos(tmp_path))
    corner = np.median([world.render("street", i).image[:4, :4].mean((0, 1)) for i in range(9)], axis=0)
    assert corner[0] > 4 * corner[1]


def test_a_background_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        find_photos(tmp_path)


def test_motion_capture_is_mixed_in_and_its_last_clips_are_kept_for_the_test(body: Body) -> None:
    drawn = sample_poses(50, seed=9)
    marked = drawn.body_pose_rotvec.copy()
    marked[:, 22] = np.arange(50)[:, None] * 0.001  # SMPL's right hand tells which frame was taken
    cuts = (0, 15, 24, 32, 43, 50)
    clips = [Poses(marked[a:b], drawn.global_orient_rotvec[a:b], np.full(b - a, "mocap")) for a, b in pairwise(cuts)]
    world = OpenWorld(body, seed=0, size=64, mocap=clips)
    expected: tuple[tuple[Domain, int, int], ...] = (("street", 0, 42), ("street_test", 43, 49))
    for domain, low, high in expected:
        taken = [s for s in (world.render(domain, i) for i in range(24)) if s.activity == "mocap"]
        frames = [round(float(s.body_pose[-1]) * 1000) for s in taken]
        assert 4 < len(frames) < 20 and low <= min(frames) and max(frames) <= high
