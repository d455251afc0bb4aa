"""Ingest: against the bare work on its pictures, and over an annotation file ten times larger.

python -m tests.bench.bench_ingest
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.images import decode
from pipelines.cluster import connect
from pipelines.ingest import IngestStage, ingest, store
from pipelines.measure import PeakMemory
from pipelines.runs import open_run
from tests.bench.bench_stream import show

PICTURES, PEOPLE, ROUNDS, PROCESSES = 64, 40_000, 3, 2
KEYPOINTS = [v for k in range(17) for v in (200 + 10 * (k % 4), 100 + 15 * k, 2)]
POLYGON = [round(100 + 0.37 * i, 2) for i in range(180)]
"""As much text as a segmentation of COCO's."""


def main() -> None:
    connect()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pictures = make_pictures(root / "pictures")
        show("Decoding a JPEG of 640×480, one process", decoding(pictures))
        show(f"{PEOPLE} people of as many pictures, 640×480", race(root, pictures))
        show("Memory over a larger annotation file", memory(root, pictures))


def make_pictures(folder: Path) -> Path:
    """Photo-like pictures, each under many names."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        coarse = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        picture = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    for i in range(PICTURES, PEOPLE):
        (folder / f"{i}.jpg").symlink_to(folder / f"{i % PICTURES}.jpg")
    return folder


def records(count: int, *, labelled_every: int = 1) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    rng = np.random.default_rng(1)
    for i in range(count):
        x, y = (int(v) for v in rng.integers(0, 200, 2))
        keypoints = KEYPOINTS if i % labelled_every == 0 else [0] * 51
        yield (
            {"id": i, "file_name": f"{i % PEOPLE}.jpg", "width": 640, "height": 480},
            {"id": i, "image_id": i, "keypoints": keypoints, "bbox": [x, y, 180, 260], "segmentation": [POLYGON],
             "iscrowd": 0, "category_id": 1},
        )  # fmt: skip


def write_coco(path: Path, count: int, *, labelled_every: int = 1) -> Path:
    with path.open("w") as out:
        for name, which in (("images", 0), ("annotations", 1)):
            out.write(f'{"{" if name == "images" else ","}"{name}": [')
            for i, pair in enumerate(records(count, labelled_every=labelled_every)):
                out.write(("," if i else "") + json.dumps(pair[which]))
            out.write("]")
        out.write("}")
    return path


def decoding(pictures: Path) -> tuple[list[str], list[list[str]]]:
    """CPU time a picture, in turns, of the pixels that both give; each round takes new memory for each picture."""
    cv2.setNumThreads(1)
    data = [(pictures / f"{i}.jpg").read_bytes() for i in range(PICTURES)]
    ways: dict[str, Callable[[bytes], Any]] = {
        "OpenCV": lambda one: cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR_RGB),
        "ours (simplejpeg)": decode,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _, (name, way) in itertools.product(range(10), ways.items()):
        started = time.process_time()
        for one in data:
            way(one)
        times[name].append((time.process_time() - started) / len(data) * 1e3)
    medians = {name: float(np.median(spent)) for name, spent in times.items()}
    rows = [[name, f"{ms:.2f}", f"{ms / medians['OpenCV']:.2f}"] for name, ms in medians.items()]
    return ["decoder", "ms", "of OpenCV's"], rows


def race(root: Path, pictures: Path) -> tuple[list[str], list[list[str]]]:
    """In turns; start and end of each included, and how long ours takes once it runs."""
    annotations = write_coco(root / "people.json", PEOPLE)
    boxes = [(str(pictures / image["file_name"]), person["bbox"]) for image, person in records(PEOPLE)]
    times: dict[str, list[float]] = {name: [] for name in ("jobs/ingest.py", *BARE)}
    for _ in range(ROUNDS):
        for name, work in BARE.items():
            with get_context("spawn").Pool(PROCESSES) as pool:  # a fork of a process with Ray's threads may hang
                pool.map(work, boxes[:PROCESSES], chunksize=1)
                started = time.perf_counter()
                assert sum(pool.imap_unordered(work, boxes, chunksize=64))
                times[name].append(time.perf_counter() - started)
                pool.close()
                pool.join()
        started = time.perf_counter()
        run_ingest(root / "out", annotations, pictures)
        times["jobs/ingest.py"].append(time.perf_counter() - started)
    rates = {name: PEOPLE / float(np.median(seconds)) for name, seconds in times.items()}
    rows = [[name, f"{rate:.0f}", f"{rates['jobs/ingest.py'] / rate:.2f}"] for name, rate in rates.items()]
    return ["what", "people/s", "ours is × as fast"], rows


def _as_one_writes_it(task: tuple[str, list[float]]) -> int:
    """Read, decode, crop and encode again by OpenCV: what there is to do to a picture."""
    cv2.setNumThreads(1)
    picture = cv2.imread(task[0])
    assert picture is not None
    x, y, w, h = task[1]
    half, margin = max(w, h) / 2, IngestStage().margin
    left, top = (max(0, int(v - half * margin)) for v in (x + w / 2, y + h / 2))
    part = picture[top : int(y + h / 2 + half * margin) + 1, left : int(x + w / 2 + half * margin) + 1]
    if max(part.shape) > IngestStage().max_side_px:
        scale = IngestStage().max_side_px / max(part.shape)
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return len(cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def _with_our_own(task: tuple[str, list[float]]) -> int:
    cv2.setNumThreads(1)
    data = Path(task[0]).read_bytes()
    return len(store(decode(data, order="BGR"), data, task[1], IngestStage())[0])


BARE = {"bare loop by OpenCV, two processes": _as_one_writes_it, "the same by our own functions": _with_our_own}


def run_ingest(out: Path, annotations: Path, pictures: Path) -> dict[str, Any]:
    run = open_run(out, job="ingest", settings={})
    reader = Coco(annotations=str(annotations), images=str(pictures))
    found = ingest(run, reader=reader, dataset="coco", split="x", stage=IngestStage())
    shutil.rmtree(out)
    return found


def memory(root: Path, pictures: Path) -> tuple[list[str], list[list[str]]]:
    """As many people are kept of each file: only the file grows."""
    rows = []
    for name, count in (("a tenth", 48_000), ("whole", 480_000)):
        annotations = write_coco(root / "large.json", count, labelled_every=count // 2000)
        size = annotations.stat().st_size
        started = time.perf_counter()
        with PeakMemory(every_s=0.5) as peak:
            found = run_ingest(root / "out", annotations, pictures)
        seconds = time.perf_counter() - started
        rows.append([
            name, f"{size / 1e9:.2f} GB", f"{found['rows']}", f"{peak.driver_gb:.2f} GB", f"{peak.worker_gb:.2f} GB",
            f"{peak.peak_gb:.2f} GB", f"{seconds:.0f}",
        ])  # fmt: skip
        annotations.unlink()
    return ["file", "size", "people kept", "driver", "largest worker", "all processes", "seconds"], rows


if __name__ == "__main__":
    main()
