"""Labels of others find the samples that they are of: by annotation id, or by picture and box; in doubt, not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.foreign import read_foreign
from pipelines.match_labels import match_labels
from pipelines.sources import open_source, read_group
from tests.people import Someone, write_samples


def spin_file(path: Path, names: Sequence[str], *, x: Sequence[float] | None = None, **more: Any) -> str:
    """A dataset's .npz with a row a name; its box is centred on `x`, its first beta is its row."""
    rows = len(names)
    shape = np.zeros((rows, 10))
    shape[:, 0] = np.arange(rows)
    arrays: dict[str, Any] = {
        "imgname": np.array(names), "scale": np.full(rows, 0.5), "pose": np.zeros((rows, 72)), "shape": shape,
        "center": np.stack([np.full(rows, 200.0) if x is None else np.array(x), np.full(rows, 150.0)], axis=1),
        "has_smpl": np.ones(rows),
    }  # fmt: skip
    np.savez(path, **{name: values for name, values in (arrays | more).items() if values is not None})
    return str(path)


def eft_entry(name: str, row: int, *, x: float = 200.0, **more: Any) -> dict[str, Any]:
    return {
        "parm_pose": np.eye(3)[None].repeat(24, 0).tolist(), "parm_shape": [float(row), *[0.0] * 9],
        "parm_cam": [0.9, 0.0, 0.0], "bbox_scale": 0.6, "bbox_center": [x, 150.0], "imageName": name, **more,
    }  # fmt: skip


def eft_file(path: Path, entries: Sequence[dict[str, Any]]) -> str:
    path.write_text(json.dumps({"ver": 0.1, "data": entries}))
    return str(path)


def found(kind: Any, path: str, samples: str, **more: Any) -> dict[str, int]:
    """The row, in their file, of each sample's label."""
    foreign, source = read_foreign(kind, path, **more), open_source(samples)
    names = [
        name
        for file, group, _ in source.groups
        for name in read_group(source.path, file, group, ["sample_id"]).column("sample_id").to_pylist()
    ]
    match = match_labels(foreign, source)
    return {name: int(foreign.values["betas"][at, 0]) for name, at in zip(names, match, strict=True) if at >= 0}


def sequences(*names: str, frames: int = 3) -> list[Someone]:
    """As 3DPW, MPI-INF-3DHP and MuPoTS have them: the same file names in every sequence, here people at one place."""
    return [
        Someone(f"{name}/{i}", f"/data/3dpw/imageFiles/{name}/image_{i:05d}.jpg")
        for name in names
        for i in range(frames)
    ]


