"""SPIN's (and HMR's) .npz of a dataset: one row a person (Kolotouros et al., 2019; its dataset files).

`center` and `scale` are a square box of 200 · scale pixels, which the network sees as 224 × 224; `pose` is 72 numbers,
`shape` 10; `part` is 24 and `openpose` 25 keypoints in the picture's pixels. SPIN keeps no camera in these files: we
add `cam` (s, t_x, t_y) in its convention, u = s · (x + t) in [-1, 1] of the box, which its code turns into a pinhole
camera of 5000 px on the crop with t_z = 2 · 5000 / (224 · s).

SPIN's published fits are files beside a dataset's: `{dataset}_fits.npy`, 72 of pose and 10 of shape a row, or the
"final fits", an .npz of `pose`, `betas` and `valid_fit`; their rows are the dataset's, in its order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mesh_lib.body.joints import OPENPOSE25
from mesh_lib.formats.batch import SPIN24, Arrays, Labels, arrange, furthest_px
from mesh_lib.geometry.cameras import CROP_FOCAL_PX

INPUT_PX = 224.0
BOX_PX = 200.0
LARGER = 1.2
"""A person's box grows by this in SPIN's preprocessing."""
NEAREST, WIDEST = 1.0, 2.0
"""A box of the label's own camera is taken where its edge is within these times the person's."""


def columns(labels: Labels) -> dict[str, np.ndarray]:
    """The arrays of a batch."""
    center, side = boxes(labels)
    transl_m = translation_m(labels, center, side)
    cam = np.concatenate([2 * CROP_FOCAL_PX / (INPUT_PX * transl_m[:, 2:]), transl_m[:, :2]], axis=1)
    return {
        "imgname": np.array(labels.file_name, object),
        "center": center,
        "scale": side / BOX_PX,
        "part": arrange(labels.keypoints_2d_px, SPIN24),
        "openpose": arrange(labels.keypoints_2d_px, OPENPOSE25),
        "S": _joints(labels),
        "pose": labels.rotvec.reshape(-1, 72),
        "shape": labels.betas,
        "has_smpl": np.ones(len(labels), np.uint8),
        "cam": cam,
        "sample_id": np.array(labels.sample_id, object),
    }


def _joints(labels: Labels) -> np.ndarray:
    """(N, 24, 4) joints of the mesh, relative to the pelvis, with their confidence: 0 where we have no such joint."""
    known = np.concatenate([labels.joints_3d_m, np.ones((*labels.joints_3d_m.shape[:2], 1))], axis=2)
    joints = arrange(known, SPIN24)
    root = joints[:, SPIN24.index("pelvis"), None, :3]
    joints[..., :3] = np.where(joints[..., 3:] > 0, joints[..., :3] - root, 0.0)
    return joints


def boxes(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Centre (N, 2) and edge (N,) of the square box.

    The box through which SPIN's camera of 5000 px is the label's own camera, so that nothing moves; where that one is
    no box of the person (a camera of another kind), the person's box grown as SPIN grows it.
    """
    middle = labels.bbox_xywh_px[:, :2] + labels.bbox_xywh_px[:, 2:] / 2
    person = labels.bbox_xywh_px[:, 2:].max(axis=1)
    own = labels.focal_px.mean(axis=1) * INPUT_PX / CROP_FOCAL_PX
    fits = (own >= NEAREST * person) & (own <= WIDEST * person)
    fits &= np.abs(labels.princpt_px - middle).max(axis=1) < person / 2
    return np.where(fits[:, None], labels.princpt_px, middle), np.where(fits, own, LARGER * person)


def translation_m(labels: Labels, center: np.ndarray, side: np.ndarray) -> np.ndarray:
    """(N, 3) translation under the crop's camera that puts the mesh's joints where the label has them.

    f (x + t_x) / (z + t_z) = u is linear in t: least squares over the joints.
    """
    focal = CROP_FOCAL_PX * side / INPUT_PX
    body = labels.joints_3d_m - labels.transl_m[:, None]
    return solve_translation(body, labels.joints_2d_px - center[:, None], focal)


