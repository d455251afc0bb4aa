"""The two-stage pipeline on the open world, by the jobs: f → labels of `street` → g → scores on `street_test`.

python -m tests.bench.study_two_stage OUT [SEED …]     an hour a seed on two cores; killed, the same command goes on

The same g four times, on `studio` with 3D and `street` with: its 2D alone (a), labels of an f without recipes (b),
labels of f, and the true 3D (c), which no paper could take. How much of the way from (a) to (c) do labels go? Beside
them the variants of Three Recipes' Table 6: f itself, and f fine-tuned on its own labels.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from pipelines import storage
from tests.bench.study_recipes import CROP, job
from tests.bench.table import machine, markdown

WORLD = "--studio 600 --street 1500 --street3d 200 --street-test 300"
METRICS = ("pa_mpjpe_mm", "mpjpe_mm", "mpvpe_mm")
TWO_D, FLAT, LABELS, TRUTH = (
    "g on 2D only (a)", "g on labels of f without recipes (b)", "g on labels of f", "g on the true 3D (c)",
)  # fmt: skip


def main(out: str, *seeds: str) -> None:
    world, prior, pose2d = (f"{out}/{name}" for name in ("world", "prior", "pose2d"))
    studio, street, street3d = (f"{world}/{name}" for name in ("studio", "street", "street3d"))
    job(f"synthesize --out {world} {WORLD}")
    job(f"train_prior --out {prior} --training.generated 50000 --training.steps 2000 --training.batch-size 256")
    job(
        f"train_pose2d --samples {studio} {street} {street3d} --out {pose2d} {CROP} --training.batch-size 16 "
        "--training.epochs 8 --training.samples-per-epoch 3000 --training.schedule linear "
        "--training.stream.strength 0 --training.stream.readers 1"
    )
    started, body = f"--training.init pose2d --weights {pose2d}", f"--body {world}/body.npz"
    scores: dict[str, list[dict[str, float]]] = {}
    for seed in seeds or ("0",):
        chance = f"--training.seed {seed} --training.stream.seed {seed} {body}"
        f, flat = f"{out}/f-{seed}", f"{out}/f-flat-{seed}"
        job(f"train_annotator --preset demo --out {f} --strong {studio} {street3d} --weak {street} --prior {prior} "
            f"{started} {chance}")  # fmt: skip
        job(f"train_annotator --preset demo --out {flat} --strong {studio} --weak {street} {chance} "
            "--training.model.pose-head rot6d --training.loss.l2-weight 0")  # fmt: skip
        labels, flat_labels = f"{out}/labels-{seed}", f"{out}/labels-flat-{seed}"
        for annotator, made in ((f, labels), (flat, flat_labels)):
            job(f"annotate --samples {street} --annotator {annotator} --out {made}")
            told(f"labels of {made}", score(f"labels {made}", world=world, domain="street", out=f"{made}-scores"))
        taught = {TWO_D: "none", FLAT: flat_labels, LABELS: labels, TRUTH: f"{world}/truth/street"}
        networks = {"f itself": f}
        for number, (name, teacher) in enumerate(taught.items()):
            networks[name] = f"{out}/g-{number}-{seed}"
            job(f"train_estimator pose2pose --preset demo --out {networks[name]} --strong {studio} --weak {street} "
                f"--labels {teacher} {started} {chance}")  # fmt: skip
        networks["f fine-tuned on its labels"] = f"{out}/f-tuned-{seed}"
        job(f"train_estimator pose2pose --preset demo --out {out}/f-tuned-{seed} --strong {studio} {street3d} "
            f"--weak {street} --labels {labels} --training.init network --weights {f} --prior {prior} "
            "--training.model.pose-head vposer --training.learning-rate 3e-4 --training.samples-per-epoch 1000 "
            f"{chance}")  # fmt: skip
        for name, network in networks.items():
            found = score(f"network {network}", world=world, domain="street_test", out=f"{network}-scores")
            scores.setdefault(name, []).append(found)
            told(name, found)
        sys.stdout.write(f"\n{machine()}\n\n{table(scores)}\n\n{closed(scores)}\n")
        sys.stdout.flush()


def score(what: str, *, world: str, domain: str, out: str) -> dict[str, float]:
    job(f"evaluate {what} --samples {world}/{domain} --truth {world}/truth/{domain} --protocol open_world --out {out}")
    columns: dict[str, Any] = storage.read_json(f"{out}/scores.json")["columns"]
    return {name: columns[name]["mean"] for name in METRICS}


def told(name: str, found: dict[str, float]) -> None:
    sys.stdout.write(f"{name}: {found}\n")
    sys.stdout.flush()


def table(scores: dict[str, list[dict[str, float]]]) -> str:
    """Mean and standard deviation over the seeds, in mm."""

    def cell(values: list[float]) -> str:
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        return f"{np.mean(values):.1f}{spread}"

    rows = [[name, *(cell([one[m] for one in found]) for m in METRICS)] for name, found in scores.items()]
    return markdown(["on street_test", *METRICS], rows)


def closed(scores: dict[str, list[dict[str, float]]]) -> str:
    """The share of the way from (a) to (c)."""
    lines = []
    for name in (LABELS, FLAT):
        parts = []
        for metric in METRICS:
            flat, mine, best = (np.mean([one[metric] for one in scores[k]]) for k in (TWO_D, name, TRUTH))
            parts.append(f"{(flat - mine) / (flat - best):.0%} of {flat - best:.1f} mm in {metric}")
        lines.append(f"{name} closes {', '.join(parts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
