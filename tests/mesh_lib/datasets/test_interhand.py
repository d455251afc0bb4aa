"""InterHand2.6M: tips first, right before left, the world seen by a camera, and the hand that is not there."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mesh_lib.body.joints import FINGERS
from mesh_lib.datasets.interhand import INTERHAND42, InterHand
from mesh_lib.datasets.people import MOCAP, LocalFiles, Person

TURN = Rotation.from_rotvec([0.2, -0.4, 0.1]).as_matrix()
POSITION = np.array([100.0, -50.0, 30.0])
WORLD = np.random.default_rng(0).normal(0, 60, (42, 3)) + [0, 0, 900]


def write(folder: Path, subset: str = "train", *, mano: Any = None, valid: Any = None, **spoil: Any) -> None:
    """One frame of capture 3, both hands, seen by one camera."""
    images = [
        {"id": 5, "file_name": "Capture3/0390_dh/cam400026/image69148.jpg", "width": 334, "height": 512, "capture": 3,
         "subject": 3, "seq_name": "0390_dh", "camera": "400026", "frame_idx": 69148}
    ]  # fmt: skip
    flags = [[1]] * 42 if valid is None else valid
    record = {"id": 9, "image_id": 5, "bbox": [1, 2, 30, 40], "joint_valid": flags, "hand_type": "interacting"}
    files = {
        "data": {"images": images, "annotations": [record]},
        "camera": {
            "3": {
                "campos": {"400026": POSITION.tolist()}, "camrot": {"400026": TURN.tolist()},
                "focal": {"400026": [1261.5, 1262.5]}, "princpt": {"400026": [155.8, 258.8]},
            }
        },
        "joint_3d": {"3": {"69148": {"world_coord": WORLD.tolist(), "joint_valid": [[True]] * 42}}},
    } | spoil  # fmt: skip
    if mano is not None:
        files["MANO_NeuralAnnot"] = {"3": {"69148": mano}}
    place = folder / "annotations" / subset
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (place / f"InterHand2.6M_{subset}_{name}.json").write_text(text)


def read(folder: Path, **options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = InterHand(folder=str(folder), **options)
    return [p for unit in reader.units(LocalFiles()) for p in reader.people(unit, LocalFiles(), skipped)], skipped


@pytest.mark.parametrize(
    ("position", "name"),
    [
        (0, "right_thumb4"), (3, "right_thumb1"), (4, "right_index4"), (16, "right_pinky4"), (20, "right_wrist"),
        (21, "left_thumb4"), (24, "left_thumb1"), (33, "left_ring4"), (40, "left_pinky1"), (41, "left_wrist"),
    ],
)  # fmt: skip
def test_tips_come_first_and_the_right_hand_before_the_left(position: int, name: str) -> None:
    assert INTERHAND42.names[position] == name
    assert INTERHAND42.mirror[position] == (position + 21) % 42


def test_points_are_the_worlds_seen_by_the_camera(tmp_path: Path) -> None:
    write(tmp_path)
    (person,), skipped = read(tmp_path)
    assert (person.image_id, person.person_id, person.frame) == ("5", "9", 69148) and not skipped
    assert person.picture == f"{tmp_path}/images/train/Capture3/0390_dh/cam400026/image69148.jpg"
    assert person.sequence == "Capture3/0390_dh" and person.supervision == MOCAP
    tip = INTERHAND42.index("left_index4")
    expected = TURN @ (WORLD[tip] - POSITION) / 1000
    assert person.keypoints_3d_m is not None and person.camera is not None
    np.testing.assert_allclose(person.keypoints_3d_m[tip], [*expected, 1])
    x, y = expected[:2] / expected[2] * [1261.5, 1262.5] + [155.8, 258.8]
    np.testing.assert_allclose(person.keypoints_2d_px[tip], [x, y, 1])
    np.testing.assert_allclose(person.camera.to_camera(WORLD[tip] / 1000), expected)


def test_a_joint_is_known_where_both_files_say_so(tmp_path: Path) -> None:
    """As single-hand frames are written: the other hand at (1, 1, 1), invalid in one file alone, too."""
    world = np.concatenate([WORLD[:21], np.ones((21, 3))])
    in_3d = {"world_coord": world.tolist(), "joint_valid": [[i not in (0, 30)] for i in range(42)]}
    write(tmp_path, valid=[[1]] * 30 + [[0]] * 12, joint_3d={"3": {"69148": in_3d}})
    (person,), _ = read(tmp_path)
    assert person.keypoints_3d_m is not None
    known = np.array([0 < i < 30 for i in range(42)])
    np.testing.assert_array_equal(person.keypoints_3d_m[:, 3], known)
    np.testing.assert_array_equal(person.keypoints_2d_px[:21, 2], known[:21])
    assert not person.keypoints_3d_m[~known].any() and not person.keypoints_2d_px[~known].any()


HAND = {"pose": [0.3, 0.1, -0.2, *[0.05] * 45], "shape": [0.5] * 10, "trans": [0.01, 0.02, 0.9]}


def test_mano_is_turned_and_the_hand_that_is_not_there_is_invalid(tmp_path: Path) -> None:
    write(tmp_path, mano={"right": HAND, "left": None})
    (person,), _ = read(tmp_path)
    mano = person.mano
    assert mano is not None and mano.valid.tolist() == [False, True]
    expected = TURN @ Rotation.from_rotvec([0.3, 0.1, -0.2]).as_matrix()
    np.testing.assert_allclose(Rotation.from_rotvec(mano.pose[1, :3]).as_matrix(), expected)
    assert mano.pose[1, 3:].tolist() == [0.05] * 45 and mano.betas[1].tolist() == [0.5] * 10
    assert np.isnan(mano.transl_m).all() and np.isnan(mano.pose[0]).all()


@pytest.mark.parametrize(("side", "option"), [(0, "mano_left"), (1, "mano_right")])
def test_with_manos_file_the_wrist_is_the_worlds_seen_by_the_camera(tmp_path: Path, side: int, option: str) -> None:
    rest = np.array([0.095, 0.006, 0.006])
    np.savez(
        tmp_path / "hand.npz", v_template=np.array([rest, rest + 1]), shapedirs=np.zeros((2, 3, 10)),
        J_regressor=np.eye(2), weights=np.eye(2), kintree_table=np.array([[-1, 0], [0, 1]]), f=np.array([[0, 1, 0]]),
    )  # fmt: skip
    write(tmp_path, mano={"right": HAND, "left": HAND})
    (person,), _ = read(tmp_path, **{option: str(tmp_path / "hand.npz")})
    assert person.mano is not None and person.mano.valid.all()
    wrist = TURN @ (rest + [0.01, 0.02, 0.9] - POSITION / 1000)
    np.testing.assert_allclose(person.mano.transl_m[side] + rest, wrist)
    assert np.isnan(person.mano.transl_m[1 - side]).all()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [({"joint_3d": {"3": {"1": {"world_coord": WORLD.tolist(), "joint_valid": [1] * 42}}}}, "no_3d"),
     ({"valid": [1, 1]}, "malformed_keypoints")],
)  # fmt: skip
def test_who_is_left_out_is_counted_by_reason(tmp_path: Path, spoil: Any, reason: str) -> None:
    write(tmp_path, **spoil)
    found, skipped = read(tmp_path)
    assert not found and skipped == {reason: 1}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"camera": {"4": {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}}}, "no camera 400026 of capture 3"),
        ({"camera": {"3": {"campos": {}}}}, "has not campos, camrot"),
        ({"camera": {"3": {"campos": {"a": 0}, "camrot": {"a": [0] * 9}, "focal": {}, "princpt": {}}}}, "no rotation"),
        ({"joint_3d": {"3": {"69148": {"world_coord": [[1, 2, 3]]}}}}, "world_coord has shape"),
        ({"joint_3d": {"3": {"69148": 7}}}, "no object with world_coord"),
        ({"joint_3d": '{"3": {"69148": {"wor'}, "truncated or damaged"),
        ({"mano": {"right": {"pose": [0] * 45}, "left": None}}, "right: pose has 45 numbers"),
    ],
)
def test_what_is_not_interhand_is_one_clear_error(tmp_path: Path, spoil: Any, said: str) -> None:
    write(tmp_path, **spoil)
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path)
    assert "InterHand2.6M_train_" in str(error.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=r"InterHand2\.6M_test_data\.json"):
        read(tmp_path, subset="test")


@pytest.mark.samples
def test_the_real_frames_lie_in_their_boxes_and_are_hands(samples_dir: Path) -> None:
    found, skipped = read(samples_dir / "interhand2.6m")
    assert [p.image_id for p in found] == ["326750", "471953"] and not skipped
    both, single = found
    assert both.keypoints_2d_px[:, 2].all() and both.sequence == "Capture3/0390_dh_touchROM"
    assert single.keypoints_2d_px[:21, 2].all() and not single.keypoints_2d_px[21:].any()
    for person in found:
        assert Path(person.picture).exists() and person.bbox_xywh_px is not None and person.keypoints_3d_m is not None
        x, y, w, h = person.bbox_xywh_px
        seen = person.keypoints_2d_px[person.keypoints_2d_px[:, 2] > 0, :2]
        # The owners' box is the joints' own, grown about its middle: its middle tells where they project them.
        off = np.abs((seen.min(0) + seen.max(0)) / 2 - [x + w / 2, y + h / 2]).max()
        grown = [w, h] / np.ptp(seen, axis=0)
        sys.stdout.write(
            f"{person.image_id}: {off:.4f} px from the box's middle, box {grown.round(3)} of the joints'\n"
        )
        assert off < 0.01 and np.ptp(grown) < 1e-3 and (grown > 1).all()
        at = dict(zip(INTERHAND42.names, person.keypoints_3d_m, strict=True))
        for side in ("right", "left"):
            if not at[f"{side}_wrist"][3]:
                continue
            for finger in FINGERS:
                chain = np.stack([at[f"{side}_{finger}{i}"][:3] for i in (1, 2, 3, 4)])
                bones = np.linalg.norm(np.diff(chain, axis=0), axis=1)
                assert 0.012 < bones.min() < bones.max() < 0.065, (side, finger)
            middle = np.linalg.norm(at[f"{side}_middle1"][:3] - at[f"{side}_wrist"][:3])
            assert 0.07 < middle < 0.11
