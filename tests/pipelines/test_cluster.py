"""What a cluster does not spend on a small job."""

from __future__ import annotations

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
