"""The stream: against other loaders, against batches that lie in memory, and over a dataset ten times larger.

python -m tests.bench.bench_stream
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import ray.train
import ray.train.torch
import torch
import webdataset.compat
import webdataset.writer
from ray.train import RunConfig, ScalingConfig
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mesh_lib.datasets.images import decode
from mesh_lib.geometry import crop
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2
from pipelines import annotators, storage
from pipelines.bodies import cached_body, put_body
from pipelines.cluster import connect
from pipelines.cutter import Cutter, truth_columns
from pipelines.measure import PeakMemory
from pipelines.runs import open_run
from pipelines.sources import COLUMNS, open_source
from pipelines.stream import batches
from pipelines.synthesize import World, synthesize
from pipelines.train_annotator import PRIOR, AnnotatorRecipe, AnnotatorTraining
from pipelines.train_loop import Task, _Worker
from pipelines.windows import Feed, StreamConfig
from tests.bench.table import machine, markdown

INPUT = (192, 256)
BATCH = 64
WORKERS = 2
"""Of torch's loaders, a core each; three readers of ours hide what Ray takes to hand out the next task."""
PLACE = ("crop_to_image", "image_size", "bbox_xywh_px")
CPU = torch.device("cpu")
CONFIG = StreamConfig()
FILLED_S = 15.0
"""A stream has decoded ahead all that it may."""


def main() -> None:
    connect()
    with tempfile.TemporaryDirectory() as folder:
        samples = make_samples(f"{folder}/world", 2048)
        many, more = (copies(samples, Path(folder) / f"{count}", count) for count in (10, 40))
        tars = 40 * write_tars(samples, Path(folder) / "tars")
        contenders: dict[str, Callable[[], Iterable[Any]]] = {
            "annomesh's stream": lambda: our_batches(more),
            "torch DataLoader, same shards, our cutting code": lambda: loader(Shards(more)),
            "torch DataLoader, same shards, OpenCV as one writes it": lambda: loader(PlainShards(more)),
            "WebDataset, tars of the same pictures": lambda: tar_batches(tars),
        }
        show(f"From files to ready batches of {BATCH}, two cores", race(contenders))
        show("Memory over more samples", memory({"once": samples, "ten times": many}))
        show("Samples/s in training", training(samples, folder))


def show(title: str, table: tuple[list[str], list[list[str]]]) -> None:
    sys.stdout.write(f"\n{title}\n{machine()}\n\n{markdown(*table)}\n")
    sys.stdout.flush()


def make_samples(folder: str, count: int) -> str:
    world = World(studio=count, street=0, street3d=0, street_test=0)
    run = open_run(folder, job="synthesize", settings=world)
    run.finish(result=synthesize(run, world=world, body=cached_body("full")))
    return run.path("studio")


