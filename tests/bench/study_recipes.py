"""Each recipe of Three Recipes removed in turn, on the open world, by the jobs, with three seeds (Table 2's last rows).

python -m tests.bench.study_recipes OUT     two hours on two cores; killed, the same command goes on
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from mesh_lib.body.files import load_body
from pipelines.score import Score, score_labels
from tests.bench.table import machine, markdown

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2)
SAMPLES = 9_000
CROP = "--training.model.backbone 18 --training.model.input-width 96 --training.model.input-height 128"


def main(out: str) -> None:
    world, prior, pose2d = (f"{out}/{name}" for name in ("world", "prior", "pose2d"))
    studio, street, street3d = (f"{world}/{name}" for name in ("studio", "street", "street3d"))
    job(f"synthesize --out {world} --studio 400 --street 250 --street3d 250 --street-test 0")
    job(f"train_prior --out {prior} --training.generated 50000 --training.steps 2000 --training.batch-size 256")
    job(
        f"train_pose2d --samples {studio} {street} {street3d} --out {pose2d} {CROP} --training.batch-size 16 "
        "--training.epochs 8 --training.samples-per-epoch 3000 --training.schedule linear "
        "--training.stream.strength 0 --training.stream.readers 1"
    )
    mixed, vposer = f"--strong {studio} {street3d} --weak {street}", f"--prior {prior}"
    started = f"--training.init pose2d --weights {pose2d}"
    settings = {
        "all three": f"{mixed} {vposer} {started}",
        "without 3D in the wild (recipe 1)": f"{mixed} {vposer} {started} --training.withhold-3d {street3d}",
        "without 2D pose weights (recipe 2)": f"{mixed} {vposer}",
        "without VPoser and L2 (recipe 3)": f"{mixed} {started} --training.model.pose-head rot6d "
        "--training.loss.l2-weight 0",
    }
    scores: dict[str, list[Score]] = {name: [] for name in settings}
    for seed in SEEDS:
        for number, (name, chosen) in enumerate(settings.items()):
            f, labels = f"{out}/f-{number}-{seed}", f"{out}/labels-{number}-{seed}"
            job(
                f"train_annotator --preset demo --out {f} {chosen} --training.seed {seed} "
                f"--training.stream.seed {seed} --training.samples-per-epoch {SAMPLES // 10} "
                "--training.precision float32"
            )
            job(f"annotate --samples {street} --annotator {f} --out {labels}")
            truth, reference = f"{world}/truth/street", f"{world}/truth/studio"
            body = load_body(f"{world}/body.npz")
            scores[name].append(score_labels(labels=labels, truth=truth, reference=reference, body=body))
        sys.stdout.write(f"\n{machine()}\n\n{table(scores)}\n")
        sys.stdout.flush()


def job(line: str) -> None:
    """python jobs/… as its user would type it."""
    name, *arguments = line.split()
    subprocess.run([sys.executable, f"jobs/{name}.py", *arguments], cwd=ROOT, check=True)


def table(scores: dict[str, list[Score]]) -> str:
    """Mean and standard deviation over the seeds, in mm."""

    def told(values: list[float]) -> str:
        return f"{np.mean(values):.1f} ± {np.std(values, ddof=min(1, len(values) - 1)):.1f}"

    rows = [
        [name, told([s.pa_mpjpe_mm for s in found]), *(told([s.per_axis_mm[axis] for s in found]) for axis in "xyz")]
        for name, found in scores.items()
    ]
    return markdown(["f, trained with", "PA-MPJPE", "x", "y", "z"], rows)


if __name__ == "__main__":
    main(sys.argv[1])
