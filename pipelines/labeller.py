"""The annotator at work: an actor that labels batches of crops, and the probe that finds how it works best."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from ray.util.metrics import Counter

from mesh_lib import tables
from mesh_lib.flip_test import flip_average
from mesh_lib.labels import failures, labels_table, make_labels
from mesh_lib.metrics.joints import mpjpe_mm
from pipelines import annotators
from pipelines.crops import IDENTITY

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "float16"]
Wanted = Literal["float32", "bfloat16", "float16", "auto"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
LARGEST_BATCH = {"cuda": 512, "cpu": 64}
PROBE_S = 20.0
"""Of one setting: what is slower than this is not tried larger."""
TOLERANCE_MM = 1.0
"""How far labels of a lower precision may lie from float32's, on average over the joints of the probe's worst crop."""


@dataclass(frozen=True)
class Trial:
    """One setting that the probe tried."""

    batch_size: int
    precision: Precision
    crops_per_s: float
    off_mm: float
    """How far the furthest crop's joints lie from float32's, on average, their pelves laid upon each other."""


@dataclass(frozen=True)
class Method:
    """What decides the numbers of a label, besides the annotator."""

    batch_size: int
    precision: Precision
    flip_test: bool


class Labeller:
    """Ray Data actor: loads the annotator once, then labels batches."""

    def __init__(self, annotator: str, method: Method, threads: int, gpus: float = 0.0) -> None:
        """gpus: the share of one that is this actor's; without any it works on the CPU, whatever the machine has."""
        self.device = torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(threads)
        else:
            torch.cuda.set_per_process_memory_fraction(min(gpus, 1.0))  # or one actor starves the others
            torch.backends.cudnn.allow_tf32 = False  # float32 says what it is; faster ones have a name
        self.annotator = annotators.load_annotator(annotator).to(self.device)
        self.quick = self.annotator.for_inference() if self.device.type == "cpu" else self.annotator
        """The same in single precision."""
        self.method = method
        self.rows = Counter("annomesh_rows_total", "Rows labelled or quarantined", tag_keys=("status",))
        self.busy_s = Counter("annomesh_actor_busy_seconds_total", "Seconds that annotators computed")

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        started = time.perf_counter()
        label, lost = self._label(batch, self.method.batch_size)
        status = batch["status"].astype(object)
        status = np.where(status == tables.OK, failures(label), status)
        status[lost & (batch["status"] == tables.OK)] = "out_of_memory"
        table = labels_table(
            {name: _texts(batch[name]) if name != "sample_key" else batch[name] for name in IDENTITY},
            status=status, label=label, image_size=batch["image_size"],
        )  # fmt: skip
        for value, count in zip(*np.unique(status.astype(str), return_counts=True), strict=True):
            self.rows.inc(int(count), tags={"status": str(value)})
        self.busy_s.inc(time.perf_counter() - started)
        return table

    def _label(self, batch: dict[str, np.ndarray], size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Label columns of a batch, and which rows have none because memory did not suffice even for them alone."""
        parts = self._in_halves(batch, size)
        like = next((label for _, label in parts if label), None) or no_labels()
        lost = np.concatenate([np.full(rows, label is None) for rows, label in parts])
        filled = [label or {k: np.full((rows, *v.shape[1:]), np.nan) for k, v in like.items()} for rows, label in parts]
        return {name: np.concatenate([label[name] for label in filled]) for name in like}, lost

    def _in_halves(self, batch: dict[str, np.ndarray], size: int) -> list[tuple[int, dict[str, np.ndarray] | None]]:
        """Parts of a batch, in order: how many rows, and their label columns, or None where not even one row fits.

        A crash of another kind than memory is raised: it would meet every row.
        """
        rows = len(batch["crop"])
        try:
            return [(rows, self.answer(batch, size))]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = f"{type(error).__name__}: {error}"
        # Outside of the handler: the traceback would keep the tensors alive.
        torch.cuda.empty_cache()
        if size == 1:
            log.warning("a sample alone does not fit: %s", said)
            return [(rows, None)]
        half = -(-size // 2)
        return [
            part
            for at in range(0, rows, half)
            for part in self._in_halves({name: values[at : at + half] for name, values in batch.items()}, half)
        ]

    def answer(self, batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        """Label columns (mesh_lib.labels.make_labels) of up to `size` crops, computed as a batch of that size."""
        rows = len(batch["crop"])

        # A batch always has the same size: kernels, and with them the last bits, would change with it.
        def padded(name: str) -> torch.Tensor:
            value = torch.from_numpy(np.concatenate([batch[name], np.repeat(batch[name][-1:], size - rows, axis=0)]))
            if self.device.type == "cpu":
                return value
            return value.pin_memory().to(self.device, non_blocking=True)

        image = padded("crop").permute(0, 3, 1, 2).float() / 255
        more: dict[str, torch.Tensor] = {}
        network = self.quick if self.method.precision == "float32" else self.annotator
        with self._precision():
            if self.method.flip_test:
                tested = flip_average(network, image)
                answer = tested.answer
                more = {
                    "flip_disagreement_deg": tested.disagreement_deg, "flip_disagreement_mm": tested.disagreement_mm,
                }  # fmt: skip
            else:
                answer = network(image)
        label = make_labels(
            self.annotator,
            answer,
            box_xywh_px=padded("box"),
            bbox_xywh_px=padded("bbox"),
            keypoints_2d_px=padded("keypoints"),
        )
        label |= {name: value.cpu().numpy() for name, value in more.items()}
        return {name: values[:rows] for name, values in label.items()}

    def _precision(self) -> Any:
        if self.method.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.method.precision))


def no_labels() -> dict[str, np.ndarray]:
    """Label columns of no row."""
    fields = [f for f in tables.PSEUDO_GT if f.name not in (*IDENTITY, "status", "flags")]
    return {f.name: np.zeros((0, f.type.list_size) if pa.types.is_fixed_size_list(f.type) else 0) for f in fields}


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
"""How torch, CUDA, cuBLAS and cuDNN say so, where they do not raise a type of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in said for words in OUT_OF_MEMORY)


