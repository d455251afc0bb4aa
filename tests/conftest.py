"""What many tests share: one Ray cluster a session, the real samples, the built bodies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local cluster, started once; only what was started here is stopped."""
    import ray

    from pipelines.cluster import connect

    os.environ.pop("RAY_ADDRESS", None)
    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Small real samples of the real datasets; tests that need them skip, visibly, where they are absent."""
    folder = Path(os.environ.get("ANNOMESH_SAMPLES", ROOT.parent / "shared" / "samples"))
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set ANNOMESH_SAMPLES")
    return folder
