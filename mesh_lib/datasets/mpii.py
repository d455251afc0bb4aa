"""MPII Human Pose: 16 joints of people in frames of YouTube's videos. The owners' .mat, and the JSON made from it.

Andriluka et al., 2014 (http://human-pose.mpi-inf.mpg.de): `mpii_human_pose_v1_u12_1.mat` and `images/*.jpg`. Licence:
annotations Simplified BSD, pictures for non-commercial research only. What the file is, is told by looking at it:

- the owners' MATLAB file: every image, every person. Joints that are listed are labelled, also those that `is_visible`
  calls hidden; `is_visible` is a number, a character or absent, and not read. People of test images have no joints and
  are left out. Order and number of the joints vary: each says its own id.
- HRNet's (MSRA's) `annot/{train,valid,trainval,test}.json`: a list of image, joints, joints_vis, center, scale. Joints
  with joints_vis 0 are not labelled: they lie at (-1, -1).
- CPM's `mpii_annotations.json`: a list, alone or as `root`, of img_paths, joint_self, isValidation and more. Joints at
  (0, 0) are not labelled; the third number says which of the others are hidden, and is not read.
- a COCO-like file, as Moon's: 16 joints as x, y, v.

Pixels are MATLAB's in the first three, which count from 1 as HRNet's code says of them: 1 is subtracted. COCO's count
from 0. The 16 joints come in one order in all. There are no boxes of people (the .mat has heads): `objpos` and `scale`,
the person's height by 200 px, make one as HRNet does, a square of 200 scale about objpos moved down by 15 scale;
without them the keypoints' box takes its place. Ids: the picture's name and the owners' number of the person, from 1
(ridx of single_person, people_index of CPM); HRNet's form does not tell it, its people are counted in each picture;
COCO-like files keep their own ids. The standard split of training and validation (Tompson et al., 2014) is one file
each in HRNet's form and a mark in CPM's; the .mat gives all of the owners' training images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.coco_like import CocoLike
from mesh_lib.datasets.matlab import entry, load_mat
from mesh_lib.datasets.people import Files, Person, Reader, below, need

MPII16 = JointSet(
    "mpii16",
    (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist",
    ),
)  # fmt: skip

Form = Literal["mat", "hrnet", "cpm", "cpm_root", "coco"]
Subset = Literal["train", "validation", "all"]
EXPECTED = (
    "MPII's mpii_human_pose_v1_u12_1.mat (RELEASE.annolist, RELEASE.img_train), HRNet's annot/*.json, "
    "CPM's mpii_annotations.json or a COCO-like file"
)
FIX = f"pass {EXPECTED} (http://human-pose.mpi-inf.mpg.de)"

MOST_PX = 1e6
"""A place or a height beyond this is none."""


@dataclass(frozen=True, kw_only=True)
class Mpii(Reader):
    """MPII Human Pose."""

    annotations: str
    """mpii_human_pose_v1_u12_1.mat, or one of the JSON forms: HRNet's, CPM's, COCO-like."""
    images: str
    """Folder of the pictures."""
    subset: Subset = "train"
    """Whom to read of a file in CPM's form, which marks validation; files in other forms are read whole."""
    one_based: bool | None = None
    """Whether pixels count from 1; by default in every form but the COCO-like."""

    @property
    def joint_set(self) -> JointSet:
        return MPII16

    @property
    def inputs(self) -> Sequence[str]:
        return self.annotations, self.images

    def units(self, files: Files) -> list[str]:
        return [need(files, self.annotations, what="annotation file", fix=FIX)]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        form = which_form(files, unit)
        if self.subset == "validation" and not form.startswith("cpm"):
            raise ValueError(
                f"{unit} does not mark who is validation\n  fix: pass HRNet's annot/valid.json, or CPM's file"
            )
        if form == "coco":
            yield from self._coco(unit, files, skipped)
            return
        for found in FORMS[form](files, unit, skipped):
            if self.subset != "all" and found.validation != (self.subset == "validation"):
                skipped[f"not_{self.subset}"] += 1
                continue
            yield self._person(found, shift=float(self.one_based in (None, True)))

    def _person(self, found: _Found, *, shift: float) -> Person:
        labelled = found.labelled[:, None]
        return Person(
            image_id=found.image,
            person_id=str(found.number),
            picture=below(self.images, found.image, where=self.annotations),
            keypoints_2d_px=np.where(labelled, np.hstack([found.joints - shift, labelled]), 0.0),
            bbox_xywh_px=box_of(found.center - shift, found.scale),
        )

    def _coco(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        file = CocoLike(annotations=unit, images=self.images, joints=MPII16, fix=FIX)
        for person in file.people(unit, files, skipped):
            if not self.one_based:
                yield person
                continue
            box = person.bbox_xywh_px
            yield replace(
                person,
                keypoints_2d_px=person.keypoints_2d_px - [1.0, 1.0, 0.0],
                bbox_xywh_px=None if box is None else box - [1.0, 1.0, 0.0, 0.0],
            )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A person as a file has them, in its pixels."""

    image: str
    number: int
    joints: np.ndarray
    labelled: np.ndarray
    center: np.ndarray
    scale: float
    validation: bool = False


def box_of(center: np.ndarray, scale: float) -> np.ndarray | None:
    """HRNet's square around a person, xywh; None where the file does not know their place or height."""
    if not (((center >= 0) & (center < MOST_PX)).all() and 0 < 200.0 * scale < MOST_PX):
        return None
    side = 200.0 * scale
    return np.array([center[0] - side / 2, center[1] + 15.0 * scale - side / 2, side, side])


def which_form(files: Files, path: str) -> Form:
    """What kind of file it is. Raises ValueError for one that is none of those that are known."""
    with files.open(path) as stream:
        head = stream.read(128)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"MATLAB"):
        return "mat"
    if head.startswith(b"\x89HDF"):
        raise ValueError(f"{path} is HDF5 (PyraNet's form?), which lacks what tells people apart\n  fix: {FIX}")
    with files.open(path) as stream:
        if text.startswith(b"{"):
            name, *_ = next(json_stream.entries(stream, where=path, expected=f"\n  expected: {EXPECTED}"), ("",))
            return "cpm_root" if name == "root" else "coco"
        if text.startswith(b"["):
            first = next(json_stream.elements(stream, where=path), {"image": ""})
            if isinstance(first, dict) and "joint_self" in first:
                return "cpm"
            if isinstance(first, dict) and "image" in first:
                return "hrnet"
    raise ValueError(f"{path} is no annotation file of MPII\n  expected: {EXPECTED}")