def test_sequences_that_repeat_file_names_keep_their_own_labels(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", sequences("a", "b"))
    names = [f"imageFiles/{name}/image_{i:05d}.jpg" for i in range(3) for name in ("b", "a")]
    assert found("spin", spin_file(tmp_path / "x.npz", names), samples) == {
        f"made/train/{name}/{i}/0": 2 * i + (name == "a") for name in ("a", "b") for i in range(3)
    }


def test_a_frame_that_the_labels_lack_does_not_take_another_sequences(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", sequences("a"))
    names = ["a/image_00000.jpg", "b/image_00001.jpg", "b/image_00002.jpg"]
    assert found("spin", spin_file(tmp_path / "x.npz", names), samples) == {"made/train/a/0/0": 0}


def test_names_below_other_roots_and_of_unequal_depth_are_the_same_pictures(tmp_path: Path) -> None:
    people = [Someone("1", "/data/deep/er/x.jpg"), Someone("2", "/data/y.jpg"), Someone("S1/Seq1/7")]
    samples = write_samples(tmp_path / "s", people)
    file = spin_file(tmp_path / "x.npz", ["deep/er/x.jpg", "y.jpg", "S1/Seq1/7"])
    assert found("spin", file, samples) == {"made/train/1/0": 0, "made/train/2/0": 1, "made/train/S1/Seq1/7/0": 2}


def test_a_name_that_could_be_of_two_pictures_is_refused_and_both_are_named(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", sequences("a", "b"))
    file = spin_file(tmp_path / "x.npz", ["image_00000.jpg"])
    with pytest.raises(ValueError, match=r"they only say image_00000\.jpg") as error:
        found("spin", file, samples)
    for name in ("a", "b"):
        assert f"/data/3dpw/imageFiles/{name}/image_00000.jpg" in str(error.value)


def test_labels_of_two_pictures_for_one_are_refused(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", [Someone("1", "/flat/image_00000.jpg")])
    file = spin_file(tmp_path / "x.npz", ["a/image_00000.jpg", "b/image_00000.jpg"])
    with pytest.raises(
        ValueError, match=r"two pictures .* may be of /flat/image_00000.jpg: both end in image_00000.jpg"
    ):
        found("spin", file, samples)


def test_of_one_picture_the_nearest_box_decides(tmp_path: Path) -> None:
    people = [Someone("1", "/d/x.jpg", str(i), x=100.0 + 80 * i) for i in range(3)]
    samples = write_samples(tmp_path / "s", people)
    file = spin_file(tmp_path / "x.npz", ["x.jpg", "x.jpg"], x=[262.0, 103.0])
    assert found("spin", file, samples) == {"made/train/1/0": 1, "made/train/1/2": 0}


def test_a_box_without_a_size_is_nobodys(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", [Someone("1", "/d/x.jpg")])
    file = spin_file(tmp_path / "x.npz", ["x.jpg", "x.jpg"], scale=np.array([0.0, 0.5]))
    assert found("spin", file, samples) == {"made/train/1/0": 1}


@pytest.mark.parametrize("ids", [{}, {"annotId": 0}, {"annotId": None}, {"annotId": 17}], ids=str)
def test_efts_labels_without_ids_of_their_own_are_found_by_picture_and_box(tmp_path: Path, ids: dict[str, Any]) -> None:
    """As EFT's files of MPII and LSPET have them."""
    people = [Someone(name, f"/data/mpii/images/{name}", person, x) for name in "ab" for person, x in PLACES]
    samples = write_samples(tmp_path / "s", people)
    entries = [eft_entry(name, 2 * i + j, x=PLACES[j][1] + 4, **ids) for i, name in enumerate("ba") for j in (0, 1)]
    assert found("eft", eft_file(tmp_path / "x.json", entries), samples) == {
        "made/train/b/0": 0, "made/train/b/1": 1, "made/train/a/0": 2, "made/train/a/1": 3,
    }  # fmt: skip


PLACES = [("0", 100.0), ("1", 300.0)]


def test_a_single_label_without_an_id_is_found_by_its_picture(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", [Someone("1", "/d/x.jpg"), Someone("2", "/d/y.jpg")])
    assert found("eft", eft_file(tmp_path / "x.json", [eft_entry("y.jpg", 0, annotId=0)]), samples) == {
        "made/train/2/0": 0
    }


def test_efts_annotation_ids_are_trusted_where_there_are_any(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", [Someone("1", "/d/x.jpg", "41"), Someone("1", "/d/x.jpg", "42")])
    entries = [eft_entry("elsewhere.jpg", 0, annotId=42), eft_entry("elsewhere.jpg", 1, annotId=41)]
    assert found("eft", eft_file(tmp_path / "x.json", entries), samples) == {"made/train/1/41": 1, "made/train/1/42": 0}
    twice = eft_file(tmp_path / "twice.json", [*entries, eft_entry("x.jpg", 2, annotId=42)])
    with pytest.raises(ValueError, match=r"two labels in .*twice.json have the same annotation id"):
        found("eft", twice, samples)


def test_spins_fits_lie_beside_the_datasets_file(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "s", [Someone(name, f"/d/{name}.jpg") for name in "abc"])
    file = spin_file(tmp_path / "mpii_train.npz", ["c.jpg", "a.jpg", "b.jpg"], pose=None, shape=None, has_smpl=None)
    fits = np.zeros((3, 82))
    fits[:, 72], fits[:, 5] = [7, 8, 9], 0.3
    np.save(tmp_path / "mpii_fits.npy", fits)
    assert found("spin", file, samples, fits=str(tmp_path / "mpii_fits.npy")) == {
        "made/train/a/0": 8, "made/train/b/0": 9, "made/train/c/0": 7,
    }  # fmt: skip
    foreign = read_foreign("spin", file, fits=str(tmp_path / "mpii_fits.npy"))
    np.testing.assert_allclose(foreign.values["rotvec"].reshape(3, 72), fits[:, :72])
    with pytest.raises(ValueError, match=r"has no pose, shape(.|\n)*--fits"):
        read_foreign("spin", file)


@pytest.mark.parametrize(("shape", "valid"), [("betas", "valid_fit"), ("shape", "valid")])
def test_invalid_final_fits_are_no_labels(tmp_path: Path, shape: str, valid: str) -> None:
    samples = write_samples(tmp_path / "s", [Someone(name, f"/d/{name}.jpg") for name in "abc"])
    file = spin_file(tmp_path / "train.npz", ["a.jpg", "b.jpg", "c.jpg"], cam=np.ones((3, 3)))
    arrays = {"pose": np.zeros((3, 72)), shape: np.arange(30.0).reshape(3, 10), valid: np.array([1, 0, 1], np.uint8)}
    np.savez(tmp_path / "fits.npz", **arrays)
    assert found("spin", file, samples, fits=str(tmp_path / "fits.npz")) == {"made/train/a/0": 0, "made/train/c/0": 20}
    foreign = read_foreign("spin", file, fits=str(tmp_path / "fits.npz"))
    assert np.isnan(foreign.values["transl_m"]).all(), "the file's own camera is of other parameters"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((2, 72)), r"has shape \(2, 72\); expected \(rows, 82\)"),
        (np.zeros(82), r"has shape \(82,\)"),
        (np.zeros((3, 82)), r"pose has shape \(3, 72\); expected \(2, 72\), a row for each of .*train.npz"),
        ({"pose": np.zeros((2, 72))}, "has no betas"),
        ({"betas": np.zeros((2, 10))}, "has no pose"),
        ({"pose": np.zeros((2, 72)), "betas": np.zeros((2, 11))}, r"shape has shape \(2, 11\)"),
        ({"pose": np.zeros((2, 72)), "betas": np.zeros((2, 10)), "valid_fit": np.ones(3)}, r"valid has shape \(3,\)"),
        (np.full((2, 82), "x"), "pose has shape .* expected numbers"),
        (np.array([[Path("x")] * 82] * 2, object), "cannot be read: Object arrays"),
        ({"pose": np.array([Path("x")] * 2, object), "betas": np.zeros((2, 10))}, "cannot be read: Object arrays"),
        (b"nothing", "cannot be read"),
        (None, "no labels at"),
    ],
    ids=[
        "no shape", "one row", "other rows", "no betas", "no pose", "11 betas", "other flags", "text", "objects",
        "objects in it", "no array", "no file",
    ],
)  # fmt: skip
def test_fits_that_do_not_fit_are_one_clear_message(tmp_path: Path, content: Any, said: str) -> None:
    file = spin_file(tmp_path / "train.npz", ["a.jpg", "b.jpg"])
    fits = tmp_path / "fits"
    if isinstance(content, bytes):
        fits.write_bytes(content)
    elif content is not None:
        with fits.open("wb") as stream:
            np.savez(stream, **content) if isinstance(content, dict) else np.save(stream, content)
    with pytest.raises(ValueError, match=said) as error:
        read_foreign("spin", file, fits=str(fits))
    assert str(fits) in str(error.value)


def test_fits_belong_to_spin(tmp_path: Path) -> None:
    file = eft_file(tmp_path / "x.json", [])
    with pytest.raises(ValueError, match="--fits"):
        read_foreign("eft", file, fits=file)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"has_smpl": np.ones(1)}, r"has_smpl has shape \(1,\)"), ({"cam": np.ones((2, 2))}, r"cam has shape \(2, 2\)")],
)
def test_spins_flags_and_cameras_have_a_row_each(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_foreign("spin", spin_file(tmp_path / "x.npz", ["a.jpg", "b.jpg"], **more))


def test_an_error_of_world_frame_files_says_what_reads_them(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"1": {"1": {"0": {"pose": [0] * 72}}}}))
    with pytest.raises(ValueError, match=r"Human3.6M's .* are read .* MPI-INF-3DHP's, .* are not"):
        read_foreign("neuralannot", str(tmp_path / "x.json"))
