"""The scorer at work: Ray Data actors that predict people, by a network or from labels, and score them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from mesh_lib import tables
from mesh_lib.body.files import Body
from mesh_lib.body.hands import is_hand
from mesh_lib.body.joints import BODY33, JointSet
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.cameras import project
from mesh_lib.geometry.lixels import BODY_BOX_M, HAND_BOX_M
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.metrics.joints import reprojection_px
from mesh_lib.metrics.penetration import SelfPenetration
from mesh_lib.metrics.protocols import CrowdProtocol
from mesh_lib.metrics.regressors import load_regressor
from mesh_lib.metrics.scorers import BodyScorer, HandScorer, People, plausibility_columns, scorer_of
from mesh_lib.nets.estimators import Mesher, View, box_root_depth_m
from pipelines import estimators
from pipelines.benchmark import PARAMETERS, Benchmark, Known, truth_reader
from pipelines.bodies import load_body_of
from pipelines.join import Lookup, row_groups
from pipelines.labelled import label_files
from pipelines.sources import COLUMNS

IDENTITY = ("sample_id", "sample_key", "image_id", "person_id", "sequence", "frame")
RootDepth = Literal["truth", "box"]
LABEL_COLUMNS = (*PARAMETERS, "focal_px", "princpt_px", "joints_2d_px")
UNLABELLED = "no_label"


@dataclass(frozen=True)
class Ask:
    """Who predicts, and how it is asked."""

    folder: str
    """Run folder of the network, or of the labels."""
    what: Literal["network", "labels"]
    root_depth: RootDepth
    batch_size: int
    threads: int
    gpus: float
    plausibility: bool

    def body(self) -> Body:
        return load_body_of(self.folder)


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What was predicted of a batch, its rows those of the batch; NaN where nothing was."""

    vertices_m: torch.Tensor
    rotmats: torch.Tensor | None
    joints_px: torch.Tensor | None
    """The protocol's joints in the whole picture, of crowds."""
    keypoints_px: torch.Tensor | None
    """BODY33 joints in the whole picture."""


