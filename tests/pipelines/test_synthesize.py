"""The open world as files: complete, readable, reproducible, and silent about what training must not know."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from pipelines import runs, storage
from pipelines.bodies import cached_body
from pipelines.mocap import gather_clips
from pipelines.synthesize import World, synthesize

SMALL = World(studio=3, street=4, street3d=2, street_test=2, size=64, seed=11)


def make(folder: Path, world: World) -> runs.Run:
    run = runs.open_run(folder, job="synthesize", settings=world)
    run.finish(result=synthesize(run, world=world, body=cached_body("low")))
    return run


@pytest.fixture(scope="module")
def run(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return make(tmp_path_factory.mktemp("world") / "run", SMALL)


def column(table: pa.Table, name: str) -> np.ndarray:
    return tables.numpy_column(table, name)


@pytest.mark.ray
def test_every_domain_has_its_rows_and_the_truth_the_same_ids(run: runs.Run) -> None:
    for domain, count in SMALL.counts().items():
        samples = storage.read_parquet(run.path(domain))
        truth = storage.read_parquet(run.path("truth", domain))
        assert samples.num_rows == count
        assert samples["sample_key"].to_pylist() == truth["sample_key"].to_pylist()
        assert samples["sample_key"].to_pylist() == [tables.sample_key(i) for i in samples["sample_id"].to_pylist()]
        assert tables.joint_set_of(storage.parquet_schema(run.path(domain)), where=domain) == BODY33


@pytest.mark.ray
def test_the_street_knows_no_3d(run: runs.Run) -> None:
    for domain in ("street", "street_test"):
        samples = storage.read_parquet(run.path(domain))
        for name in samples.column_names:
            if (name.startswith("smpl_") and name != "smpl_valid") or name in ("keypoints_3d_m", "camera"):
                assert samples[name].null_count == samples.num_rows, name
        keypoints = column(samples, "keypoints_2d_px").reshape(-1, 33, 3)
        assert not keypoints[keypoints[..., 2] == 0].any(), "what is hidden has no place either"


@pytest.mark.ray
@pytest.mark.parametrize("domain", ["studio", "street3d"])
def test_strong_rows_project_onto_their_own_keypoints(domain: str, run: runs.Run) -> None:
    samples = storage.read_parquet(run.path(domain))
    points = column(samples, "keypoints_3d_m").reshape(-1, 33, 4)[..., :3].astype(np.float64)
    for row, camera in enumerate(samples["camera"].to_pylist()):
        pixels = points[row, :, :2] / points[row, :, 2:] * camera["focal_px"] + camera["princpt_px"]
        assert np.abs(pixels - column(samples, "keypoints_2d_px").reshape(-1, 33, 3)[row, :, :2]).max() < 0.01


@pytest.mark.ray
def test_pictures_decode_to_their_stated_size(run: runs.Run) -> None:
    for data in storage.read_parquet(run.path("street"))["image"].to_pylist():
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape == (64, 64, 3)


@pytest.mark.ray
def test_the_world_does_not_depend_on_the_number_of_actors(run: runs.Run, tmp_path: Path) -> None:
    alone = make(tmp_path / "alone", World(studio=0, street=4, street3d=0, street_test=0, size=64, seed=11, actors=1))
    for folder in (("street",), ("truth", "street")):
        assert storage.read_parquet(run.path(*folder)).equals(storage.read_parquet(alone.path(*folder)))


@pytest.mark.ray
def test_a_mistake_found_by_an_actor_is_one_clear_error(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no picture")
    world = World(studio=0, street=4, street3d=0, street_test=0, size=64, backgrounds=tmp_path / "photos")
    with pytest.raises(ValueError, match=r"a\.jpg[\s\S]*fix: "):
        make(tmp_path / "world", world)


def test_a_folder_without_clips_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \.bvh or \.amc clips"):
        gather_clips(bvh_dir=tmp_path, amass_dir=None)
    with pytest.raises(ValueError, match="no AMASS clips"):
        gather_clips(bvh_dir=None, amass_dir=tmp_path)


def test_real_clips_become_poses_at_ten_a_second(samples_dir: Path) -> None:
    clips = gather_clips(bvh_dir=samples_dir / "cmu_mocap" / "bvh_3dsmax", amass_dir=None)
    assert 250 < sum(map(len, clips)) < 400, "3,715 frames at 120 a second"


@pytest.mark.parametrize(
    "wrong", [{"studio": -1}, {"size": 10}, {"studio": 0, "street": 0, "street3d": 0, "street_test": 0}]
)
def test_impossible_worlds_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"domains|size"):
        World(**wrong)  # type: ignore[arg-type]
