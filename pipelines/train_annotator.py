"""Training of the annotation network f on Ray Train, fed by Ray Data: mixed batches of 3D and 2D supervision."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import ray.train
import ray.train.torch
import torch
from ray.data import Dataset
from ray.train import DataConfig, RunConfig, ScalingConfig, WorkerGroupError
from torch import Tensor

from mesh_lib.losses.pose2pose import Pose2PoseLossConfig, annotator_losses
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.supervision import Truth, make_targets
from pipelines import annotators, runs, storage
from pipelines.bodies import body_npz, load_body_of, put_body
from pipelines.stream import Source, StreamConfig, open_source, training_stream

log = logging.getLogger(__name__)

METRICS = "metrics.json"
SHUFFLE_ROWS = 512
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""On a CPU a step frees and maps its large tensors anew; in huge pages that costs a tenth of the step less."""


@dataclass(frozen=True, kw_only=True)
class AnnotatorTraining:
    """How f is trained. The defaults are those of Three Recipes, supplement C."""

    model: Pose2PoseConfig = field(default_factory=Pose2PoseConfig)
    loss: Pose2PoseLossConfig = field(default_factory=Pose2PoseLossConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    batch_size: int = 192
    """Samples of one step, over all workers."""
    weak_share: float = 0.5
    """Part of every batch that comes from the 2D-supervised datasets: exact in each batch."""
    epochs: int = 15
    samples_per_epoch: int | None = None
    """An epoch is this many samples; by default as many as both groups hold."""
    learning_rate: float = 1e-4
    schedule: Literal["drops", "linear"] = "drops"
    """drops: the learning rate is cut to a tenth at `lr_drops`. linear: it rises for `warm_up` steps and falls to 0."""
    lr_drops: tuple[int, ...] = (11, 13)
    """Epochs at which the learning rate is cut to a tenth."""
    warm_up: int = 100
    """Steps of the linear schedule's rise."""
    withhold_3d: bool = False
    """Hide all 3D truth: the 3D datasets supervise by their 2D alone (the control of Three Recipes, Table 9)."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    workers: int = 1
    threads: int = 2
    """CPU threads of each worker."""
    seed: int = 0

    def __post_init__(self) -> None:
        runs.require_positive(self, "batch_size", "epochs", "learning_rate", "warm_up", "workers", "threads")
        if self.samples_per_epoch is not None:
            runs.require_positive(self, "samples_per_epoch")
        if not 0 <= self.weak_share <= 1:
            raise ValueError(f"weak_share is a part of the batch, between 0 and 1; it is {self.weak_share}")

    def steps(self, rows: int) -> int:
        """Steps of one epoch."""
        return max(1, (self.samples_per_epoch or rows) // self.batch_size)

    def learning_rate_at(self, step: int, *, steps: int) -> float:
        """Of one step, counted from 0 over the whole training; `steps` are those of one epoch."""
        if self.schedule == "linear":
            return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * (1 - step / (steps * self.epochs))
        epoch = step // steps + 1
        return self.learning_rate * 0.1 ** sum(epoch >= drop for drop in self.lr_drops)


def train_annotator(
    run: runs.Run,
    *,
    strong: list[str],
    weak: list[str],
    prior: str,
    body: str,
    training: AnnotatorTraining,
    report: Callable[[str], None] = log.info,
) -> dict[str, Any]:
    """Train f into the run folder; returns the last metrics.

    strong and weak are sample folders with 3D and with 2D supervision. Raises ValueError for a mix that cannot
    be drawn: no datasets for a share of the batch, or a share that splits no batch evenly over the workers; and for
    3D truth that speaks of another body.
    """
    counts = _split_batch(training, strong=bool(strong), weak=bool(weak))
    sources = [open_source(path) for path in [*strong, *weak]]
    rows = sum(source.rows for source in sources)
    steps = training.steps(rows) * training.epochs
    _check_bodies(sources[: len(strong)], hashlib.sha256(body_npz(body)).hexdigest())
    put_body(body, run.folder)
    streams: dict[str, Dataset] = {}
    for name, paths, hidden in (("strong", strong, training.withhold_3d), ("weak", weak, True)):
        if counts[name]:
            needed = int(steps * counts[name] * training.workers * 1.1) + SHUFFLE_ROWS * 4 * training.workers
            streams[name] = training_stream(
                paths, samples=needed, weak=hidden, input_size=training.model.input_size, config=training.stream
            )
    # Ray Train keeps its own state beside the weights, under a name that readers skip.
    system, scratch = storage.resolve(run.path("_ray"))
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "training": training,
            "run": run.folder,
            "prior": storage.absolute(prior),
            "rows": rows,
            "counts": counts,
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
    )
    try:
        with _Follow(run.path(METRICS), report):
            trainer.fit()
    except WorkerGroupError as error:  # what went wrong in the worker, not how Ray carried it here
        failure = next(iter(error.worker_failures.values()), error)
        raise getattr(failure, "_base_exc", failure) from error
    return storage.read_json(run.path(METRICS))[-1]


def _check_bodies(sources: list[Source], sha256: str) -> None:
    for source in sources:
        if source.bodies - {sha256}:
            raise ValueError(
                f"the SMPL parameters in {source.path} are of another body than --body: its file's SHA-256 is "
                f"{', '.join(sorted(source.bodies))}, not {sha256}\n"
                "  fix: pass the body that the samples were made with (open worlds keep it beside them, as body.npz)"
            )


def _split_batch(training: AnnotatorTraining, *, strong: bool, weak: bool) -> dict[str, int]:
    """Samples of each kind that one worker adds to every batch."""
    weak_rows = round(training.batch_size * training.weak_share)
    counts = {"strong": training.batch_size - weak_rows, "weak": weak_rows}
    for name, given in (("strong", strong), ("weak", weak)):
        if bool(counts[name]) != given:
            need = f"{counts[name]} of {training.batch_size} samples of a batch should be {name}ly supervised"
            raise ValueError(
                f"{need}, but {'no such dataset was given' if not given else 'datasets were given for it'}\n"
                "  fix: pass datasets for both kinds, or set weak_share to 0 (3D only) or 1 (2D only)"
            )
        if counts[name] % training.workers:
            raise ValueError(f"{counts[name]} {name} samples a batch do not split over {training.workers} workers")
    return {name: count // training.workers for name, count in counts.items()}


def _worker(config: dict[str, Any]) -> None:
    training: AnnotatorTraining = config["training"]
    torch.manual_seed(training.seed)
    torch.set_num_threads(training.threads)
    device = ray.train.torch.get_device()
    annotator = Annotator(
        training.model,
        body=load_body_of(config["run"]),
        vposer=annotators.load_prior(config["prior"]),
    ).to(device)
    model = ray.train.torch.prepare_model(annotator)
    optimizer = torch.optim.Adam(
        [p for p in annotator.parameters() if p.requires_grad], lr=training.learning_rate, fused=True
    )
    batches = _mixed_batches(config["counts"], seed=training.seed, device=device)
    steps = training.steps(config["rows"])
    history: list[dict[str, Any]] = []
    first = ray.train.get_context().get_world_rank() == 0
    for epoch in range(1, training.epochs + 1):
        history.append(_epoch(model, annotator, optimizer, batches, steps, training, epoch))
        if first:
            annotators.save_annotator(annotator, config["run"])
            storage.write_json(storage.join(config["run"], METRICS), history)
        ray.train.report(history[-1])


def _epoch(
    model: torch.nn.Module,
    annotator: Annotator,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, Tensor]],
    steps: int,
    training: AnnotatorTraining,
    epoch: int,
) -> dict[str, Any]:
    model.train()
    totals: dict[str, float] = {}
    started, waited, device = time.monotonic(), 0.0, next(annotator.parameters()).device
    for step in range((epoch - 1) * steps, epoch * steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate_at(step, steps=steps)
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        image, truth = _to_tensors(batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
            answer = model(image)
        targets = make_targets(truth, keypoints=annotator.keypoints)
        losses = annotator_losses(answer, targets, model=training.model, config=training.loss)
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

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        self.path, self.report, self.told = path, report, 0
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
            self.report(
                f"epoch {m['epoch']}/{m['epochs']}  loss {m['loss']:.3f}  lr {m['lr']:.0e}  "
                f"{m['samples_per_s']:.0f} samples/s  waited for data {m['data_wait']:.0%}"
            )
        self.told = len(history)