def _hrnet(files: Files, path: str, skipped: Counter[str]) -> Iterator[_Found]:
    people: Counter[str] = Counter()
    with files.open(path) as stream:
        for i, record in enumerate(json_stream.elements(stream, where=path)):
            if not isinstance(record, dict) or not isinstance(record.get("image"), str):
                raise ValueError(f"{path}: entry {i} names no image\n  expected: {EXPECTED}")
            people[record["image"]] += 1
            if "joints" not in record:  # test.json
                skipped["no_joints"] += 1
                continue
            joints = _numbers(record["joints"], (16, 2))
            visible = _numbers(record.get("joints_vis"), (16,))
            if joints is None or visible is None:
                skipped["malformed_keypoints"] += 1
                continue
            yield _Found(
                image=record["image"],
                number=people[record["image"]],
                joints=joints,
                labelled=visible > 0,
                **_place(record.get("center"), record.get("scale")),
            )


def _cpm(files: Files, path: str, skipped: Counter[str]) -> Iterator[_Found]:
    with files.open(path) as stream:
        yield from _cpm_records(json_stream.elements(stream, where=path), path, skipped)


def _cpm_root(files: Files, path: str, skipped: Counter[str]) -> Iterator[_Found]:
    with files.open(path) as stream:
        records = (record for *_, record in json_stream.entries(stream, "root", where=path))
        yield from _cpm_records(records, path, skipped)


