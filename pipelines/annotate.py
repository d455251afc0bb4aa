"""Annotation at scale: samples in, one pseudo_gt row for each out, by a Ray Data pool of annotators.

Exactly once: pipelines/commits.py.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import ray
from ray.data import ActorPoolStrategy

from mesh_lib import tables
from pipelines import annotators, commits, runs, storage
from pipelines.cluster import require_resources
from pipelines.crops import COLUMNS, READ_CPUS, crop_rows, prepare
from pipelines.label_files import LABELS, status_of
from pipelines.labeller import Labeller, Method, Wanted, probe
from pipelines.sources import Source, open_source, read_group

log = logging.getLogger(__name__)

SUCCESS = "_SUCCESS.json"
METHOD = "method.json"
MIB = 2**20
ANNOTATOR_CPUS, WRITE_CPUS = 0.5, 0.25
"""Unlike resources keep Ray from fusing the decoders, which take a whole CPU, into the annotator's own thread."""


@dataclass(frozen=True, kw_only=True)
class AnnotateStage:
    """How the annotation runs. Batch size, precision and flip test decide a label's numbers, the first two in the last
    bits alone; how wide it runs decides nothing."""

    actors: int = 1
    """Copies of the annotator that work at the same time."""
    gpus: float | None = None
    """GPUs of each copy, up to 1; a fraction lets several share one. By default 1 where the cluster has any, else 0."""
    batch_size: int | Literal["auto"] = 64
    """Crops an annotator takes at once; auto finds the fastest by a short probe."""
    precision: Wanted = "float32"
    """Of the network; auto takes the fastest whose labels stay within 1 mm of float32's on a few crops."""
    flip_test: bool = False
    """Label each crop and its mirror image and average: better, twice the work, and it tells where f guesses."""
    need_keypoints: bool = True
    """Quarantine samples without a visible keypoint; without, a box is enough."""
    threads: int = 2
    """CPU threads of each annotator, where there is no GPU."""
    readers: int = 2
    """Tasks that decode and crop pictures at the same time, and at most as many that read files."""
    block_mb: float = 8.0
    """Of pictures that go through at once."""
    file_mb: float | None = None
    """Of labels that are written, and committed, at once: what a kill can lose. By default 128 with GPUs, 8 without."""
    autoscales: bool = False
    """Nodes are added on demand: a plan that today's nodes cannot hold is not refused."""

    def __post_init__(self) -> None:
        runs.require_positive(self, "actors", "threads", "readers", "block_mb")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise ValueError(f"gpus is from 0 to 1, for each annotator works on one; it is {self.gpus}")
        if self.file_mb is not None and self.file_mb < 0:
            raise ValueError(f"file_mb is at least 0; it is {self.file_mb}")
        if self.batch_size != "auto":
            runs.require_positive(self, "batch_size")


def check_fit(stage: AnnotateStage) -> None:
    """Raise ValueError where the cluster is too small for the plan, which would wait for ever instead of failing."""
    if stage.autoscales and stage.gpus is None:
        raise ValueError(
            "--stage.autoscales needs --stage.gpus: whether nodes that are not there yet have GPUs, nobody can look up"
        )
    cpus = {
        "listing and reading": 2 * READ_CPUS,
        "one decoder": 1.0,
        f"{stage.actors} annotators": ANNOTATOR_CPUS * stage.actors,
        "the filter of what is done": commits.FILTER_CPUS,
        "one writer": WRITE_CPUS,
    }
    if not stage.autoscales:
        require_resources(cpus, gpus=_gpus(stage) * stage.actors)


def _gpus(stage: AnnotateStage) -> float:
    return stage.gpus if stage.gpus is not None else float(bool(ray.cluster_resources().get("GPU")))


def annotate(run: runs.Run, *, samples: str, annotator: str, stage: AnnotateStage) -> Counter[str]:
    """Label every sample that the run folder has no row of yet; returns all its rows by status.

    Raises ValueError where rows out differ from rows in: nothing may be lost or doubled.
    """
    started = time.time()
    samples, annotator = storage.absolute(samples), storage.absolute(annotator)
    source = open_source(samples)
    storage.write_bytes(run.path(runs.BODY), storage.read_bytes(storage.join(annotator, runs.BODY)))
    method = _method(run, source=source, annotator=annotator, stage=stage)
    lines = lineage(run, annotator=annotator, samples=samples, method=method)
    commits.write_all(
        run, folder=LABELS, rows=source.rows,
        work=lambda: _label(run, source=source, annotator=annotator, stage=stage, method=method, lines=lines),
    )  # fmt: skip
    return succeed(run, source=source, lines=lines, seconds=time.time() - started)


