"""Annotate, end to end: against its two halves alone on the same cores, and against the loop that one would write.

python -m tests.bench.bench_annotate [SAMPLES [ROUNDS]]
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from mesh_lib.labels import failures, labels_table, make_labels
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2
from pipelines import annotators, commits
from pipelines.annotate import AnnotateStage, annotate
from pipelines.bodies import cached_body, put_body
from pipelines.cluster import connect
from pipelines.crops import COLUMNS, IDENTITY, prepare
from pipelines.runs import open_run
from pipelines.sources import open_source, read_group
from tests.bench.bench_stream import copies, make_samples, show

BATCH, THREADS = 64, 2
INPUT = Pose2PoseConfig().input_size


def main(count: str = "4096", rounds: str = "2") -> None:
    connect()
    with tempfile.TemporaryDirectory() as folder:
        samples = copies(make_samples(f"{folder}/world", 1024), Path(folder) / "samples", int(count) // 1024)
        f = make_annotator(f"{folder}/f", Pose2PoseConfig())
        out = Path(folder) / "out"
        work: dict[str, Callable[[], object]] = {
            "(a) decode and crop alone, two processes": lambda: decode_alone(samples),
            "(b) forward alone, batches in memory, as torch runs it": lambda: forward_alone(f, int(count)),
            "(b') the same, packed as annotate runs it": lambda: forward_alone(f, int(count), packed=True),
            "torch DataLoader, loop, ParquetWriter": lambda: plain_loop(f, samples, out),
            "jobs/annotate.py": lambda: ours(f, samples, out),
        }
        show(
            f"Labels of {count} pictures, ResNet-50 at 256×192, batches of {BATCH}, float32",
            race(work, int(count), int(rounds)),
        )


def race(work: dict[str, Callable[[], object]], count: int, rounds: int) -> tuple[list[str], list[list[str]]]:
    """In turns, start and end of each included."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _, (name, run) in itertools.product(range(rounds), work.items()):
        started = time.perf_counter()
        run()
        times[name].append(time.perf_counter() - started)
        sys.stderr.write(f"{name}: {count / times[name][-1]:.1f}/s\n")
    rates = {name: count / float(np.median(values)) for name, values in times.items()}
    ours = list(rates.values())[-1]
    return ["what", "rows/s", "annotate is × as fast"], [[n, f"{r:.1f}", f"{ours / r:.2f}"] for n, r in rates.items()]


def make_annotator(folder: str, config: Pose2PoseConfig) -> str:
    """Of full size, untrained: how fast it labels does not depend on what it has learned."""
    run = open_run(folder, job="train_annotator", settings={})
    put_body(cached_body("low"), run.folder)
    torch.manual_seed(0)
    annotators.save_annotator(
        Annotator(config, body=annotators.load_body_of(run.folder), vposer=VPoserV2()), run.folder
    )
    run.finish()
    return run.folder


def decode_alone(samples: str) -> None:
    with get_context("spawn").Pool(THREADS) as pool:  # a fork of a process with Ray's threads may hang
        pool.map(_decode, [(samples, group) for group in range(len(open_source(samples).groups))], chunksize=1)
        pool.close()
        pool.join()


def _decode(task: tuple[str, int]) -> int:
    source = open_source(task[0])
    file, group, _ = source.groups[task[1]]
    table = read_group(source.path, file, group, COLUMNS)
    return len(prepare(table, input_size=INPUT, joint_set=source.joint_set)["crop"])


@torch.inference_mode()
def forward_alone(f: str, count: int, *, packed: bool = False) -> None:
    torch.set_num_threads(THREADS)
    network = annotators.load_annotator(f)
    network = network.for_inference() if packed else network
    image = torch.rand(BATCH, 3, INPUT[1], INPUT[0])
    for _ in range(count // BATCH):
        network(image)


class Shards(IterableDataset):
    """What one writes: each worker takes every n-th row group and decodes it."""

    def __init__(self, samples: str) -> None:
        self.source = open_source(samples)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        worker = get_worker_info()
        assert worker
        cv2.setNumThreads(1)
        for file, group, _ in self.source.groups[worker.id :: worker.num_workers]:
            table = pq.ParquetFile(file).read_row_group(group, columns=list(COLUMNS))
            for at in range(0, len(table), BATCH):
                yield prepare(table.slice(at, BATCH), input_size=INPUT, joint_set=BODY33)


@torch.inference_mode()
def plain_loop(f: str, samples: str, out: Path) -> None:
    """No quarantine of crashes, no resuming, one file: the same labels where all goes well."""
    torch.set_num_threads(THREADS)
    network = annotators.load_annotator(f)
    loader = DataLoader(Shards(samples), batch_size=None, num_workers=1, prefetch_factor=2, collate_fn=lambda b: b)
    out.mkdir()
    with pq.ParquetWriter(out / "labels.parquet", tables.PSEUDO_GT) as writer:
        for batch in loader:
            writer.write_table(_labels(network, batch))
    shutil.rmtree(out)


def _labels(network: Annotator, batch: dict[str, Any]) -> pa.Table:
    image = torch.from_numpy(batch["crop"]).permute(0, 3, 1, 2).float() / 255
    label = make_labels(
        network, network(image), box_xywh_px=torch.from_numpy(batch["box"]),
        bbox_xywh_px=torch.from_numpy(batch["bbox"]), keypoints_2d_px=torch.from_numpy(batch["keypoints"]),
    )  # fmt: skip
    status = np.where(batch["status"] == tables.OK, failures(label), batch["status"])
    identity = {name: batch[name] for name in IDENTITY}
    return labels_table(identity, status=status, label=label, image_size=batch["image_size"])


def ours(f: str, samples: str, out: Path) -> None:
    run = open_run(str(out), job="annotate", settings={})
    stage = AnnotateStage(batch_size=BATCH, threads=THREADS)
    annotate(run, samples=samples, annotator=f, stage=stage)
    run.finish()
    commits.forget(run)
    shutil.rmtree(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
