"""Annotate goes on: with what was done, the method that was found, on any layout; never with something else."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from jobs.annotate import Job, identity, main
from pipelines import annotate, commits, runs, storage
from pipelines.annotate import AnnotateStage
from pipelines.cluster import connect
from pipelines.verify import verify

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
STAGE = AnnotateStage(batch_size=6, precision="auto", flip_test=True, threads=1, block_mb=0.05, file_mb=0.001)


def rows_of(labels: Path) -> pa.Table:
    return ds.dataset(labels / "pseudo_gt", partitioning="hive").to_table().sort_by("sample_key")


def files_of(labels: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (labels / "pseudo_gt").rglob("*.parquet")}


@pytest.fixture(scope="module")
def job(tiny_world: Path, tiny_annotator: Path) -> Job:
    return Job(samples=str(tiny_world / "street"), annotator=str(tiny_annotator), out="-", stage=STAGE)


@pytest.fixture(scope="module")
def all_but_finished(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a driver leaves that is killed after the last label and before it says so."""
    out = tmp_path_factory.mktemp("resume") / "labels"
    connect()
    run = runs.open_run(str(out), **identity(job), resume=True)
    assert job.samples
    annotate.annotate(run, samples=job.samples, annotator=job.annotator, stage=job.stage)
    (out / "_SUCCESS.json").unlink()
    return out


@pytest.fixture
def killed(all_but_finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(all_but_finished, tmp_path / "labels"))


def test_killed_before_it_said_so_it_says_so(job: Job, killed: Path) -> None:
    before, method = files_of(killed), (killed / "method.json").read_bytes()
    main(dataclasses.replace(job, out=str(killed)))
    assert files_of(killed) == before and (killed / "method.json").read_bytes() == method
    assert verify(str(killed)).good and not list((killed / "_checkpoint").glob("*"))


def test_success_says_what_there_is(job: Job, killed: Path, tiny_annotator: Path) -> None:
    main(dataclasses.replace(job, out=str(killed)))
    said = json.loads((killed / "_SUCCESS.json").read_text())
    assert (said["rows_in"], said["ok"], said["quarantined"]) == (24, 24, {})
    listed = {one["path"]: (one["rows"], one["bytes"]) for one in said["files"]}
    assert listed == {
        str(p.relative_to(killed / "pseudo_gt")): (pq.read_metadata(p).num_rows, p.stat().st_size)
        for p in (killed / "pseudo_gt").rglob("*.parquet")
    }
    assert said["bytes"] == sum(size for _, size in listed.values()) and said["seconds"] > 0
    record = runs.load_run(killed, job="annotate")
    assert said["settings"] == record["settings"] and said["settings"]["stage"]["flip_test"] is True
    assert said["lineage"]["annotator_run_id"] == runs.load_run(tiny_annotator, job="train_annotator")["run_id"]
    method = json.loads((killed / "method.json").read_text())
    assert said["lineage"]["method"] == str(method["method"]) and method["tried"]


def test_what_was_not_committed_is_done_again_and_nothing_else(job: Job, all_but_finished: Path, killed: Path) -> None:
    """Killed before it committed, after it wrote, and within the commit, which in object storage copies and deletes."""
    records = sorted((killed / "_checkpoint").glob("*.parquet"))
    assert len(records) == 4
    pending = [one.with_name(one.name.replace(".parquet", ".pending.parquet")) for one in records]
    records[0].rename(pending[0])
    records[1].unlink()
    shutil.copy(records[2], pending[2])
    kept = {name: when for name, when in files_of(killed).items() if name.startswith(records[3].stem)}
    assert len(kept) == 1
    main(dataclasses.replace(job, out=str(killed)))
    assert kept.items() < files_of(killed).items()
    assert verify(str(killed)).good
    found, expected = rows_of(killed), rows_of(all_but_finished)
    for name in expected.column_names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name


def test_files_that_are_done_are_not_read_again(job: Job, killed: Path, tmp_path: Path) -> None:
    """Their keys alone are; of one that holds a sample without a commit, all of it."""
    record = min((killed / "_checkpoint").glob("*.parquet"))
    lost = pq.read_table(record)["sample_key"]
    assert 4 < len(lost) <= 8
    people = storage.read_parquet(str(job.samples))
    people = people.take(np.argsort(~np.isin(people["sample_key"], lost), kind="stable"))  # what is lost comes first
    files = [str(tmp_path / "samples" / f"{i}.parquet") for i in range(6)]
    for i, path in enumerate(files):
        storage.write_parquet(people.slice(4 * i, 4), path)
    run = runs.open_run(str(killed), **identity(job), resume=True)

    def left() -> set[str]:
        return commits.files_left(run, files, samples=str(tmp_path / "samples"))

    assert left() == set()
    record.unlink()
    assert left() == set(files[:2])
    shutil.rmtree(killed / "_checkpoint")
    assert left() == set(files)


