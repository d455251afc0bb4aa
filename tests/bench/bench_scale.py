"""Annotate over millions of rows: a network that computes nothing, everything around it the real code.

python -m tests.bench.bench_scale [MILLIONS ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mesh_lib import tables
from mesh_lib.body.joints import BODY33
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from pipelines import annotate, commits, label_files, runs, storage
from pipelines.cluster import connect
from pipelines.labeller import Labeller, Method, no_labels
from pipelines.measure import PeakMemory
from pipelines.sources import open_source
from pipelines.verify import verify
from tests.bench.bench_annotate import make_annotator
from tests.bench.bench_stream import show

SIDE, SHARD, GROUP, BATCH, PADDING = 32, 100_000, 5_000, 1024, 1500
STAGE = annotate.AnnotateStage(batch_size=BATCH, readers=2, threads=1)


def main(*millions: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_annotator(f"{folder}/f", Pose2PoseConfig(backbone=18, input_width=SIDE, input_height=SIDE))
        found = []
        # The first is not counted: it touches memory that the machine gives slowly the first time.
        for count in [0.1, *([float(m) for m in millions] or [1.0, 3.0, 10.0])]:
            rows = int(count * 1e6)
            make_samples(Path(folder) / f"samples-{rows}", rows)
            command = [sys.executable, "-m", "tests.bench.bench_scale", "--one", folder, str(rows)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            sys.stderr.write(told)
            found.append(json.loads(told.splitlines()[-1]))
        header = [
            "rows", "seconds", "rows/s", "from the first label on", "peak RSS of the driver", "of the largest worker",
            "resumed: seconds to the first new label", "objects: shards, labels, commits", "verify: seconds, peak RSS",
        ]  # fmt: skip
        show("Annotate with a network that computes nothing", (header, [_told(one) for one in found[1:]]))


def _told(one: dict[str, Any]) -> list[str]:
    return [
        f"{one['rows']:,}",
        f"{one['seconds']:.0f}",
        f"{one['rows'] / one['seconds']:.0f}",
        f"{one['rows'] / (one['seconds'] - one['start_s']):.0f}",
        f"{one['driver_gb']:.2f} GB",
        f"{one['worker_gb']:.2f} GB",
        f"{one['resume_s']:.1f}",
        f"{one['shards']}, {one['files']}, {one['commits']}",
        f"{one['verify_s']:.0f}, {one['verify_gb']:.2f} GB",
    ]


class NullLabeller(Labeller):
    """Answers at once, the same for all."""

    def __init__(self, annotator: str, method: Method, threads: int, gpus: float) -> None:
        self.asked = Path(annotator) / "asked"
        super().__init__(annotator, method, threads)
        torch.set_num_threads(1)

    def answer(self, batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        if not self.asked.exists():
            self.asked.write_text(str(time.time()))
        rows = len(batch["crop"])
        label = {name: np.ones((rows, *values.shape[1:]), np.float32) for name, values in no_labels().items()}
        return label | {"camera_self_check_px": np.zeros(rows, np.float32)}


def one(folder: str, rows: int) -> dict[str, Any]:
    """A run to the end; then one commit is taken back and the same command goes on."""
    connect()
    annotate.Labeller = NullLabeller
    samples, f, out = f"{folder}/samples-{rows}", f"{folder}/f", f"{folder}/labels-{rows}"
    asked = Path(f) / "asked"
    asked.unlink(missing_ok=True)
    run = runs.open_run(out, job="annotate", settings={})
    with PeakMemory(whole=False) as memory:
        started = time.time()
        counts = annotate.annotate(run, samples=samples, annotator=f, stage=STAGE)
        seconds = time.time() - started
    start_s = float(asked.read_text()) - started
    assert counts == {"ok": rows}
    records = storage.list_hidden(run.path(commits.CHECKPOINT), ".parquet")
    found = {
        "rows": rows, "seconds": seconds, "start_s": start_s,
        "driver_gb": memory.driver_gb, "worker_gb": memory.worker_gb,
        "shards": len(storage.parquet_files(samples)), "commits": len(records),
        "files": len(storage.list_files(run.path(label_files.LABELS), ".parquet")),
    }  # fmt: skip
    Path(records[0]).unlink()
    asked.unlink()
    started = time.time()
    again = annotate.annotate(run, samples=samples, annotator=f, stage=STAGE)
    assert again == {"ok": rows}
    resume_s = float(asked.read_text()) - started
    run.finish(samples=samples)
    started = time.time()
    with PeakMemory(whole=False) as memory:
        audit = verify(out)
    assert audit.good and audit.rows == rows, audit.record()
    return found | {
        "resume_s": resume_s, "verify_s": time.time() - started, "verify_gb": memory.driver_gb,
    }  # fmt: skip


def make_samples(folder: Path, rows: int) -> None:
    """Tiny pictures, alike but for what follows their end, in rows that do not compress: Ray reads as many files at
    once as have some size on disk, and pictures are as large in memory."""
    picture = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))[1].tobytes()
    row = {
        "image": picture, "image_size": np.array([16, 16]), "crop_to_image": np.array([[1.0, 0, 0], [0, 1, 0]]),
        "bbox_xywh_px": np.array([2.0, 2, 12, 12]), "keypoints_2d_px": np.full((len(BODY33), 3), 8.0),
    }  # fmt: skip
    folder.mkdir()
    alike = tables.samples_table([{**row, "sample_id": "-"}] * min(SHARD, rows), BODY33)
    for shard, start in enumerate(range(0, rows, SHARD)):
        ids = [f"null/all/{n}/0" for n in range(start, min(rows, start + SHARD))]
        table = alike.slice(0, len(ids))
        noise = np.random.default_rng(shard).bytes(len(ids) * PADDING)
        columns = {
            "sample_id": ids,
            "sample_key": [tables.sample_key(one) for one in ids],
            "image": [picture + noise[i : i + PADDING] for i in range(0, len(noise), PADDING)],
        }
        for name, values in columns.items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
        pq.write_table(table, folder / f"{shard:05d}.parquet", row_group_size=GROUP, use_dictionary=False)
    assert open_source(str(folder)).rows == rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.stdout.write(json.dumps(one(sys.argv[2], int(sys.argv[3]))) + "\n")
    else:
        main(*sys.argv[1:])