def _cpm_records(records: Iterator[Any], path: str, skipped: Counter[str]) -> Iterator[_Found]:
    for i, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("img_paths"), str):
            raise ValueError(f"{path}: entry {i} names no img_paths\n  expected: {EXPECTED}")
        joints, number = _numbers(record.get("joint_self"), (16, 3)), _numbers(record.get("people_index"), ())
        if not str(record.get("dataset", "MPI")).startswith("MPI"):
            skipped["other_dataset"] += 1
        elif joints is None:
            skipped["malformed_keypoints"] += 1
        elif number is None or not np.isfinite(number):
            skipped["no_people_index"] += 1
        else:
            yield _Found(
                image=record["img_paths"],
                number=int(number),
                joints=joints[:, :2],
                labelled=np.asarray(~(joints[:, :2] <= 0).all(axis=1)),
                validation=bool(record.get("isValidation")),
                **_place(record.get("objpos"), record.get("scale_provided")),
            )


def _mat(files: Files, path: str, skipped: Counter[str]) -> Iterator[_Found]:
    release = load_mat(files, path, "RELEASE", expected=EXPECTED)["RELEASE"]
    images = entry(release, "annolist", where=f"{path}: RELEASE").ravel()
    train = entry(release, "img_train", where=f"{path}: RELEASE").ravel()
    if train.shape != images.shape:
        raise ValueError(f"{path}: annolist has {len(images)} images, img_train {len(train)}\n  expected: {EXPECTED}")
    for i, (image, is_train) in enumerate(zip(images, train, strict=True)):
        name = _field(_field(image, "image"), "name")
        if name is None or name.dtype.kind != "U":
            raise ValueError(f"{path}: annolist({i + 1}) names no image\n  expected: {EXPECTED}")
        people = _field(image, "annorect")
        for number, person in enumerate(() if people is None else people.ravel(), 1):
            points = _field(_field(person, "annopoints"), "point")
            if not is_train or points is None:
                skipped["no_joints" if is_train else "test_image"] += 1
                continue
            joints, labelled = np.zeros((16, 2)), np.zeros(16, bool)
            ids = [_number(point, "id") for point in points.ravel()]
            if not set(ids) <= set(range(16)):
                skipped["malformed_keypoints"] += 1
                continue
            for k, point in zip(map(int, ids), points.ravel(), strict=True):
                joints[k], labelled[k] = (_number(point, "x"), _number(point, "y")), True
            place = _field(person, "objpos")
            yield _Found(
                image=str(name.flat[0]),
                number=number,
                joints=joints,
                labelled=labelled,
                **_place([_number(place, "x"), _number(place, "y")], _number(person, "scale")),
            )


def _field(struct: Any, name: str) -> np.ndarray | None:
    """A field of a MATLAB struct; None where it is absent or empty: both occur, for a joint as for a whole image."""
    if isinstance(struct, np.ndarray):
        struct = struct.flat[0] if struct.size else None
    if not isinstance(struct, np.void) or name not in (struct.dtype.names or ()):
        return None
    value = struct[name]
    return value if isinstance(value, np.ndarray) and value.size else None


def _number(struct: Any, name: str) -> float:
    """A field that is one number, or a character that is one; NaN where it is not."""
    value = _field(struct, name)
    try:
        return float("nan" if value is None else value.flat[0])
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if numbers.shape == shape else None


def _place(center: Any, scale: Any) -> dict[str, Any]:
    """Centre and height of a person; NaN where the file has none."""
    at, height = _numbers(center, (2,)), _numbers(scale, ())
    return {
        "center": np.full(2, np.nan) if at is None else at,
        "scale": float("nan") if height is None else float(height),
    }


FORMS = {"mat": _mat, "hrnet": _hrnet, "cpm": _cpm, "cpm_root": _cpm_root}
"""How each form is read, but for the COCO-like."""