def test_what_an_orphan_did_twice_is_taken_back(job: Job, all_but_finished: Path, killed: Path) -> None:
    """A writer cut off from its driver commits when the next driver has already begun: its samples are there twice."""
    record = min((killed / "_checkpoint").glob("*.parquet"))
    (labels,) = (p for p in (killed / "pseudo_gt").rglob("*.parquet") if p.name.startswith(record.stem))
    for path in (record, labels):
        shutil.copy(path, path.with_name("orphan" + path.name))
    assert rows_of(killed).num_rows > 24
    main(dataclasses.replace(job, out=str(killed)))
    assert verify(str(killed)).good and rows_of(killed).num_rows == 24
    assert rows_of(killed)["body_pose"].to_pylist() == rows_of(all_but_finished)["body_pose"].to_pylist()


def test_something_else_is_refused_with_what_differs(
    job: Job, killed: Path, tiny_world: Path, tiny_annotator: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_annotator, tmp_path / "f"))
    weights = other / "annotator.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    before = files_of(killed)
    for wrong, said in (
        ({"stage": dataclasses.replace(STAGE, flip_test=False)}, "flip_test: there True, now False"),
        ({"annotator": str(other)}, "annotator_sha256: there"),
        ({"samples": str(tiny_world / "studio")}, "samples: there"),
    ):
        with pytest.raises(ValueError, match=said):
            main(dataclasses.replace(job, out=str(killed), **wrong))
        assert files_of(killed) == before and not (killed / "_driver.json").exists()


@pytest.mark.parametrize(
    "layout",
    [
        {"actors": 2, "readers": 1},
        {"actors": 4, "readers": 2, "block_mb": 0.05, "file_mb": 0.01},
    ],
)
def test_labels_are_the_same_bits_whatever_the_layout(
    layout: dict[str, float], tiny_world: Path, tiny_annotator: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    stage = AnnotateStage(batch_size=10, **layout)  # type: ignore[arg-type]
    out = tmp_path / "labels"
    main(Job(samples=str(tiny_world / "street"), annotator=str(tiny_annotator), out=str(out), stage=stage))
    one, other = rows_of(tiny_labels), rows_of(out)
    for name in one.column_names:
        assert one[name].to_pylist() == other[name].to_pylist(), name


def test_another_batch_size_moves_labels_in_their_last_bits_alone(
    tiny_world: Path, tiny_annotator: Path, tiny_labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    stage = AnnotateStage(batch_size=3)
    main(Job(samples=str(tiny_world / "street"), annotator=str(tiny_annotator), out=str(out), stage=stage))
    one, other = rows_of(tiny_labels), rows_of(out)
    for a, b in zip(one["joints_3d_m"].to_pylist(), other["joints_3d_m"].to_pylist(), strict=True):
        assert a == pytest.approx(b, abs=1e-5, rel=1e-6)
    assert one["status"].to_pylist() == other["status"].to_pylist()


TOO_SMALL = """
import dataclasses, pickle, sys
from jobs.annotate import main
job, outs = pickle.load(sys.stdin.buffer)
for out in outs:
    try:
        main(dataclasses.replace(job, out=out))
        print("ended well")
    except ValueError as error:
        print(error)
"""


@pytest.mark.faults
def test_no_cluster_is_too_small_to_end(job: Job, killed: Path, photos: Path, tmp_path: Path) -> None:
    """With 1 and 2 logical CPUs a plan that would wait for ever is refused; with 4 it ends. Fresh and resumed. Ingest
    fits one."""
    import pickle

    from ray.cluster_utils import Cluster

    records = sorted((killed / "_checkpoint").glob("*.parquet"))
    records[0].unlink()
    node = {"object_store_memory": 150_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **node})

    def told() -> str:
        run = subprocess.run(
            [sys.executable, "-c", TOO_SMALL], cwd=ROOT, capture_output=True, timeout=240, check=True,
            input=pickle.dumps((job, [str(tmp_path / "fresh"), str(killed)])),
            env={**os.environ, "RAY_ADDRESS": str(cluster.address)},
        )  # fmt: skip
        return run.stdout.decode()

    try:
        folders = ["--annotations", str(photos / "keypoints.json"), "--images", str(photos)]
        subprocess.run(
            [sys.executable, "jobs/ingest.py", "coco", *folders, "--out", str(tmp_path / "ingested")], cwd=ROOT,
            timeout=240, check=True, env={**os.environ, "RAY_ADDRESS": str(cluster.address)},
        )  # fmt: skip
        assert storage.read_parquet(str(tmp_path / "ingested")).num_rows == 5
        for have, more in ((1, 1), (2, 2)):
            said = told()
            assert said.count(f"it needs 3.25 CPUs, it has {have}") == 2 and "start Ray with more CPUs" in said
            assert not (tmp_path / "fresh").exists() and not (killed / "_SUCCESS.json").exists()
            cluster.add_node(wait=True, num_cpus=more, **node)
        assert told().splitlines().count("ended well") == 2
    finally:
        cluster.shutdown()
    assert verify(str(killed)).good and verify(str(tmp_path / "fresh")).good
    assert storage.exists(str(killed / "_SUCCESS.json"))
