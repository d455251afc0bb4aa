"""MuPoTS-3D: its camera is found, its wrong labels are not trusted, its invalid frames are counted."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from mesh_lib.datasets.mupots import MUPOTS17, Mupots
from mesh_lib.datasets.people import LocalFiles, Person

FOCAL, PRINCPT = np.array([1500.0, 1490.0]), np.array([1000.0, 1040.0])
NECK, SPINE = MUPOTS17.index("neck"), MUPOTS17.index("spine")


def struct(**fields: Any) -> np.ndarray:
    made = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        made[name][0, 0] = value
    return made


def write(folder: Path, *, frames: int = 3, people: int = 2, spoil: Any = None) -> np.ndarray:
    """TS3 in the owners' layout; returns the points, mm. Frame 1 of person 1 is invalid; joint 15's 2D is wrong."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 400, (frames, people, 17, 3)) + [0, 0, 3500]
    pixels = points[..., :2] / points[..., 2:] * FOCAL + PRINCPT
    pixels[:, :, SPINE] += 80
    cells, hidden = np.empty((frames, people), object), np.empty((frames, people), object)
    for f, p in np.ndindex(frames, people):
        cells[f, p] = struct(
            annot2=pixels[f, p].T,
            annot3=points[f, p].T,
            univ_annot3=points[f, p].T * 0.9,
            isValidFrame=np.array([[(f, p) != (1, 1)]], np.uint8),
        )
        hidden[f, p] = (np.arange(17)[None] == NECK).astype(np.uint8)
    if spoil:
        spoil(cells)
    (folder / "TS3").mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "TS3" / "annot.mat", {"annotations": cells}, do_compression=True)
    scipy.io.savemat(folder / "TS3" / "occlusion.mat", {"occlusion_labels": hidden})
    return points


def read(folder: Path, unit: str | None = None, **options: Any) -> tuple[list[Person], Counter[str]]:
    skipped: Counter[str] = Counter()
    reader = Mupots(folder=str(folder), **options)
    units = [unit] if unit else reader.units(LocalFiles())
    return [person for u in units for person in reader.people(u, LocalFiles(), skipped)], skipped


def test_the_intrinsics_are_found_in_spite_of_a_joint_that_is_wrong_everywhere(tmp_path: Path) -> None:
    write(tmp_path)
    (person, *_), _ = read(tmp_path)
    assert person.camera is not None
    np.testing.assert_allclose(person.camera.focal_px, FOCAL, rtol=1e-9)
    np.testing.assert_allclose(person.camera.princpt_px, PRINCPT, rtol=1e-9)


def test_a_2d_joint_far_from_its_3d_joint_is_not_trusted_and_its_3d_stays(tmp_path: Path) -> None:
    points = write(tmp_path)
    (person, *_), _ = read(tmp_path)
    assert person.keypoints_2d_px[SPINE, 2] == 0 and person.keypoints_2d_px[:, 2].sum() == 16
    assert person.keypoints_3d_m is not None
    np.testing.assert_allclose(person.keypoints_3d_m[SPINE], [*points[0, 0, SPINE] / 1000, 1])


def test_who_is_invalid_is_counted_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    write(tmp_path)
    found, skipped = read(tmp_path)
    assert skipped == {"invalid_frame": 1}
    assert [(p.image_id, p.person_id) for p in found] == [
        ("TS3/img_000000", "0"), ("TS3/img_000000", "1"), ("TS3/img_000001", "0"),
        ("TS3/img_000002", "0"), ("TS3/img_000002", "1"),
    ]  # fmt: skip
    assert found[2].picture == f"{tmp_path}/TS3/img_000001.jpg" and found[2].frame == 1


@pytest.mark.parametrize("confidence", [1.0, 0.25])
def test_hidden_joints_have_the_confidence_that_was_asked_for_and_their_3d(tmp_path: Path, confidence: float) -> None:
    write(tmp_path)
    (person, *_), _ = read(tmp_path, occluded_confidence=confidence)
    assert person.keypoints_2d_px[NECK, 2] == confidence and person.keypoints_2d_px[0, 2] == 1
    assert person.keypoints_3d_m is not None and person.keypoints_3d_m[NECK, 3] == 1


def _not_the_same_people(cells: np.ndarray) -> None:
    for at in np.ndindex(*cells.shape):
        cells[at]["annot2"][0, 0] = np.random.default_rng(sum(at)).uniform(0, 2000, (2, 17))


