"""Training on Ray Train, fed by Ray Data, as the driver sees it: what starts, what is told, what went wrong.

A recipe says what is trained and by which losses; pipelines/train_loop.py is what each worker does with it,
pipelines/train_checkpoint.py what a killed one goes on from.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train.torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from tensorboardX import SummaryWriter
from torch import Tensor

from pipelines import annotators, runs, storage
from pipelines.cluster import is_own_cluster
from pipelines.sources import Source, read_group
from pipelines.train_checkpoint import CHECKPOINT
from pipelines.train_loop import METRICS, MISTAKE, PROGRESS, Recipe, Task, Training, train_worker
from pipelines.windows import Feed

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""On a CPU a step frees and maps its large tensors anew; in huge pages that costs a tenth of the step less."""
NAMED = 8
"""Samples that an error names."""


def initial_state(init: str, weights: str | None, *, run_weights: Mapping[str, tuple[str, str]]) -> dict[str, Tensor]:
    """Named tensors that a training starts from; none for `random`.

    weights is a published checkpoint, or the run folder of the (job, file) that `run_weights` names for this `init`.
    Raises ValueError where the two do not go together, or hold nothing readable.
    """
    if (init == "random") != (weights is None):
        need = "takes no --weights\n  fix: name what they are with --training.init"
        if weights is None:
            checkpoint = f"a published checkpoint{_makers(init, run_weights)}"
            need = f"needs --weights\n  fix: pass {checkpoint}, or --training.init random"
        raise ValueError(f"--training.init {init} {need}")
    if weights is None:
        return {}
    if weights.endswith(annotators.CHECKPOINTS) or init not in run_weights:
        return annotators.read_published(weights)
    job, file = run_weights[init]
    runs.load_run(weights, job=job)
    return annotators.read_weights(storage.join(weights, file))


def _makers(init: str, run_weights: Mapping[str, tuple[str, str]]) -> str:
    return f" or a run folder of jobs/{run_weights[init][0]}.py" if init in run_weights else ""


def make_feed(name: str, sources: list[Source], *, samples: int, training: Training) -> Feed:
    """Datasets that together give `samples` to every step's batch.

    Raises ValueError where these do not split evenly over the workers and the parts of a step.
    """
    among = training.workers * training.accumulate
    if samples % among:
        split = f"{training.workers} workers" + (f" and {training.accumulate} parts" if training.accumulate > 1 else "")
        raise ValueError(
            f"{samples} {name} samples a batch do not split over {split}\n"
            f"  fix: choose --training.batch-size and shares so that this number is a multiple of {among}"
        )
    return Feed(name, tuple(sources), samples // training.accumulate)


def check_fit(training: Training, feeds: list[Feed], validation: Source | None) -> None:
    """Raises ValueError for what no cluster, or not this one, can do: Ray would wait for it without a word."""
    if training.keep == "best" and validation is None:
        raise ValueError("--training.keep best needs --validate: without it no epoch is better than another")
    have = ray.cluster_resources()
    gpus, cpus = have.get("GPU", 0), have.get("CPU", 0)
    if gpus and training.workers > gpus:
        raise ValueError(f"{training.workers} workers want a GPU each; the cluster has {gpus:.0f}")
    if training.workers + 1 > cpus:
        raise ValueError(
            f"{training.workers} workers and the reading of their samples want a CPU each; the cluster has {cpus:.0f}\n"
            "  fix: fewer --training.workers, or more CPUs (on one machine: ray start --head --num-cpus=N)"
        )


def fit(
    run: runs.Run,
    *,
    recipe: Recipe,
    feeds: list[Feed],
    validation: Source | None,
    input_size: tuple[int, int],
    training: Training,
) -> dict[str, Any]:
    """Train into the run folder, from its last checkpoint if it has one; returns the last epoch's metrics.

    `check_fit` comes first. Raises what a worker raised, and ValueError for what is wrong with data or settings.
    """
    steps = training.steps(sum(feed.rows for feed in feeds))
    held = Feed("validation", (validation,), training.workers) if validation else None
    storage.delete(run.path(MISTAKE))
    log.info("every step: %s", ", ".join(f"{f.count * training.accumulate} samples of {f.name}" for f in feeds))
    task = Task(run.folder, recipe, training, input_size, tuple(feeds), held, steps)
    # Ray Train keeps its own state under a name that readers skip; what a training goes on from is ours.
    system, scratch = storage.resolve(run.path("_ray"))
    trainer = _Trainer(
        train_worker,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=training.workers,
            use_gpu=bool(ray.cluster_resources().get("GPU")),
            resources_per_worker={"CPU": 1},
        ),
        run_config=RunConfig(
            storage_path=scratch,
            storage_filesystem=system,
            name=runs.now().replace(":", ""),
            worker_runtime_env={"env_vars": HUGE_PAGES},
            failure_config=FailureConfig(max_failures=training.retries, controller_failure_limit=3),
        ),
    )
    try:
        with _Follow(run):
            trainer.fit()
    except WorkerGroupError as error:  # what went wrong in the worker, not how Ray carried it here
        _raise_mistake(run, feeds)
        failure = next(iter(error.worker_failures.values()), error)
        raise getattr(failure, "_base_exc", failure) from error
    _raise_mistake(run, feeds)
    return storage.read_json(run.path(METRICS))[-1]


