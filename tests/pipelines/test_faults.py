"""Annotate on a bad day: whatever is killed, filled or cut off, the same command ends in the same rows.

Each run is the real command on a real cluster of several nodes. `make faults` runs them, at ANNOMESH_FAULT_SEEDS random
moments for each kill; `make test` leaves them out.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from pipelines import storage
from pipelines.verify import verify
from tests.fault_proxy import FaultProxy

pytestmark = [pytest.mark.ray, pytest.mark.faults]
ROOT = Path(__file__).parents[2]
SEEDS = range(int(os.environ.get("ANNOMESH_FAULT_SEEDS", "1")))
SHARDS, COPIES = 6, 4
STAGE = ("--stage.batch-size", "8", "--stage.threads", "1", "--stage.file-mb", "0.02", "--stage.block-mb", "0.1")


@pytest.fixture(scope="module")
def samples(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """576 people in six shards, a damaged picture in each."""
    table = storage.read_parquet(str(tiny_world / "street"))
    out = tmp_path_factory.mktemp("faults") / "samples"
    for shard in range(SHARDS):
        rows = []
        for copy in range(COPIES):
            for row in table.to_pylist():
                row["sample_id"] = f"{row['sample_id']}/{shard}-{copy}"
                row["sample_key"] = tables.sample_key(row["sample_id"])
                rows.append(row)
        rows[5]["image"] = rows[5]["image"][:100]
        storage.write_parquet(pa.Table.from_pylist(rows, schema=table.schema), str(out / f"part-{shard}.parquet"))
    return out


@pytest.fixture(scope="module")
def undisturbed(samples: Path, tiny_annotator: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    from jobs.annotate import Job, main
    from pipelines.annotate import AnnotateStage

    out = tmp_path_factory.mktemp("faults") / "labels"
    stage = AnnotateStage(batch_size=8, threads=1)
    main(Job(samples=str(samples), annotator=str(tiny_annotator), out=str(out), stage=stage))
    return rows_of(str(out))


def rows_of(labels: str) -> pa.Table:
    system, folder = storage.resolve(f"{labels}/pseudo_gt")
    return ds.dataset(folder, filesystem=system, partitioning="hive").to_table().sort_by("sample_key")


def check(labels: str, undisturbed: pa.Table) -> None:
    audit = verify(labels)
    assert audit.good, audit.record()
    found = rows_of(labels)
    assert audit.statuses == {"ok": SHARDS * (24 * COPIES - 1), "bad_image": SHARDS}
    for name in undisturbed.column_names:
        assert found[name].to_pylist() == undisturbed[name].to_pylist(), name
    assert BODY33.name == found.schema.metadata[b"joint_set"].decode()
    assert not storage.list_hidden(f"{labels}/_checkpoint") and not storage.exists(f"{labels}/_driver.json")


class Machines:
    """A cluster of a head, which works, and two more nodes, of four logical CPUs each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 4, "object_store_memory": 150_000_000, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, connect=False, head_node_args=node)
        del node["include_dashboard"]
        self.workers = [self.cluster.add_node(**node) for _ in range(2)]

    def stop(self) -> None:
        self.cluster.shutdown()


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines()
    try:
        yield made
    finally:
        made.stop()


def start(
    machines: Machines | None, samples: Path | str, annotator: Path | str, out: str, *more: str, **environment: str
) -> Any:
    """The command, as its user types it."""
    address = {"RAY_ADDRESS": str(machines.cluster.address)} if machines else {}
    command = [
        sys.executable,
        "jobs/annotate.py",
        "--samples",
        str(samples),
        "--annotator",
        str(annotator),
        "--out",
        out,
    ]
    return subprocess.Popen(
        [*command, *STAGE, "--stage.actors", "2", *more], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, **address, **environment},
    )  # fmt: skip


def finish(process: Any) -> str:
    try:
        told, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        told = process.communicate()[0]
    assert process.returncode == 0, told[-4000:]
    return told