def our_batches(samples: str) -> Iterator[Any]:
    source = open_source(samples)
    feed = Feed("samples", (source,), BATCH)
    return batches(feed, config=CONFIG, input_size=INPUT, steps=range(source.rows // BATCH), device=CPU)


def loader(shards: Shards) -> Iterable[Any]:
    return DataLoader(shards, batch_size=BATCH, num_workers=WORKERS)


class Shards(IterableDataset):
    """The same shards as an ordinary PyTorch dataset: a worker takes every n-th row group, its rows shuffled."""

    def __init__(self, samples: str) -> None:
        self.source = open_source(samples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        assert worker
        rng = np.random.default_rng(worker.id)
        for file, group, _ in self.source.groups[worker.id :: worker.num_workers]:
            table = pq.ParquetFile(file).read_row_group(group, columns=list(COLUMNS))
            truth = truth_columns(table, self.source.joint_set, weak=False)
            cutter = Cutter(table)
            drawn = crop.draw_augmentations(rng, len(table))
            for row, augmentation in zip(rng.permutation(len(table)), drawn, strict=True):
                pixels, affine = self.cut(cutter, int(row), augmentation)
                yield {name: values[row] for name, values in truth.items()} | {
                    "image": pixels, "affine": affine, "flip": augmentation.flip,
                    "rotation_rad": augmentation.rotation_rad,
                }  # fmt: skip

    def cut(self, cutter: Cutter, row: int, augmentation: crop.Augmentation) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.empty((*INPUT[::-1], 3), np.uint8)
        affine, _ = cutter.cut(row, out=pixels, augmentation=augmentation)
        return pixels, affine


class PlainShards(Shards):
    """The same values by the usual calls: decode, swap channels, warp, scale colours and clip."""

    def cut(self, cutter: Cutter, row: int, augmentation: crop.Augmentation) -> tuple[np.ndarray, np.ndarray]:
        width, height = cutter.image_size[row].tolist()
        box = crop.network_box(cutter.bbox[row], image_size=(width, height), aspect=INPUT[0] / INPUT[1])
        affine = crop.crop_affine(box, input_size=INPUT, image_width=width, augmentation=augmentation)
        data = np.frombuffer(cutter.image[row].as_py(), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        picture = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
        placed = crop.compose_affine(affine, cutter.crop_to_image[row])
        pixels = cv2.warpAffine(picture, placed, INPUT, flags=cv2.INTER_LINEAR)
        return np.clip(pixels * np.array(augmentation.colour, np.float32), 0, 255).astype(np.uint8), affine


def write_tars(samples: str, folder: Path) -> list[str]:
    """The same pictures and truth as WebDataset has them: a JPEG and its arrays for each sample."""
    folder.mkdir()
    source = open_source(samples)
    with webdataset.writer.ShardWriter(str(folder / "%05d.tar"), maxcount=256, verbose=0) as writer:
        for file, group, _ in source.groups:
            table = pq.ParquetFile(file).read_row_group(group, columns=list(COLUMNS))
            truth = truth_columns(table, source.joint_set, weak=False)
            for row in range(len(table)):
                arrays = io.BytesIO()
                np.savez(arrays, **{name: values[row] for name, values in truth.items()})
                place = {
                    name: table.column(name)[row].as_py() for name in ("crop_to_image", "image_size", "bbox_xywh_px")
                }
                writer.write({
                    "__key__": f"{int(truth['sample_key'][row]) & (2**63 - 1):x}",
                    "jpg": table.column("image")[row].as_py(), "npz": arrays.getvalue(),
                    "json": json.dumps(place).encode(),
                })  # fmt: skip
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def tar_batches(tars: list[str]) -> Iterable[Any]:
    dataset = webdataset.compat.WebDataset(tars, shardshuffle=len(tars), empty_check=False).shuffle(512).map(cut_tarred)
    return webdataset.compat.WebLoader(dataset.batched(BATCH), batch_size=None, num_workers=WORKERS)


def cut_tarred(sample: dict[str, Any]) -> dict[str, Any]:
    cv2.setNumThreads(1)
    augmentation = crop.draw_augmentations(np.random.default_rng(), 1)[0]
    place = json.loads(sample["json"])
    picture = decode(sample["jpg"])
    box = crop.network_box(
        np.array(place["bbox_xywh_px"]), image_size=tuple(place["image_size"]), aspect=INPUT[0] / INPUT[1]
    )
    affine = crop.crop_affine(box, input_size=INPUT, image_width=place["image_size"][0], augmentation=augmentation)
    stored = np.array(place["crop_to_image"]).reshape(2, 3)
    pixels = np.empty((*INPUT[::-1], 3), np.uint8)
    crop.warp(picture, crop.compose_affine(affine, stored), out=pixels)
    crop.tint(pixels, augmentation.colour)
    with np.load(io.BytesIO(sample["npz"])) as truth:
        return dict(truth) | {
            "image": pixels, "affine": affine, "flip": augmentation.flip, "rotation_rad": augmentation.rotation_rad,
        }  # fmt: skip


def race(contenders: dict[str, Callable[[], Iterable[Any]]], rounds: int = 3) -> tuple[list[str], list[list[str]]]:
    """Rounds in turns, so that a noisy minute meets everybody. Whole: from the call to the last batch. Running: the
    middle half of the batches, which is what a training of hours sees."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _, (name, make) in itertools.product(range(rounds), contenders.items()):
        started = time.perf_counter()
        done = [(len(batch["image"]), time.perf_counter() - started) for batch in make()]
        first, last = len(done) // 4, 3 * len(done) // 4
        middle = sum(count for count, _ in done[first + 1 : last + 1]) / (done[last][1] - done[first][1])
        rates[name].append((sum(count for count, _ in done) / done[-1][1], middle))
    medians = {name: np.median(values, axis=0) for name, values in rates.items()}
    ours = next(iter(medians.values()))
    rows = [
        [name, f"{whole:.0f}", f"{ours[0] / whole:.2f}", f"{middle:.0f}", f"{ours[1] / middle:.2f}"]
        for name, (whole, middle) in medians.items()
    ]
    return ["loader", "samples/s, whole", "ours is × faster", "samples/s, running", "ours is × faster"], rows


def copies(samples: str, folder: Path, count: int) -> str:
    """A dataset of so many copies of the shards."""
    folder.mkdir()
    files = [path for path, _ in storage.list_files(samples, ".parquet")]
    for copy, file in itertools.product(range(count), files):
        (folder / f"{copy}-{Path(file).name}").symlink_to(file)
    return str(folder)


def memory(datasets: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Streams of one epoch."""
    rows = []
    for name, path in datasets.items():
        with PeakMemory(every_s=0.5) as peak:
            count = sum(len(batch["image"]) for batch in our_batches(path))
        rows.append([name, f"{count}", f"{peak.peak_gb:.2f} GB"])
    return ["samples", "read", "peak memory, all processes"], rows


def training(samples: str, folder: str) -> tuple[list[str], list[list[str]]]:
    """The worker's own steps, on batches that it keeps and on its stream, in one process."""
    run = open_run(f"{folder}/f", job="train_annotator", settings={})
    put_body(cached_body("low"), run.folder)
    annotators.write_weights(VPoserV2().state_dict(), run.path(PRIOR))
    rows = []
    for name, model, steps in (
        ("ResNet-50, 256×192", Pose2PoseConfig(), 24),
        ("ResNet-18, 128×96", Pose2PoseConfig(backbone=18, input_width=96, input_height=128), 120),
    ):
        settings = AnnotatorTraining(model=model, batch_size=16, weak_share=0.0)
        feed = Feed("strong", (open_source(samples),), settings.batch_size)
        task = Task(run.folder, AnnotatorRecipe(settings), settings, model.input_size, (feed,), None, steps=10_000)
        ray.train.torch.TorchTrainer(
            _measure,
            train_loop_config={"task": task, "steps": steps},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=f"{folder}/ray"),
        ).fit()
        rates = storage.read_json(run.path("rates.json"))
        stream, kept = (float(np.median(rates[way])) for way in ("streamed", "kept"))
        rows.append([name, f"{kept:.1f}", f"{stream:.1f}", f"{stream / kept:.2f}"])
    return ["network, batch 16, two threads", "kept in memory", "streamed", "of those in memory"], rows


def _measure(config: dict[str, Any], turns: int = 3) -> None:
    """By turns: steps on kept batches, no stream alive; then on a stream that is as full before as after."""
    task, steps = config["task"], config["steps"]
    worker = _Worker(task)
    worker.network.train()

    def rate(parts: Iterator[Any]) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            worker._step(parts, 1)
        return steps * task.training.batch_size / (time.perf_counter() - started)

    rates: dict[str, list[float]] = {"kept": [], "streamed": []}
    kept: list[Any] = []
    for _ in range(turns):
        stream: Any = worker._parts()
        kept = kept or [next(stream) for _ in range(4)]
        time.sleep(FILLED_S)  # then what is trained on and what is decoded keep pace
        worker._step(stream, 1)
        rates["streamed"].append(rate(stream))
        stream.close()
        del stream
        time.sleep(5)
        rates["kept"].append(rate(itertools.cycle(kept)))
    storage.write_json(storage.join(task.folder, "rates.json"), rates)


if __name__ == "__main__":
    main()