def _label(
    run: runs.Run, *, source: Source, annotator: str, stage: AnnotateStage, method: Method, lines: dict[str, str]
) -> None:
    left = commits.files_left(run, sorted({file for file, _, _ in source.groups}), samples=source.path)
    source = replace(source, groups=tuple(group for group in source.groups if group[0] in left))
    if not source.groups:
        return
    config = annotators.load_config(annotator)
    target, folder = storage.resolve(run.path(LABELS))
    gpus = _gpus(stage)
    batch_bytes = method.batch_size * 3 * config.input_size[0] * config.input_size[1]
    batches = max(1, int(stage.block_mb * MIB / batch_bytes))
    crops = crop_rows(
        source, input_size=config.input_size, block_rows=batches * method.batch_size, readers=stage.readers,
        need_keypoints=stage.need_keypoints,
    )  # fmt: skip
    labels = crops.map_batches(
        Labeller,
        fn_constructor_args=(annotator, method, stage.threads, gpus),
        batch_size=method.batch_size,
        batch_format="numpy",
        num_cpus=ANNOTATOR_CPUS,
        num_gpus=gpus,
        compute=ActorPoolStrategy(size=stage.actors),
    )
    # Blocks of whole batches, which each yield of crops slightly exceeds: else a batch would lie in two, and be padded.
    labels.context.target_max_block_size = batches * batch_bytes
    labels.context.checkpoint_config = commits.checkpointing(run)
    metadata = (tables.PSEUDO_GT.metadata or {}) | {name.encode(): value.encode() for name, value in lines.items()}
    file_mb = stage.file_mb if stage.file_mb is not None else (128.0 if gpus else 8.0)
    try:
        labels.write_parquet(
            folder,
            filesystem=target,
            partition_cols=["status"],
            schema=tables.PSEUDO_GT.with_metadata(metadata),
            min_bytes_per_file=int(file_mb * MIB),
            ray_remote_args={"num_cpus": WRITE_CPUS},
            write_page_checksum=True,
        )
    except OSError as error:
        if f"[errno {errno.ENOSPC}]" in str(error).lower():
            raise ValueError(
                f"no space is left on the disk of {run.folder}: No space left on device\n"
                "  fix: make room and run the same command again; what is written already stays"
            ) from None
        raise


def _method(run: runs.Run, *, source: Source, annotator: str, stage: AnnotateStage) -> Method:
    """As set, or as probed: found once, kept in the run folder, so that a run that goes on goes on alike."""
    if stage.batch_size != "auto" and stage.precision != "auto":
        return Method(stage.batch_size, stage.precision, stage.flip_test)
    path = run.path(METHOD)
    if storage.exists(path):
        return Method(**storage.read_json(path)["method"])
    remote = ray.remote(num_cpus=ANNOTATOR_CPUS, num_gpus=_gpus(stage), max_retries=2)(_probe)
    method, tried = ray.get(remote.remote(source, annotator, stage))
    for trial in tried:
        log.info(
            "probe: %s", ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.items())
        )
    storage.write_json(path, {"method": asdict(method), "tried": tried})
    log.info("labelling in batches of %d, %s", method.batch_size, method.precision)
    return method


def _probe(source: Source, annotator: str, stage: AnnotateStage) -> tuple[Method, list[dict[str, Any]]]:
    file, group, _ = source.groups[0]
    table = read_group(source.path, file, group, COLUMNS)
    config = annotators.load_config(annotator)
    crops = prepare(table, input_size=config.input_size, joint_set=source.joint_set, need_keypoints=False)
    usable = crops["status"] == tables.OK
    crops = {name: values[usable if usable.any() else slice(None)] for name, values in crops.items()}
    labeller = Labeller(annotator, Method(1, "float32", stage.flip_test), stage.threads, _gpus(stage))
    return probe(labeller, crops, batch_size=stage.batch_size, precision=stage.precision)


def lineage(run: runs.Run, *, annotator: str, samples: str, method: Method) -> dict[str, str]:
    """Where labels come from, written into every file of them. The same for a run that goes on."""
    record, standing = (storage.read_json(storage.join(folder, runs.RUN_FILE)) for folder in (annotator, run.folder))
    return {
        "run_id": run.run_id,
        "annotator_run_id": record["run_id"],
        "annotator_sha256": annotators.weights_sha256(annotator),
        "annotator": annotator,
        "samples": samples,
        "samples_fingerprint": runs.fingerprint(samples),
        "recipe": str(record["settings"]),
        "method": str(asdict(method)),
        "code_commit": standing["code"]["commit"],
    }


def succeed(run: runs.Run, *, source: Source, lines: dict[str, str], seconds: float) -> Counter[str]:
    """Say that all is done, if it is. The checkpoint goes last: until then it is what keeps rows from being doubled."""
    listed = storage.list_files(run.path(LABELS), ".parquet")
    rows = commits.rows_of(run.path(LABELS), [path for path, _ in listed])
    counts: Counter[str] = Counter()
    for (path, _), count in zip(listed, rows, strict=True):
        counts[status_of(path)] += count
    if counts.total() != source.rows:
        raise ValueError(
            f"{source.rows} samples went in but {counts.total()} rows came out: {run.folder}\n"
            "  fix: run the same command again; if it says so again, jobs/verify.py names the samples"
        )
    _, root = storage.resolve(run.path(LABELS))
    record = storage.read_json(run.path(runs.RUN_FILE))
    storage.write_json(run.path(SUCCESS), {
        "rows_in": source.rows,
        "ok": counts[tables.OK],
        "quarantined": {status: count for status, count in sorted(counts.items()) if status != tables.OK},
        "files": [
            {"path": path.removeprefix(root).lstrip("/"), "rows": count, "bytes": size}
            for (path, size), count in zip(listed, rows, strict=True)
        ],
        "bytes": sum(size for _, size in listed),
        "seconds": round(seconds, 3),
        "settings": record["settings"],
        "lineage": lines,
    })  # fmt: skip
    return counts
