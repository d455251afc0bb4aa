"""The command: a second equal run does nothing, another one is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jobs.synthesize import Job, main
from pipelines.synthesize import World

WORLD = World(studio=2, street=0, street3d=0, street_test=0, size=64)


@pytest.mark.ray
def test_an_equal_second_run_changes_nothing_and_another_is_refused(ray_cluster: None, tmp_path: Path) -> None:
    job = Job(out=str(tmp_path / "world"), world=WORLD, body="low")
    main(job)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert len(files) == 2
    main(job)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == files
    with pytest.raises(ValueError, match="holds another run"):
        main(dataclasses.replace(job, world=dataclasses.replace(WORLD, seed=1)))


def test_a_missing_background_folder_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    world = dataclasses.replace(WORLD, backgrounds=tmp_path / "photos")
    with pytest.raises(ValueError, match="no such input"):
        main(Job(out=str(tmp_path / "world"), world=world, body="low"))
    assert not (tmp_path / "world").exists()
