"""Scores: a network, or labels, over a benchmark; one row a person, then means with intervals, then comparisons.

Exactly once, as annotate (pipelines/commits.py): an evaluation that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from mesh_lib import tables
from mesh_lib.metrics.joints import acceleration_error_mm
from mesh_lib.metrics.protocols import BodyProtocol, CrowdProtocol, find_protocol
from mesh_lib.metrics.scorers import People, scorer_of
from mesh_lib.metrics.summary import RESAMPLES, Estimate, Mean, Scores, compare
from mesh_lib.nets.lixel import LixelConfig
from pipelines import annotators, commits, estimators, runs, storage
from pipelines.benchmark import Benchmark, Scored, check_body, check_people, check_protocol
from pipelines.cluster import require_resources
from pipelines.crops import Crops
from pipelines.evaluator import Ask, Evaluate, RootDepth, needed_columns
from pipelines.label_files import LABELLERS
from pipelines.labelled import Unlabelled, with_labels
from pipelines.score_pages import plain_numbers, table
from pipelines.sources import Source, open_source

log = logging.getLogger(__name__)

ROWS = "people"
"""Folder of one row a person."""
SCORES, TABLE = "scores.json", "scores.md"
ACTOR_CPUS, READ_CPUS, CROP_CPUS, WRITE_CPUS = 0.5, 0.25, 0.75, 0.25
LISTED = 3
SAME_TRUTH_MM = 1.0


@dataclass(frozen=True, kw_only=True)
class EvaluateStage:
    """How the evaluation runs."""

    batch_size: int = 32
    """People that are predicted and scored at once."""
    actors: int = 1
    """Copies of the network that work at the same time."""
    gpus: float | None = None
    """GPUs of each copy, up to 1. By default 1 where the cluster has any, else 0."""
    threads: int = 2
    """CPU threads of each copy, where there is no GPU."""
    readers: int = 2
    """Tasks that decode and crop pictures at the same time, and at most as many that read files."""
    root_depth: RootDepth = "truth"
    """I2L-MeshNet alone, whose answer is relative to the root: the root's true depth, or that of its box (RootNet's
    k)."""
    plausibility: bool = False
    """Measure self-penetration and joint limits too (70 ms a body)."""
    file_mb: float = 1.0
    """Of scores that are written, and committed, at once: what a kill can lose."""
    missing: Literal["refuse", "count"] = "refuse"
    """What a person without a prediction (no label, a picture that cannot be read) does to the scores: there are none,
    or they are means over the others, and say so."""
    mean: Mean = "people"
    """Means over people, or over the means of their sequences."""
    resamples: int = RESAMPLES
    """Of the bootstrap."""
    seed: int = 0

    def __post_init__(self) -> None:
        runs.require_positive(self, "batch_size", "actors", "threads", "readers", "resamples")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise ValueError(f"gpus is from 0 to 1, for each copy works on one; it is {self.gpus}")


def open_benchmark(
    samples: tuple[str, ...], *, protocol: str, truth: str | None, regressors: str | None, bodies: str | None
) -> Benchmark:
    """Raises ValueError for a protocol that is none, or not of SMPL bodies, and for samples that do not go together."""
    check_protocol(find_protocol(protocol))
    sources = tuple(open_source(path) for path in samples)
    if not sources:
        raise ValueError("no samples were given\n  fix: pass the folder of the benchmark as --samples")
    if len(sets := {source.joint_set.name for source in sources}) > 1:
        raise ValueError(f"the benchmark's folders have different joint sets: {', '.join(sorted(sets))}")
    stores = {source.path.partition("://")[0] if "://" in source.path else "disk" for source in sources}
    if len(stores) > 1:
        raise ValueError(f"the benchmark's folders lie in different stores ({', '.join(sorted(stores))}): copy one")
    truth, regressors, bodies = (path and storage.absolute(path) for path in (truth, regressors, bodies))
    return Benchmark(sources=sources, protocol=protocol, truth=truth, regressors=regressors, bodies=bodies)


def evaluate(
    run: runs.Run, *, benchmark: Benchmark, what: Literal["network", "labels"], folder: str, stage: EvaluateStage
) -> dict[str, Any]:
    """Score everybody of a benchmark into the run folder; returns what SCORES holds.

    Raises ValueError for a benchmark that cannot be scored (check_people), for files of the protocol that are not
    there, and for people without a prediction where these are refused.
    """
    ids = check_people(benchmark)
    check_body(benchmark, storage.join(storage.absolute(folder), runs.BODY))
    gpus = stage.gpus if stage.gpus is not None else float(bool(ray.cluster_resources().get("GPU")))
    ask = Ask(
        folder=storage.absolute(folder), what=what, root_depth=stage.root_depth, batch_size=stage.batch_size,
        threads=stage.threads, gpus=gpus if what == "network" else 0.0, plausibility=stage.plausibility,
    )  # fmt: skip
    _check_fit(ask, stage)
    if what == "labels":
        for source in benchmark.sources:
            _check_labels(source, ask.folder, unlabelled="error" if stage.missing == "refuse" else "drop")
    Evaluate(
        dataclasses.replace(ask, gpus=0.0), benchmark, benchmark.sources[0].joint_set
    )  # what lacks is told at once
    commits.write_all(
        run, folder=ROWS, rows=len(ids), work=lambda: _score(run, benchmark=benchmark, ask=ask, stage=stage)
    )
    people = storage.read_parquet(run.path(ROWS), what="scores")
    statuses = Counter(people.column("status").to_pylist())
    lost = len(people) - statuses[tables.OK]
    if lost and stage.missing == "refuse":
        names = people.filter(pa.compute.not_equal(people.column("status"), tables.OK)).column("sample_id").to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
        reasons = ", ".join(f"{count} {status}" for status, count in statuses.items() if status != tables.OK)
        raise ValueError(
            f"{lost} of {len(ids)} people have no prediction: {reasons} ({', '.join(names[:LISTED])} …)\n"
            "  fix: mend their pictures; or --stage.missing count, for means over the others, in another --out"
        )
    rules = benchmark.rules
    statement = scorer_of(rules, folder=benchmark.regressors, body=ask.body()).statement
    scores = _gather(people, rules)
    scores.require(ids)
    found = {
        "statement": statement,
        "people": len(people), "without_prediction": lost,
        "means_over": stage.mean,
        "columns": {name: plain_numbers(asdict(value)) for name, value in _summary(scores, stage).items()},
        "sequences": _acceleration(people) if isinstance(rules, BodyProtocol) and rules.sequences else {},
        "body": {"name": ask.body().name, "sha256": ask.body().sha256},
        "predicted_by": _origin(ask), "samples": [source.path for source in benchmark.sources],
    }  # fmt: skip
    storage.write_json(run.path(SCORES), found)
    storage.write_bytes(run.path(TABLE), ("\n".join(table(found)) + "\n").encode())
    return found


def _check_fit(ask: Ask, stage: EvaluateStage) -> None:
    cpus = {
        "listing and reading": 2 * READ_CPUS,
        "one decoder": CROP_CPUS,
        f"{stage.actors} scorers": ACTOR_CPUS * stage.actors,
        "the filter of what is done": commits.FILTER_CPUS,
        "one writer": WRITE_CPUS,
    }
    require_resources(cpus, gpus=ask.gpus * stage.actors)


def _check_labels(source: Source, labels: str, *, unlabelled: Unlabelled) -> None:
    try:
        with_labels(source, labels, unlabelled=unlabelled)
    except ValueError as error:
        message = str(error).partition("\n")[0]
        if "no label" not in message:
            raise
        raise ValueError(
            f"{message}\n  fix: label them; or --stage.missing count, for means over the labelled"
        ) from None


def _score(run: runs.Run, *, benchmark: Benchmark, ask: Ask, stage: EvaluateStage) -> None:
    system, _ = storage.resolve(benchmark.sources[0].path)
    files = sorted({file for source in benchmark.sources for file, _, _ in source.groups})
    left = commits.files_left(run, files, samples=benchmark.sources[0].path)
    if not left:
        return
    joint_set = benchmark.sources[0].joint_set
    rows = ray.data.read_parquet(
        sorted(left), filesystem=system, shuffle=None, num_cpus=READ_CPUS,
        concurrency=stage.readers if ask.what == "network" else None,  # labels' rows are small: no pictures
    )  # fmt: skip
    named = [storage.parquet_schema(source.path).names for source in benchmark.sources]
    shared = [name for name in named[0] if all(name in names for names in named)]
    rows = rows.select_columns(needed_columns(ask, benchmark, shared))
    if ask.what == "network":
        size = estimators.input_size(ask.folder)
        rows = rows.map_batches(
            Crops(size, joint_set),
            batch_size=stage.batch_size,
            batch_format="pyarrow",
            num_cpus=CROP_CPUS,
            compute=TaskPoolStrategy(size=stage.readers),
        )
    scored = rows.map_batches(
        Evaluate,
        fn_constructor_args=(ask, benchmark, joint_set),
        batch_size=stage.batch_size,
        batch_format="pyarrow",
        num_cpus=ACTOR_CPUS,
        num_gpus=ask.gpus,
        compute=ActorPoolStrategy(size=stage.actors),
    )
    if ask.what == "network":  # a block a batch: what is done is written as it is done
        scored.context.target_max_block_size = stage.batch_size * 3 * size[0] * size[1]
    scored.context.checkpoint_config = commits.checkpointing(run)
    target, folder = storage.resolve(run.path(ROWS))
    scored.write_parquet(
        folder,
        filesystem=target,
        min_bytes_per_file=int(stage.file_mb * 2**20),
        ray_remote_args={"num_cpus": WRITE_CPUS},
    )


def _gather(people: pa.Table, rules: Scored) -> Scores:
    """One value a person and column; crowds are matched here, all people of a picture being there."""
    scores = Scores()
    columns = _match(people, rules) if isinstance(rules, CrowdProtocol) else {
        f.name: people.column(f.name).to_numpy() for f in people.schema if pa.types.is_floating(f.type)
    }  # fmt: skip
    scores.add(people.column("sample_id").to_pylist(), columns, groups=_groups(people))
    return scores


def _match(people: pa.Table, rules: CrowdProtocol) -> dict[str, torch.Tensor]:
    def points(name: str, dims: int) -> torch.Tensor:
        values = torch.from_numpy(tables.numpy_column(people, name).copy())
        return values.unflatten(1, (len(rules.joint_set), dims))

    images = tuple(people.column("image_id").to_pylist())
    return scorer_of(rules).columns(
        predicted=People(joints_m=points("joints_m", 3), joints_px=points("joints_px", 2), image_ids=images),
        target=People(
            joints_m=points("truth_joints_m", 3), joints_px=points("truth_joints_px", 2),
            visible=points("truth_visible", 1)[..., 0] > 0, image_ids=images,
        ),
    )  # fmt: skip


def _groups(people: pa.Table) -> list[str]:
    """The sequence of each person, or themselves where there is none: the witnesses of the bootstrap."""
    pairs = zip(people.column("sequence").to_pylist(), people.column("sample_id").to_pylist(), strict=True)
    return [sequence if sequence is not None else name for sequence, name in pairs]


def _summary(scores: Scores, stage: EvaluateStage) -> dict[str, Estimate]:
    return scores.summary(of=stage.mean, seed=stage.seed, resamples=stage.resamples)


def _acceleration(people: pa.Table) -> dict[str, Any]:
    """Acceleration error of everybody who is seen in three frames in a row of a sequence; mean over their frames."""
    frames = people.column("frame").to_pylist()
    tracks: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(
        zip(people.column("sequence").to_pylist(), people.column("person_id").to_pylist(), strict=True)
    ):
        if key[0] is not None and frames[row] is not None:
            tracks.setdefault(key, []).append(row)
    ours, theirs = (
        torch.from_numpy(tables.numpy_column(people, name).copy()).unflatten(1, (-1, 3))
        for name in ("joints_m", "truth_joints_m")
    )
    total, count = 0.0, 0
    for rows in tracks.values():
        at = np.array([frames[row] for row in rows])
        if len(np.unique(at)) != len(at):
            continue  # two people under one id: no track
        span = at - at.min()
        places = torch.from_numpy(span)
        shape = (int(span.max()) + 1, *ours.shape[1:])
        valid = torch.zeros(shape[0])
        valid[places] = (ours[rows].isfinite() & theirs[rows].isfinite()).all(dim=(1, 2)).float()
        dense = [torch.zeros(shape).index_copy(0, places, points[rows].nan_to_num()) for points in (ours, theirs)]
        whole = int((valid[2:] * valid[1:-1] * valid[:-2]).sum())
        if whole:
            total += acceleration_error_mm(predicted_m=dense[0], target_m=dense[1], valid=valid).item() * whole
            count += whole
    return {"acceleration_error_mm": total / count, "frames": count, "tracks": len(tracks)} if count else {}


def _origin(ask: Ask) -> dict[str, Any]:
    """Who predicted, for whoever reads the scores."""
    jobs = LABELLERS if ask.what == "labels" else annotators.MAKERS
    record = runs.load_run(ask.folder, job=jobs)
    found = {"what": ask.what, "folder": ask.folder, "job": record["job"], "run_id": record["run_id"]}
    if ask.what == "labels":
        return found
    depth = ask.root_depth if isinstance(estimators.load_config(ask.folder), LixelConfig) else None
    return found | {"sha256": estimators.weights_sha256(ask.folder), "root_depth": depth}


def load_scores(folder: str) -> tuple[dict[str, Any], Scores]:
    """What a finished evaluation holds. Raises ValueError for a folder of something else."""
    runs.load_run(folder, job="evaluate")
    found = storage.read_json(storage.join(folder, SCORES))
    people = storage.read_parquet(storage.join(folder, ROWS), what="scores")
    rules = find_protocol(found["statement"]["protocol"])
    assert isinstance(rules, Scored)
    return found, _gather(people, rules)


def compare_runs(new: str, old: str, *, stage: EvaluateStage) -> dict[str, Any]:
    """Two evaluations of the same people, person by person: what the new one's means are less than the old one's.

    Raises ValueError where protocol, regressors or people differ.
    """
    (mine, ours), (theirs, others) = load_scores(new), load_scores(old)
    for name in ("protocol", "regressor", "joints", "root"):
        if mine["statement"][name] != theirs["statement"][name]:
            raise ValueError(
                f"the two were scored by other rules: {name} is {mine['statement'][name]} in {new}, "
                f"{theirs['statement'][name]} in {old}"
            )
    depths = [one["predicted_by"].get("root_depth") for one in (mine, theirs)]
    if None not in depths and depths[0] != depths[1]:
        raise ValueError(f"the root's depth was that of the {depths[0]} in {new}, of the {depths[1]} in {old}")
    if (moved_mm := _truths_apart_mm(new, old)) > SAME_TRUTH_MM:
        raise ValueError(f"the two were scored against other truths: joints are up to {moved_mm:.1f} mm apart")
    found = compare(ours, others, of=stage.mean, seed=stage.seed, resamples=stage.resamples)
    return {
        "new": new, "old": old, "statement": mine["statement"], "means_over": stage.mean,
        "columns": {name: plain_numbers(asdict(value)) | {"sure": value.sure} for name, value in found.items()},
    }  # fmt: skip


def _truths_apart_mm(new: str, old: str) -> float:
    """How far the true joints of a person are apart at most, of those who are in both."""
    columns = ["sample_key", "truth_joints_m"]
    one, other = (
        storage.read_parquet(storage.join(folder, ROWS), columns=columns).sort_by("sample_key") for folder in (new, old)
    )
    if not one.column("sample_key").equals(other.column("sample_key")):
        return 0.0  # which `compare` names
    apart = tables.numpy_column(one, "truth_joints_m") - tables.numpy_column(other, "truth_joints_m")
    return float(np.nanmax(np.abs(apart), initial=0.0)) * 1000