def _texts(values: np.ndarray) -> list[str | None]:
    # A column of text without any text comes back from Ray Data as NaN, the only value that is not itself.
    return [value if isinstance(value, str) else None for value in values]


@torch.inference_mode()
def probe(
    labeller: Labeller, crops: dict[str, np.ndarray], *, batch_size: int | Literal["auto"], precision: Wanted
) -> tuple[Method, list[dict[str, Any]]]:
    """The fastest method among those that "auto" leaves open, and what was measured.

    Precisions compete among those whose labels stay within TOLERANCE_MM of float32's; batch sizes double until that
    pays no more (less than 3 %), takes too long, or memory ends. Raises ValueError where nothing fits into memory.
    """
    largest = LARGEST_BATCH[labeller.device.type]
    sizes = [2**n for n in range(3, 10) if 2**n <= largest] if batch_size == "auto" else [batch_size]
    reference, tried = None, []
    for kind in PRECISIONS if precision == "auto" else (precision,):
        best = 0.0
        for size in sizes:
            labeller.method = replace(labeller.method, precision=kind)
            batch = {name: np.resize(values, (size, *values.shape[1:])) for name, values in crops.items()}
            try:
                joints = labeller.answer(batch, size)["joints_3d_m"]
                started = time.perf_counter()
                labeller.answer(batch, size)
                took_s = time.perf_counter() - started
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            reference = joints if reference is None else reference
            off_mm = _furthest_mm(joints[: len(reference)], reference[: len(joints)])
            tried.append(Trial(size, kind, size / took_s, off_mm))
            if size / took_s < 1.03 * best or took_s > PROBE_S:
                break
            best = max(best, size / took_s)
    if not tried:
        raise ValueError("the annotator does not fit into memory even for the smallest batch that was tried")
    fit = [trial for trial in tried if trial.off_mm <= TOLERANCE_MM] or tried  # a single precision that was asked for
    fastest = max(fit, key=lambda trial: trial.crops_per_s)
    chosen = replace(labeller.method, batch_size=fastest.batch_size, precision=fastest.precision)
    return chosen, [asdict(trial) for trial in tried]


def _furthest_mm(joints: np.ndarray, reference: np.ndarray) -> float:
    known = np.isfinite(reference).all(axis=1)  # crops that float32 cannot label either compare with nothing
    if not known.any():
        return 0.0
    there, here = (torch.from_numpy(v[known].reshape(int(known.sum()), -1, 3)) for v in (reference, joints))
    return mpjpe_mm(predicted_m=here - here[:, :1], target_m=there - there[:, :1]).max().item()
