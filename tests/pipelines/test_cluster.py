"""What a cluster does not spend on a small job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray._private.state import state

from pipelines.cluster import cores

pytestmark = pytest.mark.ray


def test_a_read_of_parquet_starts_a_process_for_four_cpus_that_reads_footers(ray_cluster: None, tmp_path: Path) -> None:
    """Ray's default of 32 took longer than the work of a small job."""
    for i in range(40):
        pq.write_table(pa.table({"a": [i]}), tmp_path / f"{i}.parquet")
    before = footer_readers()
    assert ray.data.read_parquet(str(tmp_path)).sum("a") == sum(range(40))
    assert footer_readers() - before == min(32, max(1, cores() // 4))


def footer_readers() -> int:
    """All that this cluster has ever had."""
    return sum("FooterReader" in actor["ActorClassName"] for actor in state.actor_table(None).values())


@pytest.mark.parametrize("module", ["crops", "cutter", "ingest"])
def test_processes_that_only_decode_do_not_load_torch(module: str) -> None:
    """Each would take three seconds and 300 MB for it; with roma, which loads torch's compiler, a second more."""
    assert "torch" not in loaded_by(f"pipelines.{module}")


def test_torchs_compiler_is_not_loaded_for_a_look_at_the_help() -> None:
    found = loaded_by("jobs.annotate, jobs.train_annotator, jobs.evaluate")
    assert "torch" in found and "torch._dynamo" not in found


def loaded_by(modules: str) -> set[str]:
    """Names of all modules that a new process has once it has imported these."""
    code = f"import sys, {modules}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
