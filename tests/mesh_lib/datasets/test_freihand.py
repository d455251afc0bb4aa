"""FreiHAND: four backgrounds share a label, the right hand alone has MANO, and K takes points to pixels."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.body.joints import RIGHT_HAND21
from mesh_lib.datasets.freihand import FreiHand
from mesh_lib.datasets.people import ITW_3D, MOCAP, LocalFiles, Person

K = [[480.0, 0.0, 112.0], [0.0, 481.0, 112.0], [0.0, 0.0, 1.0]]
LABELS = 3


def points(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(0, 0.05, (21, 3)) + [0.01, 0.02, 0.7]


def write(folder: Path, subset: str = "training", **spoil: Any) -> None:
    lists = {
        "K": [K] * LABELS,
        "xyz": [points(i).tolist() for i in range(LABELS)],
        "mano": [[[0.01 * i, *[0.2] * 47, *[0.5] * 10, 112, 110, 0.7]] for i in range(LABELS)],
    } | spoil
    for name, values in lists.items():
        if values is not None:
            (folder / f"{subset}_{name}.json").write_text(values if isinstance(values, str) else json.dumps(values))


def read(folder: Path, **options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = FreiHand(folder=str(folder), **options)
    return [p for unit in reader.units(LocalFiles()) for p in reader.people(unit, LocalFiles(), skipped)], skipped


def test_each_label_comes_with_four_backgrounds_under_one_sequence(tmp_path: Path) -> None:
    write(tmp_path)
    found, skipped = read(tmp_path)
    assert {p.image_id: p.sequence for p in found} == {f"{i:08d}": f"{i % LABELS:08d}" for i in range(4 * LABELS)}
    assert len(found) == 12 and not skipped and {p.supervision for p in found} == {MOCAP}
    for person in found:
        assert person.keypoints_3d_m is not None
        np.testing.assert_array_equal(person.keypoints_3d_m[:, :3], points(int(person.image_id) % LABELS))
        assert person.picture == f"{tmp_path}/training/rgb/{person.image_id}.jpg"


def test_backgrounds_can_be_chosen(tmp_path: Path) -> None:
    write(tmp_path)
    found, _ = read(tmp_path, backgrounds=(0, 2))
    assert sorted(int(p.image_id) for p in found) == [0, 1, 2, 6, 7, 8]
    for wrong in ((), (4,), (1, 1)):
        with pytest.raises(ValueError, match="backgrounds are some of"):
            FreiHand(folder="x", backgrounds=wrong)


def test_pixels_are_k_times_the_points(tmp_path: Path) -> None:
    write(tmp_path)
    (person, *_), _ = read(tmp_path)
    tip = RIGHT_HAND21.index("right_index4")
    homogeneous = np.array(K) @ points(0)[tip]
    np.testing.assert_allclose(person.keypoints_2d_px[tip], [*homogeneous[:2] / homogeneous[2], 1])


def test_the_right_hand_has_mano_and_the_left_none(tmp_path: Path) -> None:
    write(tmp_path)
    found, _ = read(tmp_path, backgrounds=(0,))
    mano = found[2].mano
    assert mano is not None and mano.valid.tolist() == [False, True]
    assert mano.pose[1].tolist() == [0.02, *[0.2] * 47] and mano.betas[1].tolist() == [0.5] * 10
    assert np.isnan(mano.transl_m).all() and np.isnan(mano.pose[0]).all() and np.isnan(mano.betas[0]).all()


def test_with_manos_file_the_wrist_lies_where_it_is_labelled(tmp_path: Path) -> None:
    write(tmp_path)
    shapedirs = np.zeros((2, 3, 10))
    shapedirs[:, 0, 0] = 0.02
    np.savez(
        tmp_path / "mano.npz", v_template=np.array([[0.09, 0.01, 0], [1.0, 0, 0]]), shapedirs=shapedirs,
        J_regressor=np.eye(2), weights=np.eye(2), kintree_table=np.array([[-1, 0], [0, 1]]), f=np.array([[0, 1, 0]]),
    )  # fmt: skip
    (person, *_), _ = read(tmp_path, mano=str(tmp_path / "mano.npz"))
    assert person.mano is not None
    rest = np.array([0.09 + 0.02 * 0.5, 0.01, 0])  # the first beta is 0.5
    np.testing.assert_allclose(person.mano.transl_m[1] + rest, points(0)[0])


def test_evaluation_has_one_picture_a_label(tmp_path: Path) -> None:
    write(tmp_path, "evaluation", mano=None)
    found, _ = read(tmp_path, subset="evaluation")
    assert [p.image_id for p in found] == ["00000000", "00000001", "00000002"]
    assert found[1].picture.endswith("/evaluation/rgb/00000001.jpg") and found[1].mano is None
    assert {p.supervision for p in found} == {ITW_3D}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"xyz": [points(0).tolist()]}, "label 1: .* have different lengths"),
        ({"mano": [[[0.0] * 61]] * 4}, "label 3: .* have different lengths"),
        ({"K": [[1, 2]] * 3}, "label 0: K has shape"),
        ({"xyz": [[[1.0, 2.0]]] * 3}, "label 0: xyz has shape"),
        ({"mano": [[[0.0] * 58]] * 3}, "label 0: mano has 58 numbers"),
        ({"xyz": "[[[1, 2"}, "training_xyz.json is not JSON of a list"),
        ({"K": "{}"}, "training_K.json is not JSON of a list"),
        ({"xyz": None}, "no label file at .*training_xyz"),
    ],
)
def test_what_is_not_freihand_is_one_clear_error(tmp_path: Path, spoil: Any, said: str) -> None:
    write(tmp_path, **spoil)
    with pytest.raises(ValueError, match=said):
        read(tmp_path)


@pytest.mark.samples
def test_the_real_pictures_of_a_label_are_those_of_its_four_backgrounds(samples_dir: Path, tmp_path: Path) -> None:
    """Label 355 of 32,560, its 2D as published; its depth is made up, 2D does not depend on it."""
    content = json.loads((samples_dir / "freihand" / "mmpose_form" / "freihand_2d.json").read_text())
    published = {int(a["image_id"]): np.reshape(a["keypoints"], (21, 3)) for a in content["annotations"]}
    rays = np.column_stack([(published[355][:, :2] - 112) / [480, 481], np.ones(21)]) * 0.7
    write(tmp_path, K=[K] * 32_560, xyz=[rays.tolist()] * 356, mano=None)
    reader = FreiHand(folder=str(tmp_path))
    found = list(islice(reader.people("training", LocalFiles(), Counter()), 355 * 4, 356 * 4))
    assert {p.sequence for p in found} == {"00000355"}
    assert sorted(int(p.image_id) for p in found) == sorted(published)
    off = [np.abs(p.keypoints_2d_px[:, :2] - published[int(p.image_id)][:, :2]).max() for p in found]
    sys.stdout.write(f"2D of the four pictures: {max(off):.1e} px from what was published\n")
    assert max(off) < 1e-9
    for person in found:
        assert (samples_dir / "freihand" / Path(person.picture).relative_to(tmp_path)).exists()
    # A hand: every finger's joints lie in a row, the wrist is furthest from the fingertips.
    at = dict(zip(RIGHT_HAND21.names, published[355][:, :2], strict=True))
    for finger in ("index", "middle", "ring", "pinky"):
        from_wrist = [np.linalg.norm(at[f"right_{finger}{i}"] - at["right_wrist"]) for i in (1, 2, 3, 4)]
        assert from_wrist == sorted(from_wrist), finger


@pytest.mark.samples
def test_the_owners_intrinsics_are_read_whole(samples_dir: Path, tmp_path: Path) -> None:
    matrices = json.loads((samples_dir / "freihand" / "evaluation_K.json").read_text())
    write(tmp_path, "evaluation", K=matrices, xyz=[points(0).tolist()] * len(matrices), mano=None)
    found, _ = read(tmp_path, subset="evaluation")
    assert len(found) == 3960
    cameras = [p.camera for p in found if p.camera is not None]
    assert {tuple(c.princpt_px) for c in cameras} == {(112.0, 112.0)}
    focal = np.stack([c.focal_px for c in cameras])
    assert 200 < focal.min() < focal.max() < 1140 and np.abs(focal[:, 0] - focal[:, 1]).max() < 1.6