def wait_for_commits(out: str, process: Any, seed: int) -> None:
    """Until a random number of commits is there, and a random moment more."""
    wanted = random.Random(seed).randint(1, 12)
    for _ in range(2400):
        if len(storage.list_hidden(f"{out}/_checkpoint", ".parquet")) >= wanted or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(random.Random(seed).random() / 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_actor_is_killed(
    seed: int, s3: str, machines: Machines, samples: Path, tiny_annotator: Path, undisturbed: pa.Table
) -> None:
    out = f"{s3}/actor-{seed}"
    process = start(machines, samples, tiny_annotator, out)
    wait_for_commits(out, process, seed)
    assert process.poll() is None, finish(process)
    victims = [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or [])]
    assert victims
    random.Random(seed).choice(victims).kill()
    finish(process)
    check(out, undisturbed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_is_killed(
    seed: int, machines: Machines, samples: Path, tiny_annotator: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    process = start(machines, samples, tiny_annotator, str(tmp_path / "labels"))
    wait_for_commits(str(tmp_path / "labels"), process, seed)
    assert process.poll() is None, finish(process)
    machines.cluster.remove_node(random.Random(seed).choice(machines.workers), allow_graceful=False)
    finish(process)
    check(str(tmp_path / "labels"), undisturbed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_driver_is_killed_and_then_the_head(
    seed: int, s3: str, samples: Path, tiny_annotator: Path, undisturbed: pa.Table
) -> None:
    """Three times the same command: its driver is killed, then the whole cluster with the driver on it."""
    out = f"{s3}/driver-{seed}"
    machines = Machines()
    try:
        process = start(machines, samples, tiny_annotator, out)
        wait_for_commits(out, process, seed)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start(machines, samples, tiny_annotator, out)
        done = len(storage.list_hidden(f"{out}/_checkpoint", ".parquet"))
        for _ in range(1200):
            if len(storage.list_hidden(f"{out}/_checkpoint", ".parquet")) > done or process.poll() is not None:
                break
            time.sleep(0.05)
        head = machines.cluster.head_node
        assert head
        head.kill_all_processes(check_alive=False, allow_graceful=False)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finally:
        machines.stop()
    assert not storage.exists(f"{out}/_SUCCESS.json")
    machines = Machines()
    try:
        told = finish(start(machines, samples, tiny_annotator, out))
    finally:
        machines.stop()
    assert "samples are done already" in told
    check(out, undisturbed)


def test_a_store_that_throttles_resets_and_stalls(
    samples: Path, tiny_annotator: Path, undisturbed: pa.Table, s3: str, tmp_path: Path
) -> None:
    """A fifth of all requests, of the driver's and the workers', on the way in and on the way out."""
    for name, folder in (("samples", samples), ("f", tiny_annotator)):
        for path in (p for p in folder.rglob("*") if p.is_file() and "_ray" not in p.parts):
            storage.write_bytes(f"{s3}/weather/{name}/{path.relative_to(folder)}", path.read_bytes())
    target = os.environ["AWS_ENDPOINT_URL"].partition("://")[2]
    out = f"{s3}/weather/labels"
    with FaultProxy(target, share=0.2, seed=1) as proxy:
        environment = {"AWS_ENDPOINT_URL": proxy.url, "RAY_ADDRESS": ""}
        finish(start(None, f"{s3}/weather/samples", f"{s3}/weather/f", out, "--stage.file-mb", "1", **environment))
    assert all(count > 3 for count in proxy.met.values()), proxy.met
    check(out, undisturbed)


def test_two_drivers_at_once(s3: str, samples: Path, tiny_annotator: Path, undisturbed: pa.Table) -> None:
    out = f"{s3}/two-drivers"
    both = [start(None, samples, tiny_annotator, out, RAY_ADDRESS="") for _ in range(2)]
    told = [process.communicate(timeout=300)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 1], told
    assert sum("another driver is at work on this output" in text for text in told) == 1, told
    check(out, undisturbed)


def test_an_input_that_vanishes_is_named_and_its_return_ends_well(
    samples: Path, tiny_annotator: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    moving = Path(shutil.copytree(samples, tmp_path / "samples"))
    out, shard = str(tmp_path / "labels"), moving / "part-5.parquet"
    process = start(None, moving, tiny_annotator, out, RAY_ADDRESS="")
    for _ in range(1200):
        if storage.exists(f"{out}/body.npz") or storage.list_hidden(f"{out}/_checkpoint"):
            break
        time.sleep(0.05)
    shard.rename(tmp_path / "away")
    told, _ = process.communicate(timeout=240)
    assert process.returncode == 1 and "part-5.parquet" in told and "Traceback" not in told, told[-3000:]
    refused = start(None, moving, tiny_annotator, out, RAY_ADDRESS="")
    told, _ = refused.communicate(timeout=240)
    assert refused.returncode == 1 and "rows: there 576, now 480" in told, told[-3000:]
    (tmp_path / "away").rename(shard)
    finish(start(None, moving, tiny_annotator, out, RAY_ADDRESS=""))
    record = verify(out)
    assert record.good and record.rows == len(undisturbed), record.record()


def test_a_full_disk_is_said_in_one_message_and_room_ends_well(
    samples: Path, tiny_annotator: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        out = str(disk / "labels")
        process = start(None, samples, tiny_annotator, out, RAY_ADDRESS="")
        told, _ = process.communicate(timeout=240)
        assert process.returncode == 1 and "No space left on device" in told and "Traceback" not in told, told[-3000:]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        finish(start(None, samples, tiny_annotator, out, RAY_ADDRESS=""))
        check(out, undisturbed)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