def solve_translation(
    points_m: np.ndarray, pixels: np.ndarray, focal_px: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """(N, 3) translations with which a pinhole camera sees points (N, P, 3) at pixels (N, P, 2) from its principal
    point; weights (N, P). Least squares of f (x + t) - u (z + t_z) = 0."""
    weight = np.ones(points_m.shape[:2]) if weight is None else weight
    rows = np.zeros((*points_m.shape[:2], 2, 3))
    rows[..., 0, 0] = rows[..., 1, 1] = focal_px[:, None]
    rows[..., 2] = -pixels
    wanted = pixels * points_m[..., 2:] - focal_px[:, None, None] * points_m[..., :2]
    rows, wanted = rows * weight[..., None, None], wanted * weight[..., None]
    flat, right = rows.reshape(len(rows), -1, 3), wanted.reshape(len(wanted), -1, 1)
    # By the pseudo-inverse: people without two known points have no answer, and must not stop the others.
    return (np.linalg.pinv(flat) @ right)[..., 0]


def moved_px(labels: Labels, columns: dict[str, np.ndarray]) -> np.ndarray:
    """(N,) how far, at most, SPIN's camera shows a joint of the mesh from where the label has it."""
    return furthest_px(labels.joints_2d_px, project(labels.joints_3d_m - labels.transl_m[:, None], columns))


def project(body_m: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """(N, P, 3) points of the body, untranslated → (N, P, 2) pixels of the picture, as SPIN's code projects them."""
    scale, side = columns["cam"][:, :1], columns["scale"][:, None] * BOX_PX
    depth = 2 * CROP_FOCAL_PX / (INPUT_PX * scale)
    moved = body_m + np.concatenate([columns["cam"][:, 1:], depth], axis=1)[:, None]
    crop = CROP_FOCAL_PX * moved[..., :2] / moved[..., 2:]
    return crop * (side / INPUT_PX)[:, None] + columns["center"][:, None]


def with_fits(arrays: Arrays, fits: np.ndarray | Arrays, *, where: str, dataset: str) -> Arrays:
    """A dataset's arrays with pose and shape of SPIN's fits: one array (N, 82), or arrays by name.

    Raises ValueError for other arrays, and for others than a row for each of the dataset's.
    """
    if isinstance(fits, np.ndarray):
        if fits.ndim != 2 or fits.shape[1] != 82:
            raise ValueError(f"{where}: it has shape {fits.shape}; expected (rows, 82), 72 of pose and 10 of shape")
        pose, shape, valid = fits[:, :72], fits[:, 72:], None
    else:
        pose = fits("pose")
        shape = found if (found := fits("betas")) is not None else fits("shape")
        valid = found if (found := fits("valid_fit")) is not None else fits("valid")
        if pose is None or shape is None:
            raise ValueError(f"{where} has no {'pose' if pose is None else 'betas'}: SPIN's final fits have both")
    replaced = {"pose": pose, "shape": shape, "has_smpl": None if valid is None else valid.reshape(-1), "cam": None}
    names = arrays("imgname")
    rows = len(pose) if names is None else names.size  # a dataset without names is told of by `entries`
    for name, wanted in {"pose": (rows, 72), "shape": (rows, 10), "has_smpl": (rows,)}.items():
        values = replaced[name]
        if values is not None and values.shape != wanted:
            what = "valid" if name == "has_smpl" else name
            raise ValueError(
                f"{where}: {what} has shape {values.shape}; expected {wanted}, a row for each of {dataset}\n"
                "  fix: pass the fits and the .npz of one dataset and split"
            )
    return lambda name: replaced[name] if name in replaced else arrays(name)


def entries(arrays: Arrays, *, where: str) -> Iterator[dict[str, Any]]:
    """The people of a file that have a fit. Raises ValueError for a file that is not SPIN's."""
    needed = {name: arrays(name) for name in ("imgname", "pose", "shape", "center", "scale")}
    if lacking := [name for name, values in needed.items() if values is None]:
        raise ValueError(
            f"{where} has no {', '.join(lacking)}: SPIN's files with fits have pose and shape for each row\n"
            "  fix: where they are in a file of their own ({dataset}_fits.npy, final fits), pass it as --fits"
        )
    valid, cam = arrays("has_smpl"), arrays("cam")
    found = {name: v for name, v in {**needed, "has_smpl": valid, "cam": cam}.items() if v is not None}
    rows = found["imgname"].size
    shapes = {
        "imgname": (rows,), "pose": (rows, 72), "shape": (rows, 10), "center": (rows, 2), "scale": (rows,),
        "has_smpl": (rows,), "cam": (rows, 3),
    }  # fmt: skip
    for name, values in found.items():
        what, kinds = ("text", "US") if name == "imgname" else ("numbers", "fiub")
        if values.shape != shapes[name] or values.dtype.kind not in kinds:
            wanted = f"expected {what} of shape {shapes[name]}"
            raise ValueError(f"{where}: {name} has shape {values.shape} of {values.dtype}; {wanted}")
    for row in range(rows):
        if valid is not None and not valid[row]:
            continue
        yield {
            "file_name": _text(found["imgname"][row]),
            "center": found["center"][row].astype(np.float64),
            "side": float(found["scale"][row]) * BOX_PX,
            "rotvec": found["pose"][row].reshape(24, 3).astype(np.float64),
            "betas": found["shape"][row].astype(np.float64),
            "cam": None if cam is None else cam[row].astype(np.float64),
        }


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
