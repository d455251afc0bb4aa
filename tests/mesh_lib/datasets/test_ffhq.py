"""FFHQ: landmarks of the picture that was asked for, and of no other."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mesh_lib.datasets.ffhq import FFHQ68, Ffhq
from mesh_lib.datasets.people import LocalFiles, Person

CORNER = FFHQ68.index("left_mouth_corner")


def face(center: tuple[float, float], size: float) -> list[list[float]]:
    """68 landmarks: an ellipse of that width about a centre, the mouth's left corner at its middle."""
    angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = np.stack([center[0] + size / 2 * np.cos(angles), center[1] + 0.6 * size * np.sin(angles)], axis=1)
    points[CORNER] = center
    return points.tolist()


def record(number: int = 3, **changed: Any) -> dict[str, Any]:
    name = f"00000/{number:05d}.png"
    return {
        "category": "training",
        "metadata": {"photo_url": "https://www.flickr.com/photos/x/1/", "license": "CC BY 2.0"},
        "image": {
            "file_path": f"images1024x1024/{name}", "pixel_size": [1024, 1024],
            "face_landmarks": face((519.5, 503.5), 500),
        },
        "thumbnail": {"file_path": f"thumbnails128x128/{name}", "pixel_size": [128, 128]},
        "in_the_wild": {
            "file_path": f"in-the-wild-images/{name}", "pixel_size": [2016, 1512],
            "face_rect": [667, 410, 1438, 1181], "face_landmarks": face((1050.0, 800.0), 600),
            "face_quad": [[450, 200], [450, 1400], [1650, 1400], [1650, 200]],
        },
        **changed,
    }  # fmt: skip


def read(path: Path, content: dict[str, Any] | None = None, **options: Any) -> tuple[list[Person], Counter[str]]:
    if content is not None:
        path.write_text(json.dumps(content))
    skipped: Counter[str] = Counter()
    reader = Ffhq(annotations=str(path), folder="ffhq", **options)
    (unit,) = reader.units(LocalFiles())
    return list(reader.people(unit, LocalFiles(), skipped)), skipped


@pytest.mark.parametrize(
    ("pictures", "path", "corner", "box"),
    [
        ("images1024x1024", "images1024x1024/00000/00003.png", (519.5, 503.5), None),
        # Pixel edges: 520 and 504 of 1024 are 65 and 63 of 128; half a pixel less is where their centres are counted.
        ("thumbnails128x128", "thumbnails128x128/00000/00003.png", (64.5, 62.5), None),
        ("in_the_wild", "in-the-wild-images/00000/00003.png", (1050, 800), (667, 410, 771, 771)),
    ],
)
def test_landmarks_are_those_of_the_picture(
    tmp_path: Path, pictures: str, path: str, corner: tuple[float, float], box: tuple[float, ...] | None
) -> None:
    (person,), skipped = read(tmp_path / "x.json", {"3": record()}, pictures=pictures)
    assert (person.image_id, person.person_id, person.picture) == ("3", "0", f"ffhq/{path}") and not skipped
    np.testing.assert_allclose(person.keypoints_2d_px[CORNER], (*corner, 1))
    assert person.keypoints_2d_px[:, 2].sum() == 68
    assert (person.bbox_xywh_px is None) == (box is None)
    if box:
        np.testing.assert_array_equal(person.bbox_xywh_px, box)  # type: ignore[arg-type]


def test_a_dot_of_the_aligned_picture_is_found_under_the_thumbnails_landmark(tmp_path: Path) -> None:
    """The picture itself reduced, as thumbnails are: where does what is at a landmark go?"""
    aligned = np.zeros((1024, 1024), np.float32)
    aligned[500:508, 516:524] = 1  # pixels 516 … 523 have their middle at 519.5
    thumbnail = cv2.resize(aligned, (128, 128), interpolation=cv2.INTER_AREA)
    y, x = (float((np.indices(thumbnail.shape)[axis] * thumbnail).sum() / thumbnail.sum()) for axis in (0, 1))
    (person,), _ = read(tmp_path / "x.json", {"3": record()}, pictures="thumbnails128x128")
    np.testing.assert_allclose(person.keypoints_2d_px[CORNER, :2], (x, y), atol=1e-5)


def test_landmarks_run_from_the_persons_right_to_the_left() -> None:
    assert FFHQ68.names[0] == "right_jaw1" and FFHQ68.names[16] == "left_jaw1" and FFHQ68.names[8] == "chin"
    assert (FFHQ68.index("right_eye_outer_corner"), FFHQ68.index("left_eye_outer_corner")) == (36, 45)


