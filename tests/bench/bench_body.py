"""What the body layer saves: keypoints only, all vertices, against smplx's full forward, and the rasteriser.

python -m tests.bench.bench_body
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import smplx
import torch

from mesh_lib.body.files import load_body
from mesh_lib.body.joints import BODY33
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.render.raster import cast
from pipelines.bodies import cached_body, save_body
from tests.bench.table import machine, markdown, paired

BATCH, ROUNDS = 64, 30


def main() -> None:
    torch.set_num_threads(2)
    path = cached_body("full")
    body = load_body(path)
    with tempfile.TemporaryDirectory() as models:
        save_body(
            dict(np.load(path)), Path(models) / "smpl" / "SMPL_NEUTRAL.pkl"
        )  # the one file that smplx's SMPL reads
        theirs = smplx.create(models, model_type="smpl", num_betas=10, batch_size=BATCH)
    layer, keypoints = BodyLayer(body), KeypointLayer(body, BODY33)
    rng = np.random.default_rng(0)
    pose = torch.from_numpy(rng.normal(0, 0.4, (BATCH, 24, 3)).astype(np.float32))
    betas = torch.from_numpy(rng.normal(0, 1, (BATCH, 10)).astype(np.float32))

    def smplx_full(pose: torch.Tensor) -> torch.Tensor:
        out = theirs(global_orient=pose[:, 0], body_pose=pose[:, 1:].flatten(1), betas=betas)
        return out.joints

    def learn(forward: Callable[[torch.Tensor], torch.Tensor], pose: torch.Tensor) -> None:
        wanted = pose.clone().requires_grad_()
        forward(wanted).square().sum().backward()

    ours = {
        "smplx, full forward": smplx_full,
        "ours, all vertices": lambda p: layer(rotmats=rotvec_to_rotmat(p), betas=betas).vertices_m,
        "ours, 33 keypoints of the posed mesh": lambda p: keypoints(rotmats=rotvec_to_rotmat(p), betas=betas),
        "ours, 24 kinematic joints": lambda p: layer.joints_only(rotmats=rotvec_to_rotmat(p), betas=betas),
    }
    with torch.no_grad():
        forward = paired({name: (lambda f=f: f(pose)) for name, f in ours.items()}, rounds=ROUNDS)
    both = paired({name: (lambda f=f: learn(f, pose)) for name, f in ours.items()}, rounds=ROUNDS)
    first = next(iter(ours))
    rows = [
        [name, f"{forward[name] * 1e3:.1f}", f"{forward[first] / forward[name]:.1f}×",
         f"{both[name] * 1e3:.1f}", f"{both[first] / both[name]:.1f}×"]
        for name in ours
    ]  # fmt: skip
    header = [
        f"batch {BATCH}, {len(body.v_template)} vertices",
        "forward ms",
        "faster",
        "forward + backward ms",
        "faster",
    ]
    vertices = body.v_template * np.array([1, -1, -1]) + np.array([0, 0, 4.0])
    camera = {"focal_px": np.array([900.0, 900.0]), "princpt_px": np.array([256.0, 256.0]), "size_wh": (512, 512)}
    drawn = paired({"cast": lambda: cast(vertices.astype(np.float32), body.faces, **camera)}, rounds=ROUNDS)
    told = f"ray cast of one such body at 512×512: {drawn['cast'] * 1e3:.1f} ms"
    sys.stdout.write(f"{machine()}\n\n{markdown(header, rows)}\n\n{told}\n")


if __name__ == "__main__":
    main()
