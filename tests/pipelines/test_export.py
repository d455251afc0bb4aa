"""Labels in the formats of others: read again by code of this test's own, value by value, and projected as each format
projects; and labels of others, taken back."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from jobs import export as export_job
from jobs import import_labels as import_job
from jobs import report as report_job
from jobs import verify as verify_job
from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from mesh_lib.body.layer import BodyLayer
from mesh_lib.datasets.images import decode
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from pipelines import runs, storage
from pipelines.bodies import load_body_of
from pipelines.export import FILE

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Ours:
    """What stands in the labels' Parquet, read with pyarrow alone."""

    rows: dict[str, dict[str, Any]]
    """By sample id."""
    faces: np.ndarray


@pytest.fixture(scope="module")
def ours(tiny_labels: Path, tiny_world: Path) -> Ours:
    """Labels, joined with their samples, with their mesh and where it is in the picture."""
    made = storage.read_parquet(str(tiny_labels / "pseudo_gt" / "status=ok")).to_pylist()
    samples = {row["sample_id"]: row for row in storage.read_parquet(str(tiny_world / "street")).to_pylist()}
    body = load_body_of(str(tiny_labels))
    layer = BodyLayer(body)
    rows = {}
    for row in made:
        pose = torch.tensor([*row["global_orient"], *row["body_pose"]]).view(24, 3)
        with torch.no_grad():
            posed = layer(rotmats=rotvec_to_rotmat(pose), betas=torch.tensor(row["betas"]))
        vertices = posed.vertices_m.double().numpy()
        seen = vertices + row["transl_m"]
        pixels = seen[:, :2] / seen[:, 2:] * row["focal_px"] + row["princpt_px"]
        rows[row["sample_id"]] = {**samples[row["sample_id"]], **row, "body_m": vertices, "pixels": pixels}
    assert rows
    return Ours(rows, body.faces)


