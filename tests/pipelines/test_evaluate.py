"""Scores: the same numbers by another way, everybody once, refused in one message, resumed, compared by person."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.evaluate import Compare, Labels, Network, identity, main
from mesh_lib import tables
from mesh_lib.body.files import SMPL_VERTICES
from mesh_lib.body.joints import SMPL24, JointSet
from mesh_lib.body.layer import BodyLayer
from mesh_lib.datasets.human36m import HUMAN36M17
from mesh_lib.datasets.mupots import MUPOTS17
from mesh_lib.geometry.cameras import project
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from pipelines import runs, storage
from pipelines.bodies import load_body_of
from pipelines.cluster import connect
from pipelines.evaluate import EvaluateStage, compare_runs, evaluate, load_scores, open_benchmark
from pipelines.score import score_labels

pytestmark = pytest.mark.ray
STAGE = EvaluateStage(batch_size=10, threads=1, resamples=50)


def street(world: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "samples": (f"{world}/street",), "truth": f"{world}/truth/street", "protocol": "open_world", "out": str(out),
        "stage": STAGE, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def scored(tiny_world: Path, tiny_annotator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of f's scores on the street."""
    out = tmp_path_factory.mktemp("scores") / "f"
    main(Network(network=str(tiny_annotator), **street(tiny_world, out)))
    return out


@pytest.fixture(scope="module")
def scored_labels(tiny_world: Path, tiny_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the scores of f's labels of the same street."""
    out = tmp_path_factory.mktemp("scores") / "labels"
    main(Labels(labels=str(tiny_labels), **street(tiny_world, out)))
    return out


def means(folder: Path) -> dict[str, float]:
    return {name: one["mean"] for name, one in storage.read_json(str(folder / "scores.json"))["columns"].items()}


def test_a_network_and_its_labels_have_the_same_scores_and_both_are_right(
    tiny_world: Path, tiny_labels: Path, scored: Path, scored_labels: Path
) -> None:
    """Three ways: crops through the network, labels from files, and the demo's own score of these files."""
    of_network, of_labels = means(scored), means(scored_labels)
    for name, value in of_labels.items():
        assert of_network[name] == pytest.approx(value, rel=2e-3, abs=0.05), name
    truth = f"{tiny_world}/truth/street"
    known = score_labels(labels=str(tiny_labels), truth=truth, reference=truth, body=load_body_of(str(tiny_labels)))
    assert of_labels["pa_mpjpe_mm"] == pytest.approx(known.pa_mpjpe_mm, rel=1e-4)
    assert of_labels["pa_z_mm"] == pytest.approx(known.pa_z_mm, rel=1e-3)
    given = storage.read_parquet(str(tiny_labels / "pseudo_gt" / "status=ok")).column("reprojection_error_px")
    assert of_labels["annotation_error_px"] == pytest.approx(np.mean(given.to_numpy()), rel=1e-3)


def test_a_score_file_says_by_which_rules_and_of_whom(tiny_annotator: Path, scored: Path) -> None:
    found = storage.read_json(str(scored / "scores.json"))
    rules = found["statement"]
    assert (rules["protocol"], rules["gender"], rules["root"]) == ("open_world", "none", "pelvis")
    assert len(rules["joints"]) == 14 and rules["alignment"] == ["root", "procrustes"] and len(rules["regressor"]) == 1
    assert found["people"] == 24 and found["without_prediction"] == 0
    record = runs.load_run(tiny_annotator, job="train_annotator")
    assert found["predicted_by"]["run_id"] == record["run_id"] and len(found["predicted_by"]["sha256"]) == 64
    for one in found["columns"].values():
        assert one["low"] < one["mean"] < one["high"] and one["people"] == one["groups"] == 24
    page = (scored / "scores.md").read_text()
    assert f"| pa_mpjpe_mm | {found['columns']['pa_mpjpe_mm']['mean']:.2f} |" in page
    people = storage.read_parquet(str(scored / "people"))
    assert len(set(people.column("sample_id").to_pylist())) == people.num_rows == 24


def test_an_interrupted_evaluation_goes_on(
    tiny_world: Path, tiny_annotator: Path, scored: Path, tmp_path: Path
) -> None:
    """What was committed stays as it is; what was not is done again; nobody is scored twice."""
    stage = dataclasses.replace(STAGE, batch_size=6, file_mb=0.001)
    job = Network(network=str(tiny_annotator), **street(tiny_world, tmp_path / "e", stage=stage))
    connect()  # killed after the last row and before it says so
    run = runs.open_run(job.out, **identity(job, "network", job.network), resume=True)
    assert job.truth
    benchmark = open_benchmark(job.samples, protocol=job.protocol, truth=job.truth, regressors=None, bodies=None)
    evaluate(run, benchmark=benchmark, what="network", folder=job.network, stage=stage)
    (tmp_path / "e" / "scores.json").unlink()
    records = sorted((tmp_path / "e" / "_checkpoint").glob("*.parquet"))
    assert len(records) == 4
    records[0].rename(records[0].with_name(records[0].name.replace(".parquet", ".pending.parquet")))
    records[1].unlink()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "e" / "people").glob("*.parquet")}
    main(job)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "e" / "people").glob("*.parquet")}
    assert len(before.items() & after.items()) == 2
    assert means(tmp_path / "e") == pytest.approx(means(scored), rel=1e-3)
    assert not list((tmp_path / "e" / "_checkpoint").glob("*"))


