"""Score a network, or labels, on a benchmark as the field does; compare two scores person by person.

Reads   <samples>          the benchmark's samples, from jobs/ingest.py or jobs/synthesize.py
        <network>          run folder of jobs/train_estimator.py (g), jobs/train_annotator.py or import_annotator.py (f)
        <labels>           or a run folder of jobs/annotate.py or import_labels.py: labels, ours or others', directly
        <regressors>       folder of the joint regressors that the protocol prescribes (docs/evaluation.md)
Writes  <out>              scores.md, scores.json, people/*.parquet (one row a person)
Costs   the network's forward passes, and 1 ms a person for the metrics

    python jobs/evaluate.py network runs/g --samples world/street_test --truth world/truth/street_test \\
        --protocol open_world --out runs/scores-g
    python jobs/evaluate.py labels runs/labels --samples world/street --truth world/truth/street \\
        --protocol open_world --out runs/scores-labels
    python jobs/evaluate.py compare runs/scores-g runs/scores-other
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from jobs import start
from pipelines import commits, estimators, storage
from pipelines.benchmark import check_predictor
from pipelines.bodies import load_body_of
from pipelines.cluster import connect
from pipelines.evaluate import (
    EvaluateStage,
    compare_runs,
    evaluate,
    open_benchmark,
)
from pipelines.label_files import LABELLERS
from pipelines.lease import Lease
from pipelines.runs import load_run, open_run, plain, roles
from pipelines.score_pages import comparison_table, table

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Score:
    """What is scored, and against what."""

    samples: tuple[str, ...]
    """Sample folders of the benchmark."""
    protocol: str
    """Rules of the scores: open_world, 3dpw, 3dpw_neutral, human36m_p1, human36m_p2, mupots, mupots_bones; for networks
    of right hands: freihand."""
    truth: str | None = None
    """Folder of the truth where samples do not hold it: the open world's truth/DOMAIN."""
    regressors: str | None = None
    """Folder of the joint regressors that the protocol prescribes."""
    bodies: str | None = None
    """Folder of SMPL_MALE and SMPL_FEMALE, for protocols with gendered truth."""
    out: str
    """Run folder to create."""
    stage: EvaluateStage = field(default_factory=EvaluateStage)


@dataclass(frozen=True, kw_only=True)
class Network(Score):
    """Score a network: g, or f."""

    network: Annotated[str, tyro.conf.Positional]
    """Its run folder."""


@dataclass(frozen=True, kw_only=True)
class Labels(Score):
    """Score labels directly, where the truth is known."""

    labels: Annotated[str, tyro.conf.Positional]
    """Their run folder."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two scores of the same people."""

    new: Annotated[str, tyro.conf.Positional]
    """Run folder of this job."""
    old: Annotated[str, tyro.conf.Positional]
    """Run folder of this job, by the same protocol."""
    out: str | None = None
    """File to write the comparison into (JSON)."""
    stage: EvaluateStage = field(default_factory=EvaluateStage)


Job = Network | Labels | Compare


def main(job: Job) -> None:
    if isinstance(job, Compare):
        found = compare_runs(job.new, job.old, stage=job.stage)
        if job.out:
            storage.write_json(job.out, found)
        _tell(comparison_table(found))
        return
    what: Literal["network", "labels"] = "network" if isinstance(job, Network) else "labels"
    folder = job.network if isinstance(job, Network) else job.labels
    if what == "network":
        estimators.load_config(folder)
    else:
        load_run(folder, job=LABELLERS)
    benchmark = open_benchmark(
        job.samples, protocol=job.protocol, truth=job.truth, regressors=job.regressors, bodies=job.bodies
    )
    check_predictor(benchmark, load_body_of(folder), where=folder, plausibility=job.stage.plausibility)
    connect()
    with Lease(job.out):
        run = open_run(job.out, **identity(job, what, folder), resume=True)
        if not run.finished:
            found = evaluate(run, benchmark=benchmark, what=what, folder=folder, stage=job.stage)
            run.finish(result={name: one["mean"] for name, one in found["columns"].items()})
        commits.forget(run)
    _tell(table(storage.read_json(run.path("scores.json"))))
    log.info("\nscores: %s", job.out)


def identity(job: Score, what: Literal["network", "labels"], folder: str) -> dict[str, Any]:
    """What makes this run this run, as open_run takes it."""
    parts: dict[str, Any] = {"samples": job.samples, "predictions": folder, "truth": job.truth}
    settings = {"what": what, "protocol": job.protocol, "stage": plain(job.stage), **roles(parts)}
    inputs = [*job.samples, folder, *(path for path in (job.truth, job.regressors, job.bodies) if path)]
    return {"job": "evaluate", "settings": settings, "inputs": inputs}


def _tell(lines: list[str]) -> None:
    for line in lines:
        log.info(line)


if __name__ == "__main__":
    start(main, {"network": Network, "labels": Labels, "compare": Compare}, doc=__doc__ or "")
