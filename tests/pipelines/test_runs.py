"""Run folders: never overwritten, taken up when equal, refused with the differences when not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines import runs, storage


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    actors: int = 1
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    return folder


def begin(out: Path, source: Path, settings: Settings | None = None, job: str = "synthesize") -> runs.Run:
    return runs.open_run(out, job=job, settings=settings or Settings(), inputs=[source])


def test_a_run_explains_itself(tmp_path: Path, source: Path) -> None:
    run = begin(tmp_path / "out", source)
    run.finish(rows=3)
    record = runs.load_run(tmp_path / "out", job="synthesize")
    assert record["settings"] == {"kind": "Settings", "seed": 0, "actors": 1, "inner": {"kind": "Inner", "rate": 0.1}}
    assert record["rows"] == 3 and record["run_id"] == run.run_id
    assert {"commit", "python", "torch", "ray"} <= record["code"].keys()


def test_code_without_git_is_known_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job submit` carries the files, not .git."""
    for name in ("pipelines", "jobs"):
        (tmp_path / name).mkdir()
    (tmp_path / "jobs" / "a.py").write_text("x = 1")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "pipelines" / "runs.py"))
    before = runs.code_version()["commit"]
    (tmp_path / "jobs" / "a.py").write_text("x = 2")
    assert "sources sha256" in before and runs.code_version()["commit"] != before


def test_an_equal_finished_run_is_left_alone(tmp_path: Path, source: Path) -> None:
    first = begin(tmp_path / "out", source)
    first.finish()
    again = begin(tmp_path / "out", source)
    assert again.finished and again.run_id == first.run_id and not first.finished


def test_how_wide_a_run_is_spread_does_not_make_it_another(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "out", source).finish()
    assert begin(tmp_path / "out", source, Settings(actors=9)).finished


def test_an_interrupted_run_starts_over_without_its_leftovers(tmp_path: Path, source: Path) -> None:
    first = begin(tmp_path / "out", source)
    storage.write_bytes(first.path("half.parquet"), b"x")
    again = begin(tmp_path / "out", source)
    assert not again.finished and again.run_id != first.run_id
    assert not storage.exists(again.path("half.parquet"))


def test_another_run_is_refused_with_what_differs(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "out", source).finish()
    with pytest.raises(ValueError, match="holds another run") as error:
        begin(tmp_path / "out", source, Settings(seed=4, inner=Inner(0.2)))
    assert "settings.seed: there 0, now 4" in str(error.value)
    assert "settings.inner.rate: there 0.1, now 0.2" in str(error.value)
    with pytest.raises(ValueError, match=r"job: there 'synthesize', now 'annotate'"):
        begin(tmp_path / "out", source, job="annotate")


def test_a_mistake_that_made_nothing_does_not_take_the_folder(tmp_path: Path, source: Path) -> None:
    mistaken = begin(tmp_path / "out", source, Settings(seed=4))
    assert not begin(tmp_path / "out", source).finished
    storage.write_bytes(mistaken.path("part.parquet"), b"x")
    with pytest.raises(ValueError, match="seed: there 0, now 5"):
        begin(tmp_path / "out", source, Settings(seed=5))


def test_a_run_of_many_stages_goes_on_with_what_it_has(tmp_path: Path, source: Path) -> None:
    first = begin(tmp_path / "out", source)
    storage.write_bytes(first.path("stage", "a.parquet"), b"x")
    again = runs.open_run(tmp_path / "out", job="synthesize", settings=Settings(), inputs=[source], resume=True)
    assert not again.finished and again.run_id == first.run_id and storage.exists(again.path("stage", "a.parquet"))


def test_other_inputs_are_another_run(tmp_path: Path, source: Path) -> None:
    begin(tmp_path / "out", source).finish()
    (source / "b.txt").write_text("new")
    with pytest.raises(ValueError, match="inputs"):
        begin(tmp_path / "out", source)


@pytest.mark.parametrize("name", ["thesis.tex", ".git/config", "_backup/a.bin"])
def test_a_folder_with_other_files_is_never_touched(name: str, tmp_path: Path, source: Path) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("years of work")
    with pytest.raises(ValueError, match="no run of annomesh made"):
        begin(tmp_path / "out", source)
    assert path.read_text() == "years of work"


def test_a_missing_input_is_named_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such input: .*gone"):
        begin(tmp_path / "out", tmp_path / "gone")
    assert not (tmp_path / "out").exists()


def test_only_a_finished_run_of_the_right_job_is_loaded(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ValueError, match="not a run folder"):
        runs.load_run(source, job="train_prior")
    run = begin(tmp_path / "out", source)
    with pytest.raises(ValueError, match="a run of synthesize, not of train_prior"):
        runs.load_run(tmp_path / "out", job="train_prior")
    with pytest.raises(ValueError, match="interrupted"):
        runs.load_run(tmp_path / "out", job="synthesize")
    run.finish()
    assert runs.load_run(tmp_path / "out", job="synthesize")["status"] == "complete"


def test_a_stage_is_known_by_the_run_that_made_it(tmp_path: Path, source: Path) -> None:
    run = begin(tmp_path / "out", source)
    run.finish()
    storage.write_bytes(run.path("street", "part.parquet"), b"x")
    assert runs.fingerprint(run.path("street")) == f"run {run.run_id}" == runs.fingerprint(run.folder)


def test_runs_live_on_s3_too(s3: str, source: Path) -> None:
    run = runs.open_run(f"{s3}/runs/a", job="annotate", settings={}, inputs=[source])
    run.finish(rows=1)
    assert runs.load_run(f"{s3}/runs/a", job="annotate")["rows"] == 1
    assert runs.open_run(f"{s3}/runs/a", job="annotate", settings={}, inputs=[source]).finished
