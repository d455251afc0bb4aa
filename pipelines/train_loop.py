"""What a training worker does: batches in, steps, a checkpoint now and then, and no step done twice.

A worker that starts looks for the run folder's last checkpoint and goes on from it: after the failure of a worker (Ray
Train starts the group anew) as after the death of the whole job (the same command again). The order of the samples is
planned (pipelines/windows.py), so what follows is what would have followed.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import ray.train
import ray.train.torch
import torch
from torch import Tensor, distributed, nn

from mesh_lib.hand_supervision import HandTruth
from mesh_lib.supervision import Truth
from pipelines import runs, storage
from pipelines.cluster import set_up_data
from pipelines.stream import batches, crop_stream
from pipelines.train_checkpoint import load_checkpoint, save_checkpoint
from pipelines.windows import Feed, StreamConfig

METRICS = "metrics.json"
MISTAKE = "mistake.json"
"""What stopped a training that would stop there again."""
PROGRESS = "progress.json"
"""How far the epoch is, written now and then for the driver to tell."""
TELL_EVERY_S = 30.0
NO_LOSSES = ("seconds", "waited", "unreadable")
"""What is summed beside the losses: seconds of steps, of waiting for data, pictures that others stood in for."""
VALIDATION_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings that every training has. The defaults are those of Three Recipes, supplement C."""

    stream: StreamConfig = field(default_factory=StreamConfig)
    batch_size: int = 192
    """Samples of one step, over all workers."""
    accumulate: int = 1
    """Parts that a step's batch is computed in, one after the other, for less memory: what as many workers would do."""
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network; auto: bfloat16 where the machine that trains computes in it, else float32, since most CPUs only
    imitate it, ten times as slowly. A run that goes on on another kind of machine is exact where it is named."""
    compile: bool = False
    """Let torch.compile fuse the network: a minute or two at the start, faster steps after, on a GPU."""
    keep: Literal["last", "best"] = "last"
    """Weights that the run delivers: of the last epoch, or of the best on the validation samples."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints; by default one at the end of every epoch."""
    workers: int = 1
    retries: int = 3
    """Failures of workers (a lost machine, a kill) that the training survives without being started again."""
    threads: int = 2
    """CPU threads of each worker."""
    seed: int = 0

    def __post_init__(self) -> None:
        runs.require_positive(
            self, "batch_size", "accumulate", "epochs", "learning_rate", "warm_up", "workers", "threads"
        )
        for name in ("samples_per_epoch", "checkpoint_steps"):
            if getattr(self, name) is not None:
                runs.require_positive(self, name)

    def steps(self, rows: int) -> int:
        """Steps of one epoch."""
        return max(1, (self.samples_per_epoch or rows) // self.batch_size)

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
        """`inputs` in, the answer that `losses` judges out."""
        ...

    def inputs(self, image: Tensor, truth: Any) -> tuple[Tensor, ...]:
        """What the network is given: the pictures and, in an ablation, of the truth."""
        return (image,)

    def losses(self, answer: Any, truth: Any) -> dict[str, Tensor]:
        """Weighted terms by name, each a scalar; their sum is the loss."""
        ...

    def errors(self, answer: Any, truth: Any) -> Tensor:
        """(batch,) error of each sample, the less the better; NaN where its truth does not say."""
        ...

    def save(self, kind: str = "") -> None:
        """Write the weights into the run folder; `kind` tells them from those that the run delivers."""
        ...


class Recipe(Protocol):
    """How a worker, on whatever machine, gets its learner."""

    @property
    def error(self) -> str:
        """What `errors` measures, as a name for tables: val_…"""
        ...

    def start(self, folder: str) -> Learner: ...


@dataclass(frozen=True)
class Task:
    """All that a worker is told."""

    folder: str
    recipe: Recipe
    training: Training
    input_size: tuple[int, int]
    feeds: tuple[Feed, ...]
    """Each gives its count to every part of a batch."""
    validation: Feed | None
    steps: int
    """Of one epoch."""

    @property
    def streams(self) -> int:
        """Of samples, over all workers."""
        return self.training.workers * (len(self.feeds) + (self.validation is not None))


class Mistake(ValueError):
    """What would go wrong again, however often it is tried."""

    def __init__(self, message: str, *, sample_keys: list[int] | None = None) -> None:
        super().__init__(message)
        self.sample_keys = sample_keys or []


def train_worker(config: dict[str, Any]) -> None:
    """Train to the end. What is wrong with data or settings is left in MISTAKE for the driver, once for all starts."""
    task: Task = config["task"]
    mistake = storage.join(task.folder, MISTAKE)
    if storage.exists(mistake):
        return
    try:
        _Worker(task).run()
    except ValueError as error:
        keys = error.sample_keys if isinstance(error, Mistake) else []
        told = {"message": runs.message_of(error), "sample_keys": keys, "traceback": traceback.format_exc()}
        storage.write_json(mistake, told)
        if task.training.workers > 1:
            raise  # the others wait for this worker's gradients


class _Worker:
    def __init__(self, task: Task) -> None:
        self.task, self.training = task, task.training
        set_up_data()
        torch.manual_seed(task.training.seed)
        torch.set_num_threads(task.training.threads)
        self.device = ray.train.torch.get_device()
        wanted = task.training.precision
        self.half = wanted == "bfloat16" or (wanted == "auto" and computes_in_bfloat16(self.device))
        self.rank = ray.train.get_context().get_world_rank()
        self.learner = task.recipe.start(task.folder)
        self.network = self.learner.network.to(self.device)
        # Adam's state may go on from a checkpoint, so the weights are loaded before DDP spreads them.
        learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learned, lr=task.training.learning_rate, fused=True)
        self.progress = load_checkpoint(task.folder, self.network, self.optimizer)
        self.shared = ray.train.torch.prepare_model(self.network)
        self.wrapped = torch.compile(self.shared) if task.training.compile else self.shared
        self.told = time.monotonic()

    def run(self) -> None:
        steps, progress = self.task.steps, self.progress
        parts = self._parts()
        while progress.step < steps * self.training.epochs:
            self._epoch(parts)
            metrics = progress.history[-1]
            if self.task.validation:
                metrics[f"val_{self.task.recipe.error}"] = self._validate()
            self._save(metrics)
            ray.train.report(metrics)

    def _epoch(self, parts: Iterator[dict[str, Tensor]]) -> None:
        progress, steps, every = self.progress, self.task.steps, self.training.checkpoint_steps
        epoch = progress.step // steps + 1
        self.network.train()
        while progress.step < epoch * steps:
            started = time.monotonic()
            terms = self._step(parts, epoch)
            terms["seconds"] = time.monotonic() - started
            for name, value in terms.items():
                progress.totals[name] = progress.totals.get(name, 0.0) + value
            progress.step += 1
            if every and progress.step % every == 0 and progress.step < epoch * steps:
                self._keep()
            if self.rank == 0 and time.monotonic() - self.told > TELL_EVERY_S:
                self._tell(epoch)
        self._share_totals()
        progress.history.append(self._figures(epoch, progress.totals, steps=steps))
        progress.totals = {}

    def _tell(self, epoch: int) -> None:
        """The epoch so far, as this worker sees it."""
        done = (self.progress.step - 1) % self.task.steps + 1
        line = {"step": done, "steps": self.task.steps, **self._figures(epoch, self.progress.totals, steps=done)}
        self.told = time.monotonic()
        with contextlib.suppress(OSError):  # nothing hangs on it
            storage.write_json(storage.join(self.task.folder, PROGRESS), line)

    def _step(self, parts: Iterator[dict[str, Tensor]], epoch: int) -> dict[str, float]:
        """One step; returns its losses, its seconds of waiting, and the pictures that others stood in for."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate_at(self.progress.step, steps=self.task.steps)
        self.optimizer.zero_grad(set_to_none=True)
        terms = {"waited": 0.0, "unreadable": 0.0}
        for part in range(self.training.accumulate):
            asked = time.monotonic()
            batch = next(parts)
            terms["waited"] += time.monotonic() - asked
            terms["unreadable"] += batch["stand_in"].sum().item()
            # Gradients are exchanged once a step, with its last part.
            if isinstance(self.shared, nn.parallel.DistributedDataParallel):
                self.shared.require_backward_grad_sync = part == self.training.accumulate - 1
            image, truth = to_tensors(batch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                answer = self.wrapped(*self.learner.inputs(image, truth))
            losses = self.learner.losses(answer, truth)
            loss = torch.stack(list(losses.values())).sum() / self.training.accumulate
            values = torch.stack(list(losses.values())).detach().cpu() / self.training.accumulate
            if not values.isfinite().all():
                self._check_weights()  # else the samples would be blamed for them
                bad = [name for name, value in zip(losses, values, strict=True) if not value.isfinite()]
                raise Mistake(
                    f"the loss is not finite in epoch {epoch}, step {self.progress.step} ({', '.join(bad)})",
                    sample_keys=_suspects(self.learner, answer, truth, batch["sample_key"]),
                )
            for name, value in zip(losses, values.tolist(), strict=True):
                terms[name] = terms.get(name, 0.0) + value
            loss.backward()
        self.optimizer.step()
        return terms

    def _share_totals(self) -> None:
        """Every worker's sums become their mean."""
        totals = self.progress.totals
        if self.training.workers > 1:
            sums = torch.tensor(list(totals.values()), dtype=torch.float64, device=self.device)
            distributed.all_reduce(sums)
            totals.update(zip(totals, (sums / self.training.workers).tolist(), strict=True))

    def _figures(self, epoch: int, totals: dict[str, float], *, steps: int) -> dict[str, Any]:
        """What sums over so many steps say."""
        losses = {name: value / steps for name, value in totals.items() if name not in NO_LOSSES}
        return {
            "epoch": epoch,
            "epochs": self.training.epochs,
            "loss": sum(losses.values()),
            **{f"loss_{name}": value for name, value in losses.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "samples_per_s": self.training.batch_size * steps / totals["seconds"],
            "data_wait": totals["waited"] / totals["seconds"],
            "seconds": totals["seconds"],
            "unreadable": round(totals["unreadable"] * self.training.workers),
        }

    def _parts(self) -> Iterator[dict[str, Tensor]]:
        """Parts of batches from where the training is, each with the exact count of every feed."""
        accumulate, total = self.training.accumulate, self.task.steps * self.training.epochs
        steps = range(self.progress.step * accumulate, total * accumulate)
        streams = [
            batches(
                feed, config=self.training.stream, input_size=self.task.input_size, steps=steps, device=self.device,
                rank=self.rank, workers=self.training.workers, streams=self.task.streams,
            )
            for feed in self.task.feeds
        ]  # fmt: skip
        for parts in zip(*streams, strict=True):
            yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean error over the validation samples whose truth is known; each worker answers for a part of them."""
        feed = self.task.validation
        assert feed
        self.network.eval()
        if self.training.workers > 1:
            for buffer in self.network.buffers():  # batch norm's statistics: every worker has its own
                distributed.broadcast(buffer, src=0)
        plain = StreamConfig(augment=False, shuffle_rows=self.training.stream.shuffle_rows, readers=1)
        crops = crop_stream(
            feed, config=plain, input_size=self.task.input_size, span=range(feed.rows), rank=self.rank,
            workers=self.training.workers, streams=self.task.streams,
        )  # fmt: skip
        found = torch.zeros(2, dtype=torch.float64, device=self.device)
        for batch in crops.iter_torch_batches(batch_size=VALIDATION_BATCH, device=self.device):
            image, truth = to_tensors(batch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                answer = self.network(*self.learner.inputs(image, truth))
            errors = self.learner.errors(answer, truth)
            known = ~errors.isnan() & ~batch["stand_in"]
            found += torch.stack([errors[known].double().sum(), known.sum().double()])
        if self.training.workers > 1:
            distributed.all_reduce(found)
        total, count = found.tolist()
        if not count:
            raise Mistake(f"no sample of {feed.sources[0].path} has a truth to compare with")
        return total / count

    def _save(self, metrics: dict[str, Any]) -> None:
        """Weights, metrics, and last the checkpoint: what it says is done is there."""
        error = metrics.get(f"val_{self.task.recipe.error}")
        better = error is not None and (self.progress.best is None or error < self.progress.best)
        if better:
            self.progress.best = error
        if self.rank == 0:
            self._check_weights()
            if better:
                self.learner.save("best")
            if self.training.keep == "last" or better:
                self.learner.save()
            storage.write_json(storage.join(self.task.folder, METRICS), self.progress.history)
        self._keep()

    def _keep(self) -> None:
        """Write the checkpoint: one file, whole or not at all."""
        if self.progress.totals:
            self._share_totals()
        if self.rank == 0:
            self._check_weights()
            save_checkpoint(self.task.folder, self.network, self.optimizer, self.progress)

    def _check_weights(self) -> None:
        """A loss can be finite and its gradient not: such weights are never kept."""
        if not all(weight.isfinite().all() for weight in self.network.parameters()):
            raise Mistake(
                f"the weights are not finite any more before step {self.progress.step}\n"
                "  fix: lower the learning rate (in another --out)"
            )


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it; what it has not, torch imitates."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = getattr(torch.cpu, "get_capabilities", dict)()  # younger than the oldest torch that we take
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def to_tensors(batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """Picture in [0, 1], channels last in memory; and the truth: Truth, of hands HandTruth."""
    image = batch["image"].permute(0, 3, 1, 2).float().div_(255)
    kind = HandTruth if "mano_rotvec" in batch else Truth
    return image, kind(**{name: batch[name] for name in kind.__dataclass_fields__})


def _suspects(learner: Learner, answer: Any, truth: Any, sample_keys: Tensor) -> list[int]:
    """Keys of the samples that, each by itself, have no finite loss; of the whole batch, where none is to blame."""
    blamed = []
    for row, key in enumerate(sample_keys.tolist()):
        alone = learner.losses(_row(answer, row), _row(truth, row))
        if not torch.stack(list(alone.values())).isfinite().all():
            blamed.append(key)
    return blamed or sample_keys.tolist()


def _row(batch: Any, row: int) -> Any:
    """A batch of one out of a tensor, or out of a dataclass of tensors."""
    if isinstance(batch, Tensor):
        return batch[row : row + 1]
    return replace(batch, **{f.name: getattr(batch, f.name)[row : row + 1] for f in fields(batch)})
