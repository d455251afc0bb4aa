"""A training that is killed ends as if it had not been; two workers make what one makes; what is wrong is named."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file

from jobs.train_annotator import Job, main
from pipelines import annotators, storage
from pipelines.train_checkpoint import CHECKPOINT, Progress, load_checkpoint, read_progress, save_checkpoint
from pipelines.train_loop import METRICS, _Worker
from tests.conftest import ROOT, annotator_job

pytestmark = pytest.mark.ray
TIMEOUT_S = 150


def steps_done(out: Path) -> int:
    path = out / CHECKPOINT
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return read_progress(file.read(1_000_000)).step  # the header, not the weights


class Steps:
    """Watches the steps that checkpoints tell of: they must never go back."""

    def __init__(self, out: Path) -> None:
        self.out, self.seen = out, [steps_done(out)]
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        while not self.stop.wait(0.02):
            if (done := steps_done(self.out)) != self.seen[-1]:
                self.seen.append(done)

    def __enter__(self) -> Steps:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def wait_for(self, steps: int, driver: subprocess.Popen[bytes]) -> int:
        for _ in range(TIMEOUT_S * 20):
            if self.seen[-1] >= steps:
                return self.seen[-1]
            assert driver.poll() is None, "the job ended before it could be killed"
            time.sleep(0.05)
        raise AssertionError(f"no checkpoint of {steps} steps after {TIMEOUT_S} s")


def train_workers() -> list[psutil.Process]:
    """Processes of this session's cluster in which Ray Train runs a loop."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and "RayTrainWorker" in title:
            found.append(process)
    return found


def start_driver(job: Job) -> subprocess.Popen[bytes]:
    """The job in a process of its own, on this session's cluster."""
    code = "import pickle, sys; from jobs.train_annotator import main; main(pickle.load(sys.stdin.buffer))"
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    )
    assert driver.stdin
    with driver.stdin as stdin:
        stdin.write(pickle.dumps(job))
    return driver


@pytest.mark.faults
def test_a_killed_training_ends_as_an_undisturbed_one(
    tiny_annotator: Path, tiny_world: Path, tiny_prior: Path, published_resnet18: Path, tmp_path: Path
) -> None:
    """kill -9 of the worker, which Ray starts again; then of the driver, and the same command once more."""
    out = tmp_path / "f"
    job = annotator_job(tiny_world, tiny_prior, published_resnet18, out)
    with Steps(out) as steps:
        driver = start_driver(job)
        try:
            steps.wait_for(4, driver)
            (worker,) = train_workers()
            worker.kill()
            steps.wait_for(steps.seen[-1] + 8, driver)
        finally:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        for _ in range(TIMEOUT_S * 10):  # Ray ends what the driver owned
            if not train_workers():
                break
            time.sleep(0.1)
        assert not train_workers() and steps.seen[-1] < 40, "killed half-way"
        main(job)
    assert steps.seen == sorted(steps.seen), "no step was done again that a checkpoint had kept"
    undisturbed, disturbed = (load_file(folder / annotators.WEIGHTS) for folder in (tiny_annotator, out))
    assert all(torch.equal(undisturbed[name], disturbed[name]) for name in undisturbed)
    whole, resumed = (storage.read_json(str(folder / METRICS)) for folder in (tiny_annotator, out))
    same = ("epoch", "loss", "lr", "val_pa_mpjpe_mm", "unreadable")
    assert [[m[name] for name in same] for m in whole] == [[m[name] for name in same] for m in resumed]


@pytest.mark.faults
def test_two_workers_make_what_one_makes(
    tiny_world: Path, tiny_prior: Path, published_resnet18: Path, tmp_path: Path, s3: str
) -> None:
    """Two workers with half a batch each, one of them killed half-way; one with both halves in turn, from and to object
    storage; one whole batch.

    Between the first two are float32 sums in another order alone: losses within 0.5 %, and the backbone's weights, on
    their way from where they started, part by 4 % of that way (Adam's first steps turn on the sign of gradients near
    zero). The third has batch norm's statistics of the whole batch: losses within 10 %.
    """
    for name in ("studio", "street3d", "street"):
        storage.write_parquet(storage.read_parquet(str(tiny_world / name)), f"{s3}/two/world/{name}/a.parquet")
    two = tmp_path / "two"
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        str(two): (tiny_world, {"workers": 2, "threads": 1}),
        f"{s3}/two/f": (f"{s3}/two/world", {"accumulate": 2}),
        str(tmp_path / "one"): (tiny_world, {}),
    }
    metrics, weights = [], []
    for out, (world, how) in ways.items():
        made = {"precision": "float32", "epochs": 2, "samples_per_epoch": 24, "checkpoint_steps": 2, **how}
        job = annotator_job(world, tiny_prior, published_resnet18, out, **made)
        if out == str(two):
            with Steps(two) as steps:
                driver = start_driver(job)
                steps.wait_for(2, driver)
                first, _second = train_workers()  # the other waits for its gradients
                first.kill()
                assert driver.wait(TIMEOUT_S) == 0 and steps.seen == sorted(steps.seen)
        else:
            main(job)
        metrics.append([epoch["loss"] for epoch in storage.read_json(storage.join(out, METRICS))])
        weights.append(annotators.read_weights(storage.join(out, annotators.WEIGHTS)))
        assert storage.exists(storage.join(out, CHECKPOINT)) and storage.exists(storage.join(out, "tensorboard"))
    assert len(metrics[0]) == 2
    assert metrics[0] == pytest.approx(metrics[1], rel=5e-3)
    assert metrics[0] == pytest.approx(metrics[2], rel=0.1)
    way = parted = 0.0
    for name, value in torch.load(published_resnet18, weights_only=True).items():
        if name.endswith("weight") and not name.startswith("fc"):
            two, one = (found[f"regressor.backbone.{name}"] for found in weights[:2])
            way, parted = way + (two - value).abs().sum().item(), parted + (two - one).abs().sum().item()
    assert way > 0 and parted < 0.04 * way


