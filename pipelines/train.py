"""Training on Ray Train, fed by Ray Data: what every network's training shares.

A recipe says what is trained and by which losses; here is how: mixed batches with an exact count of every kind, the
learning rate's schedule, mixed precision, an epoch that is a number of samples, and one line a finished epoch.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import ray.train
import ray.train.torch
import torch
from ray.data import Dataset
from ray.train import DataConfig, RunConfig, ScalingConfig, WorkerGroupError
from torch import Tensor, nn

from mesh_lib.nets.checkpoints import read_state
from mesh_lib.supervision import Truth
from pipelines import annotators, runs, storage
from pipelines.stream import StreamConfig

log = logging.getLogger(__name__)

METRICS = "metrics.json"
SHUFFLE_ROWS = 512
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""On a CPU a step frees and maps its large tensors anew; in huge pages that costs a tenth of the step less."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings that every training has. The defaults are those of Three Recipes, supplement C."""

    stream: StreamConfig = field(default_factory=StreamConfig)
    batch_size: int = 192
    """Samples of one step, over all workers."""
    epochs: int = 15
    samples_per_epoch: int | None = None
    """An epoch is this many samples; by default as many as all datasets hold."""
    learning_rate: float = 1e-4
    schedule: Literal["drops", "linear"] = "drops"
    """drops: the learning rate is cut to a tenth at `lr_drops`. linear: it rises for `warm_up` steps and falls to 0."""
    lr_drops: tuple[int, ...] = (11, 13)
    """Epochs at which the learning rate is cut to a tenth."""
    warm_up: int = 100
    """Steps of the linear schedule's rise."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    workers: int = 1
    threads: int = 2
    """CPU threads of each worker."""
    seed: int = 0

    def __post_init__(self) -> None:
        runs.require_positive(self, "batch_size", "epochs", "learning_rate", "warm_up", "workers", "threads")
        if self.samples_per_epoch is not None:
            runs.require_positive(self, "samples_per_epoch")

    def steps(self, rows: int) -> int:
        """Steps of one epoch."""
        return max(1, (self.samples_per_epoch or rows) // self.batch_size)

    def samples_needed(self, rows: int, count: int) -> int:
        """Samples to plan for a stream that gives `count` to every batch of each worker: some cannot be read."""
        steps = self.steps(rows) * self.epochs
        return int(steps * count * self.workers * 1.1) + SHUFFLE_ROWS * 4 * self.workers

    def learning_rate_at(self, step: int, *, steps: int) -> float:
        """Of one step, counted from 0 over the whole training; `steps` are those of one epoch."""
        if self.schedule == "linear":
            return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * (1 - step / (steps * self.epochs))
        epoch = step // steps + 1
        return self.learning_rate * 0.1 ** sum(epoch >= drop for drop in self.lr_drops)


class Learner(Protocol):
    """What one worker trains."""

    @property
    def network(self) -> nn.Module:
        """Pictures in, the answer that `losses` judges out."""
        ...

    def losses(self, answer: Any, truth: Truth) -> dict[str, Tensor]:
        """Weighted terms by name, each a scalar; their sum is the loss."""
        ...

    def save(self) -> None:
        """Write the weights into the run folder."""
        ...


class Recipe(Protocol):
    """How a worker, on whatever machine, gets its learner."""

    def start(self, folder: str) -> Learner: ...


def initial_state(init: str, weights: str | None, *, run_weights: Mapping[str, tuple[str, str]]) -> dict[str, Tensor]:
    """Named tensors that a training starts from; none for `random`.

    weights is a published checkpoint, or the run folder of the (job, file) that `run_weights` names for this `init`.
    Raises ValueError where the two do not go together, or hold nothing readable.
    """
    if (init == "random") != (weights is None):
        need = "needs --weights" if weights is None else "takes no --weights; name what they are"
        raise ValueError(f"--training.init {init} {need}")
    if weights is None:
        return {}
    if weights.endswith(annotators.CHECKPOINTS) or init not in run_weights:
        return read_state(weights)
    job, file = run_weights[init]
    runs.load_run(weights, job=job)
    return annotators.read_weights(storage.join(weights, file))


def fit(
    run: runs.Run, *, recipe: Recipe, streams: dict[str, Dataset], counts: dict[str, int], rows: int, training: Training
) -> dict[str, Any]:
    """Train into the run folder; returns the last epoch's metrics.

    counts are the samples that each stream gives to every batch of one worker; rows those of all datasets. Raises
    what a worker raised.
    """
    # Ray Train keeps its own state beside the weights, under a name that readers skip.
    system, scratch = storage.resolve(run.path("_ray"))
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "recipe": recipe, "training": training, "run": run.folder, "rows": rows, "counts": counts,
        },
        scaling_config=ScalingConfig(
            num_workers=training.workers,
            use_gpu=bool(ray.cluster_resources().get("GPU")),
            resources_per_worker={"CPU": 1},
        ),
        run_config=RunConfig(
            storage_path=scratch,
            storage_filesystem=system,
            name=run.run_id,
            worker_runtime_env={"env_vars": HUGE_PAGES},
        ),
        datasets={**streams},
        dataset_config=DataConfig(datasets_to_split="all"),
    )  # fmt: skip
    try:
        with _Follow(run.path(METRICS)):
            trainer.fit()
    except WorkerGroupError as error:  # what went wrong in the worker, not how Ray carried it here
        failure = next(iter(error.worker_failures.values()), error)
        raise getattr(failure, "_base_exc", failure) from error
    return storage.read_json(run.path(METRICS))[-1]


def _worker(config: dict[str, Any]) -> None:
    training: Training = config["training"]
    torch.manual_seed(training.seed)
    torch.set_num_threads(training.threads)
    device = ray.train.torch.get_device()
    learner: Learner = config["recipe"].start(config["run"])
    learner.network.to(device)
    wrapped = ray.train.torch.prepare_model(learner.network)
    learned = [p for p in learner.network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=training.learning_rate, fused=True)
    batches = _mixed_batches(config["counts"], seed=training.seed, device=device)
    steps = training.steps(config["rows"])
    history: list[dict[str, Any]] = []
    first = ray.train.get_context().get_world_rank() == 0
    for epoch in range(1, training.epochs + 1):
        history.append(_epoch(learner, wrapped, optimizer, batches, device, training, steps, epoch))
        if first:
            learner.save()
            storage.write_json(storage.join(config["run"], METRICS), history)
        ray.train.report(history[-1])


def _epoch(
    learner: Learner,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, Tensor]],
    device: torch.device,
    training: Training,
    steps: int,
    epoch: int,
) -> dict[str, Any]:
    wrapped.train()
    totals: dict[str, float] = {}
    started, waited = time.monotonic(), 0.0
    for step in range((epoch - 1) * steps, epoch * steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate_at(step, steps=steps)
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        image, truth = _to_tensors(batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
            answer = wrapped(image)
        losses = learner.losses(answer, truth)
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            bad = ", ".join(name for name, value in losses.items() if not torch.isfinite(value))
            raise ValueError(f"the loss became {loss.item()} in epoch {epoch} ({bad}); lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + value.item()
    seconds = time.monotonic() - started
    return {
        "epoch": epoch,
        "epochs": training.epochs,
        "loss": sum(totals.values()) / steps,
        **{f"loss_{name}": value / steps for name, value in totals.items()},
        "lr": optimizer.param_groups[0]["lr"],
        "samples_per_s": steps * training.batch_size / seconds,
        "data_wait": waited / seconds,
        "seconds": seconds,
    }


def _mixed_batches(counts: dict[str, int], *, seed: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches with the exact count of each kind, for ever; a stream that ends early says so."""
    streams = {}
    for name, count in counts.items():
        if count:
            shard = ray.train.get_dataset_shard(name)
            assert shard is not None
            batches = shard.iter_torch_batches(
                batch_size=count,
                device=device,
                local_shuffle_buffer_size=SHUFFLE_ROWS,
                local_shuffle_seed=seed,
                prefetch_batches=2,
                drop_last=True,
            )
            streams[name] = iter(batches)
    while True:
        parts = []
        for name, stream in streams.items():
            part = next(stream, None)
            if part is None:
                raise ValueError(f"the {name} datasets ran out: more than 10 % of their pictures cannot be read")
            parts.append(part)
        yield {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _to_tensors(batch: dict[str, Tensor]) -> tuple[Tensor, Truth]:
    """Picture in [0, 1], channels last in memory; and the truth."""
    image = batch["image"].permute(0, 3, 1, 2).float().div_(255)
    fields = Truth.__dataclass_fields__
    return image, Truth(**{name: batch[name] for name in fields})


class _Follow:
    """Tells of each epoch as its line appears in the run folder: workers may be on other machines."""

    def __init__(self, path: str) -> None:
        self.path, self.told = path, 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self._tell()

    def _watch(self) -> None:
        while not self.stop.wait(1.0):
            self._tell()

    def _tell(self) -> None:
        try:
            history = storage.read_json(self.path)
        except (OSError, json.JSONDecodeError, ValueError):
            return
        for m in history[self.told :]:
            log.info(
                f"epoch {m['epoch']}/{m['epochs']}  loss {m['loss']:.3f}  lr {m['lr']:.0e}  "
                f"{m['samples_per_s']:.0f} samples/s  waited for data {m['data_wait']:.0%}"
            )
        self.told = len(history)