class Evaluate:
    """Ray Data actor: rows of samples in, a row of scores for each out."""

    def __init__(self, ask: Ask, benchmark: Benchmark, joint_set: JointSet) -> None:
        self.device = torch.device("cuda" if ask.gpus and torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(ask.threads)
        self.ask, self.benchmark, self.joint_set = ask, benchmark, joint_set
        body = ask.body()
        self.truth = truth_reader(benchmark, body)
        self.box_m = HAND_BOX_M if is_hand(body) else BODY_BOX_M
        self.crowd = isinstance(benchmark.rules, CrowdProtocol)
        if self.crowd:
            self.regressor = load_regressor(benchmark.rules.regressor, benchmark.regressors)  # pyright: ignore[reportArgumentType]
        else:
            scorer = scorer_of(benchmark.rules, folder=benchmark.regressors, body=body)
            assert isinstance(scorer, BodyScorer | HandScorer)
            self.scorer = scorer
        self.penetration = SelfPenetration(body) if ask.plausibility else None
        if ask.what == "labels":
            self.labels, self.layer = label_lookup(ask.folder), BodyLayer(body)
        else:
            network = estimators.load_estimator(ask.folder)
            self.mesher = Mesher(network.for_inference() if self.device.type == "cpu" else network, body).to(
                self.device
            )

    @torch.inference_mode()
    def __call__(self, table: pa.Table) -> pa.Table:
        known = self.truth(table, self.joint_set)
        status, guess = self._from_labels(table) if self.ask.what == "labels" else self._from_pictures(table, known)
        good = torch.from_numpy(status == tables.OK)
        columns: dict[str, Any] = {name: table.column(name) for name in IDENTITY} | {
            "status": pa.array(status.tolist())
        }
        if self.crowd:
            return pa.table(columns | self._crowd(known, guess))
        scores = self._scores(known, guess, good, table)
        ours, theirs = (
            _filled(self.scorer.joints_m(p), good) for p in (People(vertices_m=guess.vertices_m), known.people)
        )
        joints = {"joints_m": _lists(ours), "truth_joints_m": _lists(theirs)}
        return pa.table(columns | {name: pa.array(value.double().numpy()) for name, value in scores.items()} | joints)

    def _scores(self, known: Known, guess: Guess, good: torch.Tensor, table: pa.Table) -> dict[str, torch.Tensor]:
        """Columns of everybody; NaN for whom nothing is predicted."""
        # Where that is nobody, the first stands in for the columns' names: all parts of a table have the same.
        asked = good if good.any() else torch.arange(len(good)) == 0
        target = _chosen(known.people, asked)
        predicted = People(vertices_m=guess.vertices_m[asked]) if good.any() else target
        found = self.scorer.columns(predicted=predicted, target=target)
        if self.penetration is not None and guess.rotmats is not None:
            found |= plausibility_columns(
                rotmats=guess.rotmats[asked], vertices_m=guess.vertices_m[asked], penetration=self.penetration
            )
        if guess.keypoints_px is not None:
            given = self._given(table)[asked]
            found["annotation_error_px"] = reprojection_px(
                predicted_px=guess.keypoints_px[asked], target_px=given[..., :2], visible=given[..., 2]
            )
        out = {name: torch.full((len(good),), torch.nan, dtype=torch.float64) for name in found}
        for name, values in found.items() if good.any() else ():
            out[name][good] = values.double().cpu()
        return out

    def _given(self, table: pa.Table) -> torch.Tensor:
        values = np.nan_to_num(tables.numpy_column(table, "keypoints_2d_px", missing=0.0)).astype(np.float32)
        return torch.from_numpy(BODY33.take_from(values.reshape(len(table), len(self.joint_set), 3), self.joint_set))

    def _crowd(self, known: Known, guess: Guess) -> dict[str, pa.Array]:
        """Joints of the protocol, predicted and true, which are matched when all people of a picture are known."""
        assert guess.joints_px is not None
        people = known.people
        assert people.joints_m is not None and people.joints_px is not None and people.visible is not None
        return {
            "joints_m": _lists(self.regressor.joints_m(guess.vertices_m)),
            "joints_px": _lists(guess.joints_px),
            "truth_joints_m": _lists(people.joints_m),
            "truth_joints_px": _lists(people.joints_px),
            "truth_visible": _lists(people.visible.float()),
        }

    def _from_pictures(self, table: pa.Table, known: Known) -> tuple[np.ndarray, Guess]:
        size = self.mesher.network.config.input_size
        rows = len(table)
        status = np.array(table.column("status").to_pylist(), dtype=object)
        box = torch.from_numpy(tables.numpy_column(table, "box").copy())
        crop = torch.from_numpy(tables.numpy_column(table, "crop").reshape(rows, size[1], size[0], 3).copy())
        view = self._view(box, known, size)
        if self.mesher.needs_camera:
            blind = ~(view.root_depth_m.isfinite() & (view.root_depth_m > 0)).numpy()
            status[(status == tables.OK) & blind] = "no_camera"
        padded = self._padded
        image = padded(crop).permute(0, 3, 1, 2).float() / 255
        bodies = self.mesher(image, View(**{name: padded(value) for name, value in vars(view).items()}))

        def to_image(crop_px: torch.Tensor) -> torch.Tensor:
            return crop_px[:rows].cpu() * (box[:, 2:] / torch.tensor(size))[:, None] + box[:, None, :2]

        good = torch.from_numpy(status == tables.OK)
        joints_px = None
        if self.crowd:
            joints_px = _filled(to_image(bodies.crop_px(self.regressor.joints_m(bodies.vertices_m))), good)
        seen = bodies.keypoints_crop_px
        return status, Guess(
            vertices_m=_filled(bodies.vertices_m[:rows].cpu(), good),
            rotmats=None if bodies.rotmats is None else bodies.rotmats[:rows].cpu(),
            joints_px=joints_px,
            keypoints_px=None if seen is None else to_image(seen),
        )

    def _view(self, box: torch.Tensor, known: Known, size: tuple[int, int]) -> View:
        scale = torch.tensor(size) / box[:, 2:]
        affine = torch.zeros(len(box), 2, 3)
        affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = scale[:, 0], scale[:, 1], -scale * box[:, :2]
        depth_m = known.root_depth_m
        if self.ask.root_depth == "box":
            depth_m = box_root_depth_m(focal_px=known.focal_px, box_xywh_px=box, side_m=self.box_m)
        depth_m = torch.where((known.focal_px > 0).all(dim=1), depth_m, torch.nan)
        return View(affine=affine, focal_px=known.focal_px, princpt_px=known.princpt_px, root_depth_m=depth_m)

    def _padded(self, values: torch.Tensor) -> torch.Tensor:
        """A batch always has the same size: kernels, and with them the last bits, would change with it."""
        last = values[-1:].expand(max(self.ask.batch_size - len(values), 0), *values.shape[1:])
        return torch.cat([values, last]).to(self.device)

    def _from_labels(self, table: pa.Table) -> tuple[np.ndarray, Guess]:
        rows = self.labels.find(table.column("sample_key").to_numpy())
        good = torch.from_numpy(rows >= 0)
        found = self.labels.take(rows[rows >= 0])
        orient, pose, betas, transl_m, focal_px, princpt_px, joints_px = (
            torch.from_numpy(tables.numpy_column(found, name).astype(np.float32)) for name in LABEL_COLUMNS
        )
        rotmats = rotvec_to_rotmat(torch.cat([orient, pose], dim=1).unflatten(1, (24, 3)))
        mesh_m = self.layer(rotmats=rotmats, betas=betas).vertices_m + transl_m[:, None]
        seen_px = None
        if self.crowd:
            seen_px = project(self.regressor.joints_m(mesh_m), focal_px=focal_px, princpt_px=princpt_px)
        status = np.where(good.numpy(), tables.OK, UNLABELLED).astype(object)
        return status, Guess(
            vertices_m=_spread(mesh_m, good),
            rotmats=_spread(rotmats, good),
            joints_px=None if seen_px is None else _spread(seen_px, good),
            keypoints_px=_spread(joints_px.unflatten(1, (len(BODY33), 2)), good),
        )


def label_lookup(labels: str) -> Lookup:
    """Finds labels by sample key."""
    folder, files = label_files(labels)
    return Lookup(folder, row_groups(folder, files), LABEL_COLUMNS)


def needed_columns(ask: Ask, benchmark: Benchmark, present: list[str]) -> list[str]:
    """Of the samples: no picture where nobody looks at it."""
    wanted = {*IDENTITY, *benchmark.columns, "keypoints_2d_px", "smpl_gender"}
    if ask.what == "network":
        wanted |= {*COLUMNS, "dataset", "split"}
    return [name for name in present if name in wanted]


def _chosen(people: People, good: torch.Tensor) -> People:
    vertices_m, joints_m = (None if part is None else part[good] for part in (people.vertices_m, people.joints_m))
    return People(vertices_m=vertices_m, joints_m=joints_m)


def _filled(values: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """NaN for whom nothing is predicted."""
    return torch.where(good.view(-1, *[1] * (values.ndim - 1)), values, torch.nan)


def _spread(values: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """Values of the good rows at their places, NaN at the others'."""
    out = values.new_full((len(good), *values.shape[1:]), torch.nan)
    out[good] = values
    return out


def _lists(values: torch.Tensor) -> pa.Array:
    return tables.list_column(values.cpu().numpy())
