"""InstaVariety: tracks of frames out of TFRecords that are written here by hand."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.datasets.instavariety import INSTAVARIETY25, InstaVariety
from mesh_lib.datasets.people import LocalFiles, Person


def crc32c(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    def mask(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(data))
    return length + mask(length) + data + mask(data)


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: Any) -> bytes:
    """A list of bytes, or an array of floats or of integers."""
    if isinstance(values, list):
        return field(1, b"".join(field(1, value) for value in values))
    flat = np.asarray(values).ravel()
    if flat.dtype.kind == "f":
        return field(2, field(1, flat.astype("<f4").tobytes()))
    return field(3, field(1, b"".join(varint(int(value)) for value in flat)))


def track(frames: int = 3, **changed: Any) -> bytes:
    """Joint k of frame f lies at (100 k + f, 50 + k); of the body's, joint 13 is not labelled."""
    x = np.arange(25.0) * 100 + np.arange(frames)[:, None]
    xy = np.stack([x, np.broadcast_to(np.arange(25.0) + 50, x.shape)], axis=1)
    seen = np.ones((frames, 1, 25))
    seen[:, :, 13] = 0
    seen[:, :, 15] = 0.25  # left eye: OpenPose's confidence
    points = np.concatenate([xy, seen], axis=1)
    features = {
        "meta/N": np.array([frames]),
        "meta/has_3d": np.array([0]),
        "meta/has_3d_joints": np.array([0]),
        "meta/time_pts": np.array([0, frames]),
        "image/filenames": [f"/home/someone/frame{f:05d}.png".encode() for f in range(frames)],
        "image/encoded": [b"\xff\xd8picture%d\xff\xd9" % f for f in range(frames)],
        "image/heightwidths": np.full((frames, 2), 300),
        "image/xys": points[:, :2, :14].astype(np.float64),
        "image/visibilities": points[:, 2:, :14].astype(np.int64),
        "image/face_pts": points[:, :, 14:19].astype(np.float64),
        "image/toe_pts": points[:, :, 19:].astype(np.float64),
        "image/centers": np.full((frames, 2), 150),
        "mosh/gt3ds": np.zeros((frames, 14, 3)),
        "mosh/poses": np.full((frames, 72), -1.0),
        **changed,
    }
    pairs = (field(1, field(1, name.encode()) + field(2, feature(v))) for name, v in features.items() if v is not None)
    return field(1, b"".join(pairs))


def write(folder: Path, *tracks: bytes, name: str = "train_0000.tfrecord") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"".join(map(framed, tracks)))
    return folder


def read(folder: Path, **options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = InstaVariety(folder=str(folder), **options)
    units = reader.units(LocalFiles())
    return [person for unit in units for person in reader.people(unit, LocalFiles(), skipped)], skipped


@pytest.mark.parametrize(
    ("joint", "at"),
    [
        ("right_heel", 0), ("left_heel", 5), ("right_wrist", 6), ("left_wrist", 11), ("neck", 12), ("nose", 14),
        ("right_ear", 18), ("left_big_toe", 19), ("right_small_toe", 22), ("left_ankle", 23), ("right_ankle", 24),
    ],
)  # fmt: skip
def test_each_joint_is_where_its_name_is(tmp_path: Path, joint: str, at: int) -> None:
    found, _ = read(write(tmp_path, track()))
    np.testing.assert_array_equal(found[2].keypoints_2d_px[INSTAVARIETY25.index(joint)], (100 * at + 2, 50 + at, 1))


def test_confidences_are_kept_and_zero_is_not_labelled(tmp_path: Path) -> None:
    found, skipped = read(write(tmp_path, track()))
    assert found[0].keypoints_2d_px[INSTAVARIETY25.index("left_eye"), 2] == 0.25
    assert found[0].keypoints_2d_px[INSTAVARIETY25.index("head_top"), 2] == 0
    assert found[0].keypoints_2d_px[:, 2].sum() == 23.25 and not skipped


def test_frames_come_with_their_own_picture_and_ids_that_do_not_repeat(tmp_path: Path) -> None:
    write(tmp_path, track(2), track(1), name="a/x.tfrecord")
    found, _ = read(write(tmp_path, track(1), name="b/x.tfrecord"))
    assert [p.image_id for p in found] == [
        "a/x/000000/000000", "a/x/000000/000001", "a/x/000001/000000", "b/x/000000/000000",
    ]  # fmt: skip
    assert [p.image for p in found[:2]] == [b"\xff\xd8picture0\xff\xd9", b"\xff\xd8picture1\xff\xd9"]
    assert [(p.sequence, p.frame) for p in found[1:3]] == [("a/x/000000", 1), ("a/x/000001", 0)]
    assert len({p.picture for p in found}) == 4 and all(p.keypoints_3d_m is None for p in found)


def test_files_are_units_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, track(), name="a.tfrecord")
    write(tmp_path, track(), name="b.tfrecord")
    units = InstaVariety(folder=str(tmp_path)).units(LocalFiles())
    assert units == [f"{tmp_path}/a.tfrecord", f"{tmp_path}/b.tfrecord"]
    skipped: Counter[str] = Counter()
    (person, *_) = InstaVariety(folder=str(tmp_path)).people(units[1], LocalFiles(), skipped)
    assert person.image_id == "b/000000/000000"