def test_two_scores_are_compared_person_by_person(scored: Path, scored_labels: Path, tmp_path: Path) -> None:
    found = compare_runs(str(scored), str(scored_labels), stage=STAGE)
    one = found["columns"]["pa_mpjpe_mm"]
    assert abs(one["mean"]) < 0.05 and one["people"] == 24
    main(Compare(new=str(scored), old=str(scored_labels), out=str(tmp_path / "c.json")))
    assert storage.read_json(str(tmp_path / "c.json"))["columns"]["pa_mpjpe_mm"]["people"] == 24
    other = shutil.copytree(scored, tmp_path / "other")
    page = storage.read_json(str(other / "scores.json"))
    page["statement"]["protocol"] = "3dpw"
    storage.write_json(str(other / "scores.json"), page)
    with pytest.raises(ValueError, match="scored by other rules: protocol is open_world"):
        compare_runs(str(scored), str(other), stage=STAGE)
    moved = shutil.copytree(scored, tmp_path / "moved")
    for path in (moved / "people").glob("*.parquet"):
        table = pq.read_table(path)
        joints = tables.numpy_column(table, "truth_joints_m") + np.float32(0.005)
        at, column = table.schema.get_field_index("truth_joints_m"), table.column("truth_joints_m")
        flat = pa.FixedSizeListArray.from_arrays(pa.array(joints.ravel()), type=column.type)
        pq.write_table(table.set_column(at, "truth_joints_m", flat), path)
    with pytest.raises(ValueError, match=r"against other truths: joints are up to 5\.0 mm apart"):
        compare_runs(str(scored), str(moved), stage=STAGE)


def test_a_benchmark_that_cannot_be_scored_is_refused_in_one_message(
    tiny_world: Path, tiny_labels: Path, tiny_annotator: Path, tmp_path: Path
) -> None:
    connect()
    whole = storage.read_parquet(f"{tiny_world}/street")
    twice, fewer = tmp_path / "twice", tmp_path / "fewer"
    for folder, table in ((twice, pa.concat_tables([whole, whole.slice(0, 2)])), (fewer, whole)):
        folder.mkdir()
        pq.write_table(table, folder / "a.parquet")
    truth = storage.read_parquet(f"{tiny_world}/truth/street")
    (tmp_path / "truth").mkdir()
    pq.write_table(truth.slice(0, 21), tmp_path / "truth" / "a.parquet")
    wrong = {
        r"2 people are there twice": {"samples": (str(twice),)},
        r"3 people have no truth of this protocol \(mesh\)": {"truth": str(tmp_path / "truth")},
        r"24 people have no truth": {"truth": None},
        r"lacks right_hip|lacks .*thorax": {"protocol": "human36m_p2", "truth": None},
        r"no protocol '3dpw2'": {"protocol": "3dpw2"},
        r"scores SMPL-X bodies; networks and labels here are SMPL's": {"protocol": "ehf"},
        r"SMPL's regressor of Human3.6M's 17 joints not found": {"protocol": "3dpw_neutral"},
    }
    for number, (message, changed) in enumerate(wrong.items()):
        job = Labels(labels=str(tiny_labels), **street(tiny_world, tmp_path / str(number), **changed))
        with pytest.raises(ValueError, match=message):
            main(job)
    other = shutil.copytree(tiny_labels, tmp_path / "labels")
    with np.load(other / "body.npz") as arrays:
        np.savez(other / "body.npz", **{**arrays, "v_template": arrays["v_template"] * 1.01})
    with pytest.raises(ValueError, match="the truth is of another body than the predictions"):
        main(Labels(labels=str(other), **street(tiny_world, tmp_path / "b")))
    job = Network(network=str(tiny_annotator), **street(tiny_world, tmp_path / "x", samples=(str(fewer), str(fewer))))
    with pytest.raises(ValueError, match="24 people are there twice"):
        main(job)


