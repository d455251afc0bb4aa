"""docs/labels.md: every snippet runs as it stands, on local labels and on S3, and reads what the page says it does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mesh_lib import tables
from mesh_lib.body.joints import BODY33, SMPL24
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from pipelines import runs, storage
from pipelines.bodies import load_body_of

pytestmark = pytest.mark.ray

PAGE = Path(__file__).parents[1] / "docs" / "labels.md"
PLACEHOLDER = 'labels = "labels/coco"'


def snippets() -> dict[str, str]:
    """The page's Python by heading; the second below a heading is `heading 2`."""
    found: dict[str, str] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S), start=1):
            found[heading if number == 1 else f"{heading} {number}"] = code
    return found


SNIPPETS = snippets()


@pytest.fixture(scope="module")
def local(tiny_labels: Path, photo_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels with quarantined rows beside them, every third label good and the others each bad in its way."""
    folder = tmp_path_factory.mktemp("doc") / "labels"
    shutil.copytree(tiny_labels, folder)
    shutil.copytree(photo_labels / "pseudo_gt" / "status=bad_image", folder / "pseudo_gt" / "status=bad_image")
    for path in storage.parquet_files(str(folder / "pseudo_gt" / "status=ok")):
        table = pq.ParquetFile(path).read()
        third = np.arange(len(table)) % 3
        for name, values in (
            ("reprojection_error_box", np.where(third == 1, 0.2, 0.01)),
            ("confidence", np.where(third == 1, 0.5, 1.0)),
            ("flags", [["crop_leaves_image"] if bad else [] for bad in third == 2]),
        ):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
        pq.write_table(table, path)
    return folder


@pytest.fixture(params=["local", "s3"])
def labels(request: pytest.FixtureRequest, local: Path, s3: str) -> str:
    if request.param == "local":
        return str(local)
    for path in (path for path in local.rglob("*") if path.is_file()):
        storage.write_bytes(f"{s3}/doc/{path.relative_to(local)}", path.read_bytes())
    return f"{s3}/doc"


@pytest.fixture
def truth(local: Path) -> pa.Table:
    return storage.read_parquet(str(local / "pseudo_gt" / "status=ok"))


@pytest.fixture(scope="module", autouse=True)
def _hugging_face_keeps_to_itself(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


def column(table: pa.Table, name: str, *shape: int) -> np.ndarray:
    return tables.numpy_column(table, name).reshape(len(table), *shape)


def good_of(table: pa.Table) -> pa.Table:
    good = [
        error < 0.05 and confidence >= 0.8 and not flags
        for error, confidence, flags in zip(
            *(table[name].to_pylist() for name in ("reprojection_error_box", "confidence", "flags")), strict=True
        )
    ]
    assert 0 < sum(good) < len(good)
    return table.filter(pa.array(good))


def pyarrow_arrays(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    assert found["table"]["sample_id"].to_pylist() == truth["sample_id"].to_pylist() and len(truth) == 24
    assert (found["body_pose"] == column(truth, "body_pose", 69)).all()
    assert (found["joints_3d_m"] == column(truth, "joints_3d_m", 33, 3)).all()


def pyarrow_metadata(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    assert tuple(found["joint_names"]) == BODY33.names and tuple(found["pose_joints"]) == SMPL24.names
    assert found["lineage"]["samples"] == runs.load_run(local, job="annotate")["samples"]


def pyarrow_pieces(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    assert found["seen"] == 24 and found["betas"].shape[1] == 10


def pyarrow_good(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    assert found["table"]["sample_id"].to_pylist() == good_of(truth)["sample_id"].to_pylist()


def pandas(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    assert found["frame"]["sample_id"].tolist() == truth["sample_id"].to_pylist()
    assert (found["body_pose"] == column(truth, "body_pose", 69)).all()
    assert (found["joints_3d_m"] == column(truth, "joints_3d_m", 33, 3)).all()
    assert found["good"]["sample_id"].tolist() == good_of(truth)["sample_id"].to_pylist()


def duckdb(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    good = good_of(truth).sort_by("reprojection_error_px")
    assert found["good"]["sample_id"].tolist() == good["sample_id"].to_pylist()
    assert (found["body_pose"] == column(good, "body_pose", 69)).all()
    assert (found["joints_3d_m"] == column(good, "joints_3d_m", 33, 3)).all()
    assert (found["good"]["first_beta"] == column(good, "betas", 10)[:, 0]).all()
    flagged = sum(map(bool, truth["flags"].to_pylist()))
    assert found["flags"] == [("crop_leaves_image", flagged)] and flagged
    assert tuple(found["metadata"]["joint_names"].split(",")) == BODY33.names


def ray_data(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    kept = truth.filter(pa.array([confidence >= 0.8 for confidence in truth["confidence"].to_pylist()]))
    height_m = np.ptp(column(kept, "joints_3d_m", 33, 3)[..., 1], axis=1)
    heights = found["heights"].sort_values("sample_id")
    order = np.argsort(kept["sample_id"].to_pylist())
    assert heights["sample_id"].tolist() == [kept["sample_id"].to_pylist()[i] for i in order]
    assert (heights["height_m"].to_numpy() == height_m[order]).all() and 0 < len(heights) < 24


def hugging_face(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    good = good_of(truth)
    assert len(found["dataset"]) == 24
    assert found["good"]["sample_id"][:].tolist() == good["sample_id"].to_pylist()
    assert (found["body_pose"] == column(good, "body_pose", 69)).all()
    assert (found["joints_3d_m"] == column(good, "joints_3d_m", 33, 3)).all()
    assert (found["first"]["body_pose"] == column(truth, "body_pose", 69)[0]).all()


def joints_to_pixels(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    assert found["pixels"] == pytest.approx(column(truth, "joints_2d_px", 33, 2)[0], abs=0.05)


def mesh_to_pixels(found: dict[str, Any], truth: pa.Table, local: Path) -> None:
    body = load_body_of(str(local))
    pose = np.concatenate([column(truth, name, -1)[0] for name in ("global_orient", "body_pose")])
    posed = BodyLayer(body, dtype=torch.float64)(
        rotmats=rotvec_to_rotmat(torch.tensor(pose, dtype=torch.float64).view(24, 3)),
        betas=torch.tensor(column(truth, "betas", 10)[0], dtype=torch.float64),
    )
    assert found["vertices"] == pytest.approx(posed.vertices_m.numpy() + column(truth, "transl_m", 3)[0], abs=1e-6)
    nose = found["pixels"][body.keypoint_vertices["nose"]]
    assert nose == pytest.approx(column(truth, "joints_2d_px", 33, 2)[0, BODY33.index("nose")], abs=0.5)
    assert (found["faces"] == body.faces).all()


CHECKS: dict[str, Callable[[dict[str, Any], pa.Table, Path], None]] = {
    "pyarrow": pyarrow_arrays,
    "pyarrow 2": pyarrow_metadata,
    "pyarrow 3": pyarrow_pieces,
    "Only the good ones": pyarrow_good,
    "pandas": pandas,
    "DuckDB": duckdb,
    "Ray Data": ray_data,
    "Hugging Face datasets": hugging_face,
    "From a label to pixels": joints_to_pixels,
    "From a label to pixels 2": mesh_to_pixels,
}


def test_each_snippet_has_its_check() -> None:
    assert set(SNIPPETS) == set(CHECKS)


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_snippet_reads_the_labels(name: str, labels: str, truth: pa.Table, local: Path) -> None:
    assert SNIPPETS[name].count(PLACEHOLDER) == 1
    code = SNIPPETS[name].replace(PLACEHOLDER, f'labels = "{labels}"')
    found: dict[str, Any] = {"__name__": "__main__"}  # a module that workers cannot import goes to them by value
    exec(compile(code, f"{PAGE.name}: {name}", "exec", dont_inherit=True), found)
    CHECKS[name](found, truth, local)