IDLE_CALLBACKS = {"PlacementGroupCleanerCallback", "PreemptionCallback", "DatasetsCallback"}


class _Trainer(ray.train.torch.TorchTrainer):
    """Without what Ray Train does in vain on a cluster of this process's own.

    Such a cluster dies with its driver and is never preempted, and streams are made by the workers themselves. The
    cleaner asks the dashboard whether the trainer lives: where there is none, each training ends 12 seconds later. The
    other two are a process each.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()  # pyright: ignore[reportAttributeAccessIssue]
        return [c for c in made if not (is_own_cluster() and type(c).__name__ in IDLE_CALLBACKS)]


def _raise_mistake(run: runs.Run, feeds: list[Feed]) -> None:
    """What a worker found wrong with the data or the settings, with the names of the samples it was about."""
    if not storage.exists(run.path(MISTAKE)):
        return
    mistake = storage.read_json(run.path(MISTAKE))
    message = mistake["message"]
    if keys := mistake["sample_keys"]:
        names = _sample_ids(feeds, set(keys[:NAMED]))
        more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        message += f"\n  samples: {', '.join(names)}{more}"
        message += "\n  fix: look at their truth, or lower the learning rate (in another --out)"
    if storage.exists(run.path(CHECKPOINT)):
        message += f"\n  the last good checkpoint is kept in {run.folder}"
    raise ValueError(message) from RuntimeError(mistake["traceback"])


def _sample_ids(feeds: list[Feed], keys: set[int]) -> list[str]:
    """Names of the samples with these keys."""
    found = {}
    for source in (source for feed in feeds for source in feed.sources):
        for file, group, _ in source.groups:
            table = read_group(source.path, file, group, ("sample_key", "sample_id"))
            for key, name in zip(*(table.column(c).to_pylist() for c in table.column_names), strict=True):
                if key in keys:
                    found[key] = name
        if len(found) == len(keys):
            break
    return sorted(found.values())


class _Follow:
    """Tells of each epoch as it appears in the run folder (workers may be on other machines), to TensorBoard too."""

    def __init__(self, run: runs.Run) -> None:
        self.run, self.told = run, len(_read(run.path(METRICS)))
        self.so_far = _read(run.path(PROGRESS))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self.told:
            log.info("going on after epoch %d", self.told)
        self.folder = tempfile.TemporaryDirectory()
        self.board = SummaryWriter(self.folder.name)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self._tell()
        self.board.close()
        self.folder.cleanup()

    def _watch(self) -> None:
        while not self.stop.wait(1.0):
            self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(OSError):  # a store that does not answer: next time
            self._tell_new()

    def _tell_new(self) -> None:
        so_far = _read(self.run.path(PROGRESS))
        if so_far and so_far != self.so_far:
            log.info("  step %d/%d of %s", so_far["step"], so_far["steps"], _line(so_far))
        self.so_far = so_far
        fresh = _read(self.run.path(METRICS))[self.told :]
        for metrics in fresh:
            log.info(_line(metrics))
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self.board.add_scalar(name, value, metrics["epoch"])
        self.told += len(fresh)
        if fresh:
            self.board.flush()
            for file in Path(self.folder.name).iterdir():
                storage.write_bytes(self.run.path(TENSORBOARD, file.name), file.read_bytes())


def _read(path: str) -> Any:
    try:
        return storage.read_json(path)
    except (OSError, ValueError):  # not there yet, or just being replaced
        return []


def _line(metrics: dict[str, Any]) -> str:
    told = "".join(
        f"  {name} {value:.1f}" for name, value in metrics.items() if name.startswith("val_") and value is not None
    )
    unread = f"  {metrics['unreadable']:.0f} pictures unreadable" if metrics["unreadable"] else ""
    return (
        f"epoch {metrics['epoch']}/{metrics['epochs']}  loss {metrics['loss']:.3f}{told}  lr {metrics['lr']:.0e}  "
        f"{metrics['samples_per_s']:.0f} samples/s  waited for data {metrics['data_wait']:.0%}{unread}"
    )