def test_every_so_manieth_frame_is_read_and_the_others_are_counted(tmp_path: Path) -> None:
    found, skipped = read(write(tmp_path, track(5), track(4)), every=2)
    assert [p.frame for p in found] == [0, 2, 4, 0, 2] and skipped == {"not_every_frame": 4}
    with pytest.raises(ValueError, match="every is at least 1"):
        InstaVariety(folder="x", every=0)


@pytest.mark.parametrize("part", ["image/face_pts", "image/toe_pts"])
def test_faces_and_toes_may_be_absent(tmp_path: Path, part: str) -> None:
    (person,), _ = read(write(tmp_path, track(1, **{part: None})))
    off = slice(14, 19) if part == "image/face_pts" else slice(19, 25)
    assert not person.keypoints_2d_px[off].any() and person.keypoints_2d_px[:14, 2].sum() == 13


def test_what_is_no_number_stays_for_annotate_to_quarantine(tmp_path: Path) -> None:
    toes = np.full((1, 3, 6), np.nan)
    (person,), _ = read(write(tmp_path, track(1, **{"image/toe_pts": toes})))
    assert np.isnan(person.keypoints_2d_px[19, 0]) and person.keypoints_2d_px[19, 2] == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image/encoded": None}, "no image/encoded"),
        ({"image/encoded": []}, "no image/encoded"),
        ({"image/encoded": np.arange(3)}, "no image/encoded"),
        ({"meta/N": np.array([4])}, "meta/N is 4, but image/encoded has 3"),
        ({"meta/N": None}, "no meta/N"),
        ({"image/xys": np.zeros((3, 2, 13))}, "image/xys has 78 numbers; expected 3 × 2 × 14"),
        ({"image/visibilities": [b"1"]}, "no image/visibilities, or it holds no numbers"),
        ({"image/toe_pts": np.zeros((3, 2, 6))}, "image/toe_pts has 36 numbers"),
    ],
)
def test_a_record_of_other_shape_is_one_clear_error(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"train_0000\.tfrecord: record 1") as error:
        read(write(tmp_path, track(), track(**changed)))
    assert said in str(error.value)


def test_coordinates_that_are_not_pixels_are_refused(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "image/xys": np.full((3, 2, 14), 0.5), "image/face_pts": np.full((3, 3, 5), 0.5),
        "image/toe_pts": np.full((3, 3, 6), -0.5),
    }  # fmt: skip
    with pytest.raises(ValueError, match="normalised"):
        read(write(tmp_path, track(**small)))


def test_a_damaged_or_cut_file_says_which_record(tmp_path: Path) -> None:
    path = write(tmp_path, track(), track()) / "train_0000.tfrecord"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"train_0000\.tfrecord: record 1 is cut"):
        read(tmp_path)
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    with pytest.raises(ValueError, match=r"train_0000\.tfrecord: record 0 is damaged"):
        read(tmp_path)
    path.write_bytes(framed(b"no example"))
    with pytest.raises(ValueError, match=r"record 0 is no tf\.train\.Example"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("insta_train_db.h5", "VIBE"), ("insta_train_db.pt", "NeuralAnnot"), ("a.txt", r"no \*\.tfrecord")],
)
def test_forms_without_pictures_are_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"")
    for folder in {tmp_path, tmp_path / name if name != "a.txt" else tmp_path}:
        with pytest.raises(ValueError, match=said + r"[\s\S]*fix:"):
            InstaVariety(folder=str(folder)).units(LocalFiles())