@pytest.fixture(scope="module")
def exported(ray_cluster: None, tiny_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The output folder of an export, made once for each format."""
    folder, made = tmp_path_factory.mktemp("exports"), {}

    def make(to: Any) -> Path:
        if to not in made:
            made[to] = folder / to
            export_job.main(export_job.Job(to=to, key="sample_id", labels=str(tiny_labels), out=str(made[to])))
        return made[to]

    return make


Exported = Callable[[str], Path]


def pose_of(row: dict[str, Any]) -> np.ndarray:
    return np.array([*row["global_orient"], *row["body_pose"]])


def test_neuralannot(exported: Exported, ours: Ours) -> None:
    entries = json.loads((exported("neuralannot") / "SMPL_NeuralAnnot.json").read_text())
    rows = ours.rows
    assert entries.keys() == rows.keys()
    for key, entry in entries.items():
        smpl, camera, row = entry["smpl_param"], entry["cam_param"], rows[key]
        np.testing.assert_allclose(smpl["pose"], pose_of(row), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(smpl["shape"], row["betas"], rtol=1e-6, atol=1e-7)
        seen = row["body_m"] + np.array(smpl["trans"])
        x = seen[:, 0] / seen[:, 2] * camera["focal"][0] + camera["princpt"][0]
        y = seen[:, 1] / seen[:, 2] * camera["focal"][1] + camera["princpt"][1]
        assert np.abs(np.stack([x, y], 1) - row["pixels"]).max() < 0.01


def test_spin(exported: Exported, ours: Ours) -> None:
    with np.load(exported("spin") / "spin.npz", allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    assert data["pose"].shape == (len(ours.rows), 72) and data["openpose"].shape[1:] == (25, 3)
    for i, name in enumerate(data["sample_id"]):
        row = ours.rows[str(name)]
        np.testing.assert_allclose(data["pose"][i], pose_of(row), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(data["shape"][i], row["betas"], rtol=1e-6, atol=1e-7)
        assert row["image_uri"] is None and data["imgname"][i] == row["image_id"]
        # SPIN: t_z = 2 · 5000 / (224 · s); 5000 px on a 224 px crop whose centre is the box's.
        s, tx, ty = data["cam"][i].astype(np.float64)
        side = 200 * float(data["scale"][i])
        seen = row["body_m"] + np.array([tx, ty, 2 * 5000 / (224 * s)])
        crop = 5000 * seen[:, :2] / seen[:, 2:] + 112
        pixels = (crop - 112) * side / 224 + data["center"][i]
        assert np.abs(pixels - row["pixels"]).max() < 0.5


def test_spins_keypoints_are_the_samples_own(exported: Exported, ours: Ours, tiny_world: Path) -> None:
    joints = tables.joint_set_of(storage.parquet_schema(str(tiny_world / "street")), where="street")
    with np.load(exported("spin") / "spin.npz", allow_pickle=False) as data:
        openpose, part, names = data["openpose"], data["part"], data["sample_id"]
    for i, name in enumerate(names):
        given = np.array(ours.rows[str(name)]["keypoints_2d_px"]).reshape(-1, 3)
        for at, joint in ((4, "right_wrist"), (7, "left_wrist"), (0, "nose")):
            np.testing.assert_allclose(openpose[i, at], given[joints.index(joint)], rtol=1e-6)
        for at, joint in ((0, "right_ankle"), (5, "left_ankle"), (9, "left_shoulder")):
            np.testing.assert_allclose(part[i, at], given[joints.index(joint)], rtol=1e-6)


def test_eft(exported: Exported, ours: Ours, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((exported("eft") / "eft.json").read_text())
    assert content["ver"] == 0.1 and len(content["data"]) == len(ours.rows)
    worst = []
    for entry in content["data"]:
        row = ours.rows[entry["subjectId"]]
        theirs = Rotation.from_matrix(np.array(entry["parm_pose"]))
        mine = Rotation.from_rotvec(pose_of(row).reshape(24, 3))
        assert (theirs * mine.inv()).magnitude().max() < 1e-5
        np.testing.assert_allclose(entry["parm_shape"], row["betas"], rtol=1e-6, atol=1e-7)
        s, tx, ty = entry["parm_cam"]
        side = 200 * entry["bbox_scale"]
        pixels = (s * row["body_m"][:, :2] + [tx, ty]) * side / 2 + entry["bbox_center"]
        worst.append(np.linalg.norm(pixels - row["pixels"], axis=1).max() * 224 / side)
    # EFT's camera has no perspective: half a pixel of its own 224 px crop is what it can promise.
    print(f"EFT's camera, px of its crop: median {np.median(worst):.2f}, largest {max(worst):.2f}")  # noqa: T201
    assert np.median(worst) < 0.5 and max(worst) < 1.5


def test_humandata(exported: Exported, ours: Ours) -> None:
    with np.load(exported("humandata") / "human_data.npz", allow_pickle=True) as file:
        data = {name: file[name] for name in file.files}
    smpl, camera = data["smpl"].item(), data["cam_param"].item()
    assert int(data["__data_len__"]) == len(ours.rows) and data["bbox_xywh"].shape == (len(ours.rows), 5)
    mask = data["keypoints2d_smpl_mask"]
    assert mask.shape == (190,) and data["keypoints2d_smpl"].shape == (len(ours.rows), int(mask.sum()), 3)
    slots = np.flatnonzero(mask).tolist()
    for i, name in enumerate(data["sample_id"]):
        row = ours.rows[str(name)]
        np.testing.assert_allclose(smpl["global_orient"][i], row["global_orient"], rtol=1e-6)
        np.testing.assert_allclose(smpl["body_pose"][i].ravel(), row["body_pose"], rtol=1e-6)
        seen = row["body_m"] + smpl["transl"][i]
        pixels = seen[:, :2] / seen[:, 2:] * camera["focal"][i] + camera["princpt"][i]
        assert np.abs(pixels - row["pixels"]).max() < 0.05
        joints = np.array(row["joints_2d_px"]).reshape(33, 2)
        for slot, joint in ((20, "left_wrist"), (8, "right_ankle"), (55, "nose"), (46, "right_pinky1")):
            np.testing.assert_allclose(
                data["keypoints2d_smpl"][i, slots.index(slot), :2], joints[BODY33.index(joint)], rtol=1e-5
            )


def test_coco(exported: Exported, ours: Ours, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    path = exported("coco") / "coco_smpl.json"
    coco: Any = COCO(str(path))
    rows = ours.rows
    assert {str(record["id"]) for record in coco.dataset["annotations"]} == rows.keys()
    for record in coco.dataset["annotations"]:
        row, smpl = rows[str(record["id"])], record["smpl"]
        picture = coco.imgs[record["image_id"]]
        assert [picture["width"], picture["height"]] == row["image_size"]
        np.testing.assert_allclose([*smpl["global_orient"], *smpl["body_pose"]], pose_of(row), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(record["bbox"], row["bbox_xywh_px"], rtol=1e-6)
        seen = row["body_m"] + np.array(smpl["transl"])
        pixels = seen[:, :2] / seen[:, 2:] * smpl["focal_px"] + smpl["princpt_px"]
        assert np.abs(pixels - row["pixels"]).max() < 0.01
        assert record["num_keypoints"] == sum(v > 0 for v in record["keypoints"][2::3])


def test_webdataset_without_a_pickle(exported: Exported, ours: Ours) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    tars = sorted(str(path) for path in exported("webdataset").glob("*.tar"))
    for tar in tars:
        with tarfile.open(tar) as file:
            assert {name.partition(".")[2] for name in file.getnames()} <= {"jpg", "png", "data.npz", "json"}
    found = 0
    samples = []
    for tar in tars:
        with open(tar, "rb") as stream:
            samples += list(group_by_keys(tar_file_expander([{"stream": stream, "url": tar}])))
    for sample in samples:
        row = ours.rows[json.loads(sample["json"])["sample_id"]]
        with np.load(io.BytesIO(sample["data.npz"]), allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
        assert data["keypoints_2d"].shape == (44, 3) and data["keypoints_3d"].shape == (44, 4)
        assert data["scale"].shape == (2,) and data["has_body_pose"] == 1
        np.testing.assert_allclose(data["body_pose"], pose_of(row), rtol=1e-6, atol=1e-7)
        # From the tar's picture to the whole one by the sample's own affine.
        place = np.array(row["crop_to_image"]).reshape(2, 3)
        seen = row["body_m"] + data["transl_m"]
        inside = seen[:, :2] / seen[:, 2:] * data["focal_px"] + data["princpt_px"]
        assert np.abs(inside @ place[:, :2].T + place[:, 2] - row["pixels"]).max() < 0.05
        picture = decode(sample.get("jpg") or sample["png"])
        known = data["keypoints_2d"][data["keypoints_2d"][:, 2] > 0]
        assert len(known) and (known[:, :2] > -0.5 * max(picture.shape)).all()
        found += 1
    assert found == len(ours.rows)


@pytest.mark.parametrize(("kind", "frame"), [("obj", (1, 1, 1)), ("ply", (1, 1, 1)), ("glb", (1, -1, -1))])
def test_a_mesh_a_person(exported: Exported, ours: Ours, kind: str, frame: tuple[int, int, int]) -> None:
    folder = exported(kind)
    for name, row in ours.rows.items():
        mesh: Any = trimesh.load(folder / f"{name}.{kind}", process=False, force="mesh")
        assert len(mesh.faces) == len(ours.faces)
        # A loader may split or reorder vertices: faces' corners tell which is which.
        corners = (np.asarray(mesh.vertices) * frame)[np.asarray(mesh.faces)]
        wanted = (row["body_m"] + row["transl_m"])[ours.faces]
        np.testing.assert_allclose(corners, wanted, atol=1e-5)


def test_an_equal_export_is_done_once_and_another_is_refused(exported: Exported, tiny_labels: Path) -> None:
    out = exported("eft")
    before = (out / "eft.json").stat().st_mtime_ns
    export_job.main(export_job.Job(to="eft", key="sample_id", labels=str(tiny_labels), out=str(out)))
    assert (out / "eft.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds another run"):
        export_job.main(export_job.Job(to="spin", labels=str(tiny_labels), out=str(out)))


def test_labels_without_their_samples_are_refused(tiny_labels: Path, tiny_world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"have no sample in .*studio"):
        export_job.main(
            export_job.Job(to="spin", labels=str(tiny_labels), samples=f"{tiny_world}/studio", out=str(tmp_path / "o"))
        )


def back(
    kind: Any, path: Path, out: Path, *, samples: Path, body: Path, **more: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Import a file; its labels by sample id, and the rows by status."""
    import_job.main(
        import_job.Job(kind=kind, labels=str(path), samples=str(samples), body=str(body), out=str(out), **more)
    )
    rows = storage.read_parquet(str(out / "pseudo_gt" / "status=ok"), what="labels").to_pylist()
    return {row["sample_id"]: row for row in rows}, runs.load_run(out, job="import_labels")["counts"]


@pytest.mark.parametrize("kind", ["neuralannot", "eft", "spin"])
def test_what_was_exported_comes_back(
    exported: Exported, ours: Ours, tiny_world: Path, tiny_labels: Path, tmp_path: Path, kind: str
) -> None:
    file = next(path for path in exported(kind).iterdir() if path.suffix in (".json", ".npz") and path.stem != "run")
    out = tmp_path / "back"
    found, counts = back(kind, file, out, samples=tiny_world / "street", body=tiny_labels / "body.npz")
    assert found.keys() == ours.rows.keys() and counts["ok"] == len(ours.rows)
    for name, row in found.items():
        wanted = ours.rows[name]
        theirs, mine = (Rotation.from_rotvec(pose_of(one).reshape(24, 3)) for one in (row, wanted))
        assert (theirs * mine.inv()).magnitude().max() < 1e-4
        np.testing.assert_allclose(row["betas"], wanted["betas"], rtol=1e-5, atol=1e-6)
        apart = np.array(row["joints_2d_px"]) - np.array(wanted["joints_2d_px"])
        assert np.abs(apart).max() < (2.0 if kind == "eft" else 0.5)
    verify_job.main(verify_job.Job(path=str(out)))
    report_job.main(report_job.Job(labels=str(out), against=str(tiny_labels), out=str(tmp_path / "report.html")))
    assert "mm apart" in (tmp_path / "report.html").read_text()


def test_labels_that_are_not_there_are_rows_with_a_reason(
    exported: Exported, ours: Ours, tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    entries = json.loads((exported("neuralannot") / "SMPL_NeuralAnnot.json").read_text())
    gone, broken = sorted(entries)[:2]
    del entries[gone]
    entries[broken]["smpl_param"]["pose"][3] = float("nan")
    (tmp_path / "some.json").write_text(json.dumps({**entries, "no such person": entries[broken]}))
    _, counts = back(
        "neuralannot",
        tmp_path / "some.json",
        tmp_path / "o",
        samples=tiny_world / "street",
        body=tiny_labels / "body.npz",
    )
    assert counts == {"ok": len(ours.rows) - 2, "not_labelled": 1, "not_finite": 1}
    lost = pq.read_table(tmp_path / "o" / "pseudo_gt" / "status=not_labelled")
    assert lost.column("sample_id").to_pylist() == [gone] and lost.column("betas").null_count == 1


def test_spins_rows_are_found_by_picture_and_box_not_by_their_order(
    exported: Exported, ours: Ours, tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    with np.load(exported("spin") / "spin.npz") as file:
        data = {name: file[name][::-1][1:] for name in file.files if name != "cam"}  # another order, one row less
    np.savez(tmp_path / "x.npz", **data)
    found, counts = back(
        "spin", tmp_path / "x.npz", tmp_path / "o", samples=tiny_world / "street", body=tiny_labels / "body.npz"
    )
    assert counts["not_labelled"] == 1
    for name, row in found.items():
        np.testing.assert_allclose(row["betas"], ours.rows[name]["betas"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("neuralannot", b"[]", "not JSON of an object"),
        ("neuralannot", b'{"1": {"pose": []}}', "no smpl_param"),
        ("neuralannot", b'{"1": {"smpl_param": {"pose": [1], "shape": [], "trans": []}, "cam_param": {}}}', "entry 1"),
        ("eft", b"{}", "no `data`"),
        ("eft", b'{"data": [{"parm_pose": [1]}]}', "not EFT's"),
        ("eft", b'{"data": [', "not JSON"),
        ("spin", b"PK", "cannot be read"),
    ],
)
def test_files_of_another_kind_are_refused(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path, kind: Any, content: bytes, said: str
) -> None:
    (tmp_path / "x").write_bytes(content)
    job = import_job.Job(
        kind=kind, labels=str(tmp_path / "x"), samples=f"{tiny_world}/street", body=str(tiny_labels / "body.npz"),
        out=str(tmp_path / "o"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="x") as error:
        import_job.main(job)
    assert said in str(error.value)


def test_an_npz_with_code_in_it_is_not_run(tiny_world: Path, tiny_labels: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "x.npz", pose=np.array([Trap()], object), imgname=np.array(["a"]))
    job = import_job.Job(
        kind="spin", labels=str(tmp_path / "x.npz"), samples=f"{tiny_world}/street",
        body=str(tiny_labels / "body.npz"), out=str(tmp_path / "o"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="cannot be read"):
        import_job.main(job)
    assert not (tmp_path / "ran").exists()


def test_ids_that_are_not_unique_are_refused_with_the_way_out(tiny_labels: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--key sample_id"):
        export_job.main(export_job.Job(to="neuralannot", labels=str(tiny_labels), out=str(tmp_path / "o")))
    assert not (tmp_path / "o" / "SMPL_NeuralAnnot.json").exists()


@pytest.mark.parametrize("kind", ["neuralannot", "eft", "spin"])
def test_formats_are_written_to_and_read_from_object_storage(
    ray_cluster: None, s3: str, exported: Exported, ours: Ours, tiny_world: Path, tiny_labels: Path, kind: Any
) -> None:
    """Of SPIN's also the fits in a file of their own."""
    out, name = f"{s3}/formats/{kind}", FILE[kind]
    export_job.main(export_job.Job(to=kind, key="sample_id", labels=str(tiny_labels), out=out))
    assert runs.load_run(out, job="export")["result"]["labels"] == len(ours.rows)
    if kind != "spin":
        assert storage.read_bytes(f"{out}/{name}") == (exported(kind) / name).read_bytes()
    fits = None
    if kind == "spin":
        with np.load(io.BytesIO(storage.read_bytes(f"{out}/{name}"))) as file:
            data = {key: file[key] for key in file.files}
        pose, shape, fits = data.pop("pose"), data.pop("shape"), f"{out}/fits.npy"
        for path, save in ((fits, lambda to: np.save(to, np.hstack([pose, shape]))),
                           (f"{out}/dataset.npz", lambda to: np.savez(to, **data))):  # fmt: skip
            packed = io.BytesIO()
            save(packed)
            storage.write_bytes(path, packed.getvalue())
        name = "dataset.npz"
    back_at = f"{s3}/imported/{kind}"
    import_job.main(
        import_job.Job(
            kind=kind, labels=f"{out}/{name}", fits=fits, samples=str(tiny_world / "street"),
            body=str(tiny_labels / "body.npz"), out=back_at,
        )
    )  # fmt: skip
    assert "not_labelled" not in runs.load_run(back_at, job="import_labels")["counts"]
    rows = storage.read_parquet(f"{back_at}/pseudo_gt/status=ok", what="labels").to_pylist()
    # Fits have no camera, and the one that is solved for may see a bad fit from behind.
    assert len(rows) == len(ours.rows) or (kind == "spin" and len(rows) > 20)
    for row in rows:
        np.testing.assert_allclose(row["betas"], ours.rows[row["sample_id"]]["betas"], rtol=1e-5, atol=1e-6)


def test_tars_and_meshes_are_written_to_object_storage(
    ray_cluster: None, s3: str, exported: Exported, tiny_labels: Path
) -> None:
    for to in ("webdataset", "ply"):
        out = f"{s3}/formats/{to}"
        export_job.main(export_job.Job(to=to, labels=str(tiny_labels), out=out))
        there = {path.partition(f"formats/{to}/")[2]: size for path, size in storage.list_files(out)}
        here = {str(p.relative_to(exported(to))): p.stat().st_size for p in exported(to).rglob("*.*") if p.is_file()}
        for files in (there, here):
            files.pop("run.json")
        assert there == here and there