@pytest.mark.parametrize(("category", "kept"), [("training", ["0"]), ("validation", ["1"]), ("all", ["0", "1"])])
def test_the_owners_split(tmp_path: Path, category: str, kept: list[str]) -> None:
    content = {"0": record(0), "1": record(1, category="validation")}
    found, skipped = read(tmp_path / "x.json", content, subset=category)
    assert [person.image_id for person in found] == kept
    assert skipped == ({} if category == "all" else {f"not_{category}": 1})


def test_a_small_face_in_a_large_picture_fits(tmp_path: Path) -> None:
    """What counts is the face's quad, not the whole picture's size."""
    quad = [[900, 900], [900, 1300], [1300, 1300], [1300, 900]]
    far = changed("in_the_wild", pixel_size=[5000, 4000], face_landmarks=face((1100, 1100), 200), face_quad=quad)
    found, skipped = read(tmp_path / "x.json", {"3": far}, pictures="in_the_wild")
    assert len(found) == 1 and not skipped


def changed(field: str, **values: Any) -> dict[str, Any]:
    given = record()
    return given | {field: {k: v for k, v in (given[field] | values).items() if v is not None}}


@pytest.mark.parametrize(
    ("pictures", "wrong", "reason"),
    [
        ("in_the_wild", {"in_the_wild": None}, "no_in_the_wild"),
        ("thumbnails128x128", {"thumbnail": {}}, "no_thumbnail"),
        ("images1024x1024", changed("image", face_landmarks=[[1, 2]] * 67), "malformed_landmarks"),
        ("images1024x1024", changed("image", face_landmarks=[[1, float("nan")]] * 68), "malformed_landmarks"),
        ("images1024x1024", changed("image", face_landmarks="none"), "malformed_landmarks"),
        ("images1024x1024", changed("image", face_landmarks=[[10**400, 1]] * 68), "malformed_landmarks"),
        ("in_the_wild", changed("in_the_wild", pixel_size=None), "malformed_landmarks"),
        ("in_the_wild", changed("in_the_wild", face_quad=None), "malformed_landmarks"),
        ("thumbnails128x128", changed("image", pixel_size=None), "malformed_landmarks"),
        ("thumbnails128x128", changed("image", pixel_size=[0, 1024]), "malformed_landmarks"),
        # Landmarks of another kind of picture: of a thumbnail, of a larger picture, of the whole picture.
        ("images1024x1024", changed("image", face_landmarks=face((64, 64), 62)), "landmarks_do_not_fit"),
        ("images1024x1024", changed("image", face_landmarks=face((2000, 2000), 1800)), "landmarks_do_not_fit"),
        ("images1024x1024", changed("image", face_landmarks=face((1500, 800), 600)), "landmarks_do_not_fit"),
        ("in_the_wild", changed("in_the_wild", face_landmarks=face((64, 64), 62)), "landmarks_do_not_fit"),
    ],
)
def test_faces_left_out_are_counted_by_reason(
    tmp_path: Path, pictures: str, wrong: dict[str, Any], reason: str
) -> None:
    content = {"2": record() | wrong, "3": record()}
    found, skipped = read(tmp_path / "x.json", content, pictures=pictures)
    assert [person.image_id for person in found] == ["3"] and skipped == {reason: 1}


@pytest.mark.parametrize("rect", [None, [1, 2, 3], [5, 5, 5, 9], ["a", 1, 2, 3]])
def test_a_face_without_a_rectangle_has_no_box(tmp_path: Path, rect: Any) -> None:
    content = {"3": changed("in_the_wild", face_rect=rect)}
    (person,), _ = read(tmp_path / "x.json", content, pictures="in_the_wild")
    assert person.bbox_xywh_px is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"), (b"[]", "not JSON of an object"), (b'{"0": ', "truncated"),
        (b'{"images": [], "annotations": []}', "'images' is no picture of FFHQ"), (b'{"0": {}}', "no picture of FFHQ"),
    ],
)  # fmt: skip
def test_what_is_not_ffhq_is_one_clear_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json") as error:
        read(tmp_path / "x.json")
    assert said in str(error.value)


def test_a_name_that_leaves_the_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the folder"):
        read(tmp_path / "x.json", {"3": changed("image", file_path="../../etc/passwd")})
    with pytest.raises(ValueError, match=r"none\.json[\s\S]*fix:"):
        read(tmp_path / "none.json")
