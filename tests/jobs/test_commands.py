"""The commands as their users type them: help that tells, mistakes in one message, jobs submitted to a real head."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import pytest
import tyro

from jobs import ingest
from mesh_lib.datasets.readers import READERS
from pipelines import runs

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__")


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def run_here(job: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, which has imported all that is slow to import."""
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", *arguments])
    runpy.run_path(str(ROOT / "jobs" / f"{job}.py"), run_name="__main__")


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_is_read_and_written(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        run_here(job, "--help", monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    assert done.value.code == 0
    assert "Reads" in told and "Writes" in told and f"python jobs/{job}.py" in told


DATASET_COMMANDS = re.findall(r"^    jobs/ingest\.py ([^#\n]+)", (ROOT / "docs" / "datasets.md").read_text(), re.M)


@pytest.mark.parametrize("command", DATASET_COMMANDS)
def test_the_commands_of_the_docs_are_commands(command: str) -> None:
    name, *options = command.split()
    job = tyro.cli(ingest.job_of(READERS[name]), args=[*options, "--out", "x"])
    assert job.out == "x" and isinstance(job.reader, READERS[name])


def test_every_dataset_has_its_command_in_the_docs() -> None:
    assert {command.split()[0] for command in DATASET_COMMANDS} == set(READERS)


def test_presets_are_shown_and_overridden(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def show(*arguments: str) -> dict[str, Any]:
        caplog.clear()
        with caplog.at_level("INFO"):
            run_here("train_annotator", *arguments, "--show", monkeypatch=monkeypatch)
        return json.loads(caplog.messages[-1])

    published = show()
    assert published == show("--preset", "three-recipes")
    assert (published["batch_size"], published["epochs"], published["lr_drops"]) == (192, 15, [11, 13])
    assert published["learning_rate"] == 1e-4 and published["init"] == "pose2d"
    assert published["model"]["backbone"] == 50 and published["loss"]["l2_weight"] == 1e-2
    other = show("--preset", "neuralannot", "--training.batch-size", "48", "--training.model.backbone", "34")
    assert other["model"] == published["model"] | {
        "regressor": "neural_annot", "input_width": 256, "input_height": 256, "backbone": 34,
    }  # fmt: skip
    assert other["batch_size"] == 48 and not other["stream"]["augment"] and other["init"] == "imagenet"
    assert show("--preset=demo")["model"]["backbone"] == 18


def test_every_datasets_options_stand_beside_the_jobs() -> None:
    """A reader's field of the same name as a job's would hide it."""
    taken = {field.name for field in dataclasses.fields(ingest.Job)}
    for name, kind in READERS.items():
        own = {field.name for field in dataclasses.fields(cast(Any, kind))}
        assert own and not own & taken, name
        assert {field.name for field in dataclasses.fields(ingest.job_of(kind))} == taken


def test_a_missing_option_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        run_here("train_annotator", "--preset", "demo", monkeypatch=monkeypatch)
    assert done.value.code == 2
    told = capsys.readouterr()
    assert "--out" in told.out + told.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("annotate", "--samples", "{}/no", "--annotator", "{}/f", "--out", "{}/o"), "not a run folder"),
        (("ingest", "coco", "--annotations", "{}/no.json", "--images", "{}", "--out", "{}/o"), "no annotation file"),
        (("train_annotator", "--prior", "{}/no", "--body", "{}/SMPL.npz", "--out", "{}/o"), "body model not found"),
        (("ingest", "3dpw", "--folder", "{}", "--out", "{}/o"), r"no \*\.pkl in"),
        (("export", "eft", "--labels", "{}/no", "--out", "{}/o"), "not a run folder"),
        (
            ("import_labels", "eft", "--labels", "{}/no", "--samples", "{}", "--body", "low", "--out", "{}/o"),
            "no such input",
        ),
        (("report", "--labels", "{}/no", "--out", "{}/r.html"), "not a run folder"),
        (("report", "--out", "{}/r.html"), "pass --labels"),
        (("build_body", "--convert", "{}/no.pkl", "--out", "{}/b.npz"), "body model not found"),
        (("train_prior", "--bvh", "{}", "--body", "low", "--out", "{}/o"), r"no \.bvh or \.amc clips"),
        (("synthesize", "--size", "3", "--out", "{}/o"), "size"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
@pytest.mark.ray
def test_a_mistake_is_one_message(
    ray_cluster: None, command: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    job, *arguments = (part.replace("{}", str(tmp_path)) for part in command)
    with pytest.raises(SystemExit) as done:
        run_here(job, *arguments, monkeypatch=monkeypatch)
    told = capsys.readouterr()
    assert re.search(said, f"{done.value.code} {told.out} {told.err}") and done.value.code != 0


@pytest.mark.ray
def test_a_mistake_found_by_a_task_ends_with_our_own_words(
    ray_cluster: None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data tells of retries, and of settings of its own, that a user of ours cannot know."""
    (tmp_path / "empty").mkdir()
    command = ("coco", "--annotations", f"{photos}/keypoints.json", "--images", f"{tmp_path}/empty")
    with pytest.raises(SystemExit) as done:
        run_here("ingest", *command, "--out", f"{tmp_path}/out", monkeypatch=monkeypatch)
    assert str(done.value.code).startswith("error: none of the pictures is under")
    assert str(done.value.code).endswith("that the annotations name")


def test_a_mistake_has_no_traceback(tmp_path: Path) -> None:
    done = run("jobs/annotate.py", "--samples", f"{tmp_path}/no", "--annotator", f"{tmp_path}/f", "--out", "o")
    assert done.returncode == 1
    assert "not a run folder" in done.stderr and "Traceback" not in done.stderr


def test_a_body_is_built_drawn_and_written(tmp_path: Path) -> None:
    out, sheet = tmp_path / "OPEN.npz", tmp_path / "sheet.png"
    job = str(ROOT / "jobs" / "build_body.py")
    done = run(job, "--resolution", "low", "--out", "OPEN.npz", "--sheet", "sheet.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 joints, 10 shape components" in done.stdout and out.stat().st_size > 100_000
    picture = cv2.imread(str(sheet))
    assert picture is not None and picture.shape == (1140, 1600, 3)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A real head node with token authentication; the environment that reaches it."""
    ports = []
    for _ in range(4):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    environment = {
        "HOME": os.environ["HOME"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 32,
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports[1]}",
    }  # fmt: skip
    ray = str(Path(sys.executable).with_name("ray"))
    started = subprocess.Popen(
        [ray, "start", "--head", "--block", "--num-cpus=8", "--object-store-memory=300000000", "--disable-usage-stats",
         f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}",
         f"--dashboard-agent-listen-port={ports[3]}"],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(120):
            try:
                socket.create_connection(("127.0.0.1", ports[1]), timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield environment
    finally:
        started.terminate()
        try:
            started.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, 9)
            started.wait()


@pytest.mark.ray
def test_annotate_through_ray_job_submit(
    head: dict[str, str], tiny_world: Path, tiny_annotator: Path, tmp_path: Path
) -> None:
    """As the README says it, against a head that asks for its token."""
    out = tmp_path / "labels"
    ray = str(Path(sys.executable).with_name("ray"))
    job = ["jobs/annotate.py", "--samples", str(tiny_world / "street"), "--annotator", str(tiny_annotator)]
    command = [ray, "job", "submit", "--working-dir", ".", "--", sys.executable, *job, "--out", str(out)]
    for _ in range(20):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False, env={**os.environ, **head}
        )
        if "No available agent" not in done.stderr:  # the head answers before it can take jobs
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "24 labelled" in done.stdout and "succeeded" in done.stdout
    record = runs.load_run(out, job="annotate")
    assert record["counts"] == {"ok": 24} and "sources sha256" in record["code"]["commit"]
    refused = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, **head, "RAY_AUTH_TOKEN": "x" * 32},
    )  # fmt: skip
    assert refused.returncode != 0, "a wrong token is refused"


@pytest.mark.ray
def test_the_line_works_on_s3(ray_cluster: None, s3: str, tiny_world: Path, tiny_annotator: Path) -> None:
    """Samples, annotator and labels in object storage; the same labels as on disk."""
    import pyarrow.dataset as ds
    from pyarrow import fs

    from jobs.annotate import Job, main
    from pipelines import storage

    for name, folder in (("street", tiny_world / "street"), ("f", tiny_annotator)):
        for path in (p for p in folder.rglob("*") if p.is_file() and "_ray" not in p.parts):
            storage.write_bytes(f"{s3}/line/{name}/{path.relative_to(folder)}", path.read_bytes())
    main(Job(samples=f"{s3}/line/street", annotator=f"{s3}/line/f", out=f"{s3}/line/labels"))
    system, folder = storage.resolve(f"{s3}/line/labels/pseudo_gt")
    assert isinstance(system, fs.S3FileSystem)
    assert ds.dataset(folder, filesystem=system, partitioning="hive").count_rows() == 24


@pytest.mark.ray
def test_stores_may_differ_and_no_secret_is_told(
    s3: str, tiny_world: Path, tiny_annotator: Path, tmp_path: Path
) -> None:
    """Samples in object storage, f and labels on a disk; the key that opens the store stands nowhere."""
    from pipelines import storage
    from pipelines.label_files import count_labels

    for path in (tiny_world / "street").glob("*.parquet"):
        storage.write_bytes(f"{s3}/mixed/street/{path.name}", path.read_bytes())
    secret, out = "never-to-be-seen-7f3a", tmp_path / "labels"
    command = [
        sys.executable, "jobs/annotate.py", "--samples", f"{s3}/mixed/street", "--annotator", str(tiny_annotator),
        "--out", str(out),
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
        env=env | {"AWS_SECRET_ACCESS_KEY": secret, "ANNOMESH_DEBUG": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert count_labels(str(out / "pseudo_gt")) == {"ok": 24}
    assert secret not in done.stdout + done.stderr
    assert not [path for path in out.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.ray
def test_labels_in_object_storage_are_scored_there(s3: str, tiny_world: Path, tiny_labels: Path) -> None:
    from jobs.evaluate import Labels, main
    from pipelines import storage

    for name, folder in (("street", tiny_world / "street"), ("labels", tiny_labels)):
        for path in (p for p in folder.rglob("*") if p.is_file() and "_checkpoint" not in p.parts):
            storage.write_bytes(f"{s3}/scored/{name}/{path.relative_to(folder)}", path.read_bytes())
    main(
        Labels(
            labels=f"{s3}/scored/labels", samples=(f"{s3}/scored/street",), truth=f"{tiny_world}/truth/street",
            protocol="open_world", out=f"{s3}/scored/scores",
        )
    )  # fmt: skip
    assert storage.read_json(f"{s3}/scored/scores/scores.json")["people"] == 24
    assert storage.exists(f"{s3}/scored/scores/scores.md")