def _eleven_pixels_off(cells: np.ndarray) -> None:
    for at in np.ndindex(*cells.shape):
        cells[at]["annot2"][0, 0] = cells[at]["annot2"][0, 0] + np.random.default_rng(sum(at)).choice([-8, 8], (2, 17))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda cells: cells[0, 0]["annot3"].__setitem__((0, 0), np.ones((17, 3))), "annot3 has shape"),
        (lambda cells: cells.__setitem__((0, 0), np.ones((2, 17))), "not a struct with `annot3`"),
        (_not_the_same_people, "no camera takes annot3 to annot2"),
        (_eleven_pixels_off, "the best is 1.* px off in the median"),
    ],
)
def test_what_is_not_mupots_is_one_clear_error(tmp_path: Path, spoil: Any, said: str) -> None:
    write(tmp_path, spoil=spoil)
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path)
    assert "TS3/annot.mat" in str(error.value)


def test_a_cut_file_and_a_missing_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MultiPersonTestSet"):
        read(tmp_path)
    write(tmp_path)
    path = tmp_path / "TS3" / "annot.mat"
    whole = path.read_bytes()
    for end in (0, 50, 128, 140, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"annot\.mat"):
            read(tmp_path)


@pytest.mark.samples
@pytest.mark.parametrize(
    ("sequence", "frames", "people", "invalid", "focal_px"),
    [("TS1", 201, 2, 0, (1500.96, 1495.90)), ("TS15", 801, 3, 116, None), ("TS18", 126, 3, 0, None)],
)
def test_the_real_sequences(
    samples_dir: Path, sequence: str, frames: int, people: int, invalid: int, focal_px: tuple[float, float] | None
) -> None:
    found, skipped = read(samples_dir / "mupots3d" / "MultiPersonTestSet", sequence)
    assert len(found) == frames * people - invalid and skipped.get("invalid_frame", 0) == invalid
    assert len({(p.image_id, p.person_id) for p in found}) == len(found)
    off_px = []
    for person in found:
        assert person.keypoints_3d_m is not None and person.camera is not None
        projected = person.camera.project(person.keypoints_3d_m[:, :3])
        off_px.append(np.linalg.norm(projected - person.keypoints_2d_px[:, :2], axis=1))
        if focal_px:
            np.testing.assert_allclose(person.camera.focal_px, focal_px, atol=0.02)
    off = np.stack(off_px)
    exact = [i for i, name in enumerate(MUPOTS17.names) if not name.endswith(("hip", "spine"))]
    hips = MUPOTS17.indices(["left_hip", "right_hip"])
    median, worst, hip = np.median(off[:, exact]), off[:, exact].max(), np.median(off[:, hips])
    sys.stdout.write(f"{sequence}: median {median:.4f} px, worst {worst:.4f} px; hips, median {hip:.2f} px\n")
    assert worst < 0.01 and hip < 3
    trusted = np.stack([p.keypoints_2d_px[:, 2] for p in found])
    assert trusted[:, exact].all() and trusted[:, hips].all()
    wrong = {p.person_id for p, spine in zip(found, trusted[:, SPINE], strict=True) if not spine}
    right = {p.person_id for p, spine in zip(found, trusted[:, SPINE], strict=True) if spine}
    assert (wrong, right) == (({"0"}, {"1"}) if sequence == "TS1" else (set(), {"0", "1", "2"}))
    # Y is down: the head is above the ankles in the picture; the pelvis is between the hips.
    head, ankle = MUPOTS17.index("head_top"), MUPOTS17.index("left_ankle")
    assert np.median([p.keypoints_3d_m[ankle, 1] - p.keypoints_3d_m[head, 1] for p in found]) > 1  # type: ignore[index]


@pytest.mark.samples
def test_left_is_the_persons_left(samples_dir: Path) -> None:
    """A person's right cross up points forward, where the nose (the head, from the neck) leans: the sign says sides."""
    found, _ = read(samples_dir / "mupots3d" / "MultiPersonTestSet", "TS1")
    ahead = []
    for person in found:
        assert person.keypoints_3d_m is not None
        at = {name: person.keypoints_3d_m[i, :3] for i, name in enumerate(MUPOTS17.names)}
        left, up = at["left_hip"] - at["right_hip"], at["neck"] - at["pelvis"]
        forward = np.cross(left, up)
        for side in ("left", "right"):  # knees bend forward: the knee lies ahead of the line from hip to ankle
            hip, knee, ankle = (at[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle"))
            ahead.append(float((knee - (hip + ankle) / 2) @ forward))
    assert np.mean(np.array(ahead) > 0) > 0.8