def test_people_without_a_prediction_are_refused_or_counted(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    few = shutil.copytree(tiny_labels, tmp_path / "few")
    (file,) = (few / "pseudo_gt" / "status=ok").glob("*.parquet")
    whole = pq.read_table(file)
    pq.write_table(whole.slice(0, 20), file)
    job = Labels(labels=str(few), **street(tiny_world, tmp_path / "e"))
    with pytest.raises(ValueError, match=r"4 of 24 samples .*\n  fix: label them; or --stage.missing count"):
        main(job)
    few_at_once = dataclasses.replace(STAGE, missing="count", batch_size=3)  # of some batches nobody has a label
    counted = dataclasses.replace(job, out=str(tmp_path / "counted"), stage=few_at_once)
    main(counted)
    found = storage.read_json(str(tmp_path / "counted" / "scores.json"))
    assert found["without_prediction"] == 4
    assert (found["columns"]["mpjpe_mm"]["people"], found["columns"]["mpjpe_mm"]["missing"]) == (20, 4)


def with_smpls_vertices(labels: Path, out: Path) -> Path:
    """The same labels of the same body, which has as many vertices as SMPL: the new ones do nothing."""
    shutil.copytree(labels, out)
    with np.load(out / "body.npz") as arrays:
        body = dict(arrays)
    more = SMPL_VERTICES - len(body["v_template"])
    for name in {"v_template", "shapedirs", "posedirs", "weights"} & set(body):
        body[name] = np.concatenate([body[name], np.zeros((more, *body[name].shape[1:]), body[name].dtype)])
    body["weights"][-more:, 0] = 1
    dense = body["J_regressor"]
    body["J_regressor"] = np.pad(dense, ((0, 0), (0, more)))
    np.savez(out / "body.npz", **body)
    return out


def regressor(joint_set: JointSet) -> np.ndarray:
    """Each joint is a vertex of the body."""
    return np.eye(SMPL_VERTICES)[np.linspace(0, 1200, len(joint_set)).astype(int)]


def measured(world: Path, labels: Path, joint_set: JointSet, folder: Path) -> None:
    """The street with measured joints: those of the labels' own meshes, everybody 100 mm further right."""
    rows = storage.read_parquet(f"{world}/street").sort_by("sample_key")
    found = storage.read_parquet(str(labels / "pseudo_gt" / "status=ok")).sort_by("sample_key")
    orient, pose, betas, transl, focal, princpt = (
        torch.from_numpy(tables.numpy_column(found, name).copy())
        for name in ("global_orient", "body_pose", "betas", "transl_m", "focal_px", "princpt_px")
    )
    rotmats = rotvec_to_rotmat(torch.cat([orient, pose], dim=1).unflatten(1, (24, 3)))
    mesh = BodyLayer(load_body_of(str(labels)))(rotmats=rotmats, betas=betas).vertices_m + transl[:, None]
    joints = torch.from_numpy(regressor(joint_set)).float() @ mesh
    pixels = project(joints, focal_px=focal, princpt_px=princpt)
    seen, ones = pixels.numpy(), np.ones((len(joints), len(joint_set), 1))
    moved = joints.numpy() + np.array([0.1, 0, 0])
    kept = ("sample_id", "dataset", "split", "image_id", "person_id", "image", "image_size", "crop_to_image",
            "bbox_xywh_px", "camera")  # fmt: skip
    people = [
        {name: row[name] for name in kept}
        | {
            "keypoints_2d_px": np.concatenate([seen[i], ones[i]], axis=1),
            "keypoints_3d_m": np.concatenate([moved[i], ones[i]], axis=1),
            "smpl_valid": False,
            "sequence": "s_09_act_02_subact_01_ca_04",
            "frame": 64 * i,
        }
        for i, row in enumerate(rows.to_pylist())
    ]
    storage.write_parquet(tables.samples_table(people, joint_set), str(folder / "a.parquet"))


@pytest.mark.parametrize("protocol", ["human36m_p2", "mupots"])
def test_measured_joints_are_what_the_protocols_regressor_makes_of_meshes(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path, protocol: str
) -> None:
    """A shift of everybody is no error from the root on; in a crowd everybody finds themselves."""
    joint_set = HUMAN36M17 if protocol == "human36m_p2" else MUPOTS17
    labels = with_smpls_vertices(tiny_labels, tmp_path / "labels")
    measured(tiny_world, labels, joint_set, tmp_path / "samples")
    name = "J_regressor_h36m_smpl.npy" if protocol == "human36m_p2" else "J_regressor_mi_smpl.npy"
    (tmp_path / "files").mkdir()
    np.save(tmp_path / "files" / name, regressor(joint_set))
    main(
        Labels(
            labels=str(labels), samples=(str(tmp_path / "samples"),), protocol=protocol,
            regressors=str(tmp_path / "files"), out=str(tmp_path / "e"), stage=STAGE,
        )
    )  # fmt: skip
    found = means(tmp_path / "e")
    assert found["mpjpe_mm"] < 0.1 and found["pa_mpjpe_mm"] < 0.1, "bodies stand 50 m away: a float there is 4 µm"
    if protocol == "mupots":
        assert (found["matched"], found["pck_all_percent"]) == (1.0, 100.0)
    assert load_scores(str(tmp_path / "e"))[1].summary()["mpjpe_mm"].people == 24
    assert list(storage.read_json(str(tmp_path / "e" / "scores.json"))["statement"]["regressor"]) == [name]


def test_gendered_truth_is_posed_by_the_body_of_each_gender(
    tiny_world: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    """Labels whose parameters are the truth's own: no error where the bodies agree, a tenth where they do not; and the
    frames of each person, in their order, have accelerations."""
    labels = with_smpls_vertices(tiny_labels, tmp_path / "labels")
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(labels / "body.npz", folder / "SMPL_MALE.npz")
    with np.load(labels / "body.npz") as arrays:
        np.savez(folder / "SMPL_FEMALE.npz", **{**arrays, "v_template": arrays["v_template"] * 1.1})
    np.save(folder / "J_regressor_h36m_smpl.npy", regressor(HUMAN36M17))
    found = storage.read_parquet(str(labels / "pseudo_gt" / "status=ok")).to_pylist()
    rows = {row["sample_id"]: row for row in storage.read_parquet(f"{tiny_world}/street").to_pylist()}
    people = [
        {
            name: rows[label["sample_id"]][name]
            for name in ("sample_id", "image", "image_size", "bbox_xywh_px", "camera")
        }
        | {f"smpl_{name}": label[name] for name in ("global_orient", "body_pose", "betas", "transl_m")}
        | {
            "smpl_valid": True,
            "smpl_gender": "mf"[i % 2],
            "sequence": "downtown",
            "person_id": str(i % 2),
            "frame": i // 2,
        }
        for i, label in enumerate(found)
    ]
    storage.write_parquet(tables.samples_table(people, SMPL24), str(tmp_path / "samples" / "a.parquet"))
    more = {"samples": (str(tmp_path / "samples"),), "truth": None, "regressors": str(folder), "protocol": "3dpw"}
    with pytest.raises(ValueError, match=r"SMPL_MALE.npz or SMPL_MALE.pkl not found: no folder of bodies"):
        main(Labels(labels=str(labels), **street(tiny_world, tmp_path / "no", **more)))
    main(Labels(labels=str(labels), **street(tiny_world, tmp_path / "e", bodies=str(folder), **more)))
    scores = storage.read_parquet(str(tmp_path / "e" / "people"))
    errors = dict(zip(scores.column("sample_id").to_pylist(), scores.column("mpjpe_mm").to_pylist(), strict=True))
    for i, label in enumerate(found):
        assert (errors[label["sample_id"]] < 0.1) == (i % 2 == 0)
    page = storage.read_json(str(tmp_path / "e" / "scores.json"))
    assert page["sequences"]["tracks"] == 2 and page["sequences"]["frames"] == 20
    assert page["sequences"]["acceleration_error_mm"] > 1
    assert page["columns"]["mpjpe_mm"]["low"] is None, "one sequence is one witness: nobody knows what others would say"