def test_a_loss_that_is_not_finite_names_its_sample(
    tiny_world: Path, tiny_prior: Path, published_resnet18: Path, tmp_path: Path
) -> None:
    table = storage.read_parquet(str(tiny_world / "studio"))
    rows = table.to_pylist()
    known = np.array(rows[5]["keypoints_3d_m"]).reshape(-1, 4)
    known[1:, :3] = 3e38  # all but the root
    rows[5]["keypoints_3d_m"] = known.ravel().tolist()
    storage.write_parquet(type(table).from_pylist(rows, schema=table.schema), str(tmp_path / "studio" / "a.parquet"))
    job = annotator_job(tiny_world, tiny_prior, published_resnet18, tmp_path / "f", epochs=1, workers=2, threads=1)
    with pytest.raises(ValueError, match=r"loss is not finite in epoch 1") as error:
        main(dataclasses.replace(job, strong=(str(tmp_path / "studio"),), validate=None))
    assert f"samples: {rows[5]['sample_id']}\n" in str(error.value)
    kept = tmp_path / "f" / CHECKPOINT
    assert not kept.exists() or all(value.isfinite().all() for value in load_file(kept).values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": 64, "batch_size": 128}, "64 workers and the reading of their samples want a CPU each"),
        ({"keep": "best"}, "keep best needs --validate"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    wrong: dict[str, Any], message: str, tiny_world: Path, tiny_prior: Path, published_resnet18: Path, tmp_path: Path
) -> None:
    job = annotator_job(tiny_world, tiny_prior, published_resnet18, tmp_path / "f", **wrong)
    with pytest.raises(ValueError, match=message):
        main(dataclasses.replace(job, validate=None))
    with pytest.raises(ValueError, match="cannot say how good the network is"):
        main(dataclasses.replace(job, validate=str(tiny_world / "street"), training=annotator_job(
            tiny_world, tiny_prior, published_resnet18, tmp_path / "f").training))  # fmt: skip


class Keeper:
    """Takes note of what the loop has it save."""

    def __init__(self) -> None:
        self.saved: list[str] = []

    def save(self, kind: str = "") -> None:
        self.saved.append(kind)


@pytest.mark.parametrize(("keep", "delivered"), [("last", 3), ("best", 2)])
def test_the_best_epoch_is_told_by_its_error(
    keep: str, delivered: int, tiny_annotator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three epochs with errors 60, 50 and 55 mm, the second."""
    worker = object.__new__(_Worker)
    training = dataclasses.replace(annotator_job(tmp_path, tmp_path, tmp_path, tmp_path).training, keep=keep)
    recipe = type("Recipe", (), {"error": "pa_mpjpe_mm"})
    worker.task = type("Task", (), {"folder": str(tmp_path), "recipe": recipe})  # pyright: ignore
    worker.training, worker.rank, worker.progress = training, 0, Progress()
    worker.network = torch.nn.Linear(1, 1)
    worker.optimizer = torch.optim.Adam(worker.network.parameters())
    keeper = worker.learner = Keeper()  # pyright: ignore
    counts = []
    for error in (60.0, 50.0, 55.0):
        worker._save({"val_pa_mpjpe_mm": error})
        counts.append(keeper.saved.count(""))
    assert counts[-1] == delivered and keeper.saved.count("best") == 2
    assert read_progress((tmp_path / CHECKPOINT).read_bytes()).best == 50.0
    with torch.no_grad():
        worker.network.weight.fill_(torch.nan)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="weights are not finite"):
        worker._save({"val_pa_mpjpe_mm": 40.0})
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_the_same_datasets_in_other_roles_are_another_training(
    tiny_annotator: Path, tiny_world: Path, tiny_prior: Path, published_resnet18: Path
) -> None:
    job = annotator_job(tiny_world, tiny_prior, published_resnet18, tiny_annotator)
    main(job)  # complete already
    with pytest.raises(ValueError, match=r"settings\.strong: there .*studio.*now .*street3d"):
        main(dataclasses.replace(job, strong=job.strong[::-1]))
    with pytest.raises(ValueError, match=r"settings\.weak"):
        main(dataclasses.replace(job, strong=(job.strong[0],), weak=(*job.weak, job.strong[1])))


def test_a_checkpoint_that_does_not_fit_says_so(tmp_path: Path) -> None:
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(3, 3)
    save_checkpoint(str(tmp_path), small, torch.optim.Adam(small.parameters()), Progress(step=3))
    assert load_checkpoint(str(tmp_path), small, torch.optim.Adam(small.parameters())).step == 3
    with pytest.raises(ValueError, match=r"checkpoint of another network[\s\S]*fix: "):
        load_checkpoint(str(tmp_path), large, torch.optim.Adam(large.parameters()))
    data = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (data[:40], data.replace(b"history", b"historx"), b""):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged[\s\S]*fix: "):
            load_checkpoint(str(tmp_path), small, torch.optim.Adam(small.parameters()))
