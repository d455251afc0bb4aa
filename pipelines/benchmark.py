"""The people of a benchmark: who they are, and what is known of them, as a protocol asks for it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from mesh_lib import tables
from mesh_lib.body.files import Body, load_body
from mesh_lib.body.hands import is_hand
from mesh_lib.body.joints import RIGHT_HAND21, JointSet
from mesh_lib.body.layer import BodyLayer
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.hand_supervision import HandModel, HandTruth
from mesh_lib.metrics.protocols import PROTOCOLS, BodyProtocol, CrowdProtocol, HandProtocol, Protocol, find_protocol
from mesh_lib.metrics.scorers import People
from pipelines import storage
from pipelines.hands import RIGHT, hand_columns
from pipelines.join import Lookup, row_groups
from pipelines.labelled import body_of
from pipelines.sources import MANO, Source, read_group

Scored = BodyProtocol | CrowdProtocol | HandProtocol
PARAMETERS = {"global_orient": 3, "body_pose": 69, "betas": 10, "transl_m": 3}
GENDERED = {"m": ("SMPL_MALE.npz", "SMPL_MALE.pkl"), "f": ("SMPL_FEMALE.npz", "SMPL_FEMALE.pkl")}
WHO = ("sample_id", "sample_key", "sequence", "frame", "keypoints_3d_m", "smpl_valid", "mano_valid")
LISTED = 3
"""Samples that a message names."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Sample folders, and the rules by which their people are scored."""

    sources: tuple[Source, ...]
    protocol: str
    truth: str | None
    """Folder of the truth where it is kept apart from the samples, as the open world's is."""
    regressors: str | None
    """Folder of the joint regressors that the protocol prescribes."""
    bodies: str | None
    """Folder of SMPL_MALE and SMPL_FEMALE, for a protocol with gendered truth."""

    @property
    def rules(self) -> Scored:
        rules = find_protocol(self.protocol)
        assert isinstance(rules, Scored)
        return rules

    @property
    def kind(self) -> Literal["mesh", "joints"]:
        """What the truth is."""
        rules = self.rules
        if isinstance(rules, HandProtocol):
            return "mesh"
        measured = isinstance(rules, CrowdProtocol) or (rules.gender == "none" and rules.regressor is not None)
        return "joints" if measured else "mesh"

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the samples, that hold the truth."""
        if isinstance(self.rules, HandProtocol):
            return ("keypoints_3d_m", *MANO, "camera")
        return ("keypoints_3d_m", *(f"smpl_{name}" for name in PARAMETERS), "smpl_valid", "camera")


def check_protocol(protocol: Protocol) -> None:
    """Raises ValueError for one that scores what no network here speaks of."""
    if not isinstance(protocol, Scored):
        raise ValueError(
            f"protocol {protocol.name} scores SMPL-X bodies; networks and labels here are SMPL's, or MANO's\n"
            "  fix: give mesh_lib.metrics.scorers your meshes (docs/evaluation.md shows how)"
        )


def check_predictor(benchmark: Benchmark, body: Body, *, where: str, plausibility: bool = False) -> None:
    """Raises ValueError where who predicts speaks of bodies and the protocol scores hands, or the other way round; and
    where hands are asked for what is of bodies alone."""
    hands, scored = is_hand(body), isinstance(benchmark.rules, HandProtocol)
    if hands != scored:
        kinds = ("bodies", "right hands")
        fits = [name for name, rules in PROTOCOLS.items() if isinstance(rules, HandProtocol) == hands]
        raise ValueError(
            f"protocol {benchmark.protocol} scores {kinds[scored]}, and what is in {where} predicts {kinds[hands]} "
            f"(its body has {len(body.parents)} joints)\n  fix: a protocol of {kinds[hands]}: {', '.join(fits)}"
        )
    if scored and (benchmark.truth or benchmark.bodies):
        raise ValueError(
            f"the truth of protocol {benchmark.protocol} is in the samples, of the hand that stands with the network: "
            "no --truth, no --bodies"
        )
    if scored and plausibility:
        raise ValueError("plausibility (self-penetration, joint limits) is measured of bodies, not of hands")


def check_people(benchmark: Benchmark) -> list[str]:
    """Sample ids of everybody. Raises ValueError, in one message, for a benchmark that cannot be scored: somebody there
    twice, somebody without a truth, or joints of another set than the protocol's."""
    if benchmark.kind == "joints":
        if benchmark.truth is not None:
            raise ValueError(f"the truth of protocol {benchmark.protocol} is joints, which samples hold: no --truth")
        for source in benchmark.sources:
            _check_joints(source, benchmark.rules)
    ids: list[str] = []
    keys: list[np.ndarray] = []
    unknown: list[str] = []
    strange: list[str] = []
    for source in benchmark.sources:
        for file, group, _ in source.groups:
            table = read_group(source.path, file, group, WHO)
            names = table.column("sample_id").to_pylist()
            ids += names
            strange += _not_of_it(table, benchmark.rules)
            keys.append(table.column("sample_key").to_numpy())
            if benchmark.truth is None:
                known = _has_truth(table, benchmark, source.joint_set)
                unknown += [name for name, has in zip(names, known, strict=True) if not has]
    if benchmark.truth is not None:
        found = truth_lookup(benchmark.truth).find(np.concatenate(keys))
        unknown = [name for name, row in zip(ids, found, strict=True) if row < 0]
    doubled = [name for name, count in Counter(ids).items() if count > 1]
    faults = [
        (doubled, "are there twice"),
        (strange, "are of other sequences or frames than the protocol's"),
        (unknown, f"have no truth of this protocol ({benchmark.kind})"),
    ]
    told = [f"{len(who)} people {what} ({', '.join(who[:LISTED])}{' …' * (len(who) > LISTED)})"
            for who, what in faults if who]  # fmt: skip
    if told:
        where = ", ".join(source.path for source in benchmark.sources)
        raise ValueError(
            f"the benchmark in {where} has {len(ids)} people, but {'; '.join(told)}\n"
            "  fix: ingest it as docs/evaluation.md says for its protocol, and score every person once"
        )
    return ids


def _not_of_it(table: pa.Table, rules: Scored) -> list[str]:
    """Sample ids of whom the protocol is not defined on."""
    if not isinstance(rules, BodyProtocol) or not rules.sequence_like:
        return []
    rows = zip(*(table.column(name).to_pylist() for name in ("sample_id", "sequence", "frame")), strict=True)
    return [
        name
        for name, sequence, frame in rows
        if not re.search(rules.sequence_like, sequence or "") or frame is None or frame % rules.every
    ]


def check_body(benchmark: Benchmark, body: str) -> None:
    """Raises ValueError where the truth's parameters are of another body than this file, which would pose them."""
    if benchmark.kind != "mesh" or benchmark.rules.gender == "gendered":
        return
    ours = hashlib.sha256(storage.read_bytes(body)).hexdigest()
    if benchmark.truth is not None:
        theirs = {found} if (found := body_of(benchmark.truth)) else set()
    else:
        theirs = set().union(*(source.bodies for source in benchmark.sources))
    if theirs - {ours}:
        raise ValueError(
            f"the truth is of another body than the predictions: SHA-256 {', '.join(sorted(theirs))}, not {ours}\n"
            "  fix: train or import with --body of the file that the benchmark's parameters belong to"
        )


def _check_joints(source: Source, rules: Scored) -> None:
    lacking = [name for name in rules.joint_set.names if name not in source.joint_set.names]
    if lacking:
        raise ValueError(
            f"protocol {rules.name} is scored on the joints of {rules.joint_set.name}; the samples in {source.path} "
            f"have those of {source.joint_set.name}, which lacks {', '.join(lacking)}\n"
            "  fix: ingest the benchmark itself, from its owners' files"
        )


def _has_truth(table: pa.Table, benchmark: Benchmark, joint_set: JointSet) -> np.ndarray:
    rules = benchmark.rules
    if isinstance(rules, HandProtocol):
        return tables.numpy_column(table, "mano_valid", missing=0.0).astype(bool)[:, RIGHT]
    if benchmark.kind == "mesh":
        return np.asarray(table.column("smpl_valid").fill_null(False).to_numpy(zero_copy_only=False), bool)
    joints = tables.numpy_column(table, "keypoints_3d_m", missing=0.0).reshape(len(table), len(joint_set), 4)
    known = joints[:, joint_set.indices((*rules.joints, rules.root)), 3] > 0
    return np.asarray(known.all(axis=1))


def truth_lookup(path: str) -> Lookup:
    """Finds the truth that is kept apart, by sample key. Raises ValueError for a folder of something else."""
    columns = (*PARAMETERS, "focal_px", "princpt_px")
    schema = storage.parquet_schema(path, what="truth")
    if lacking := {"sample_key", *columns} - {*schema.names}:
        raise ValueError(f"{path} does not hold a truth: it lacks {', '.join(sorted(lacking))}")
    return Lookup(path, row_groups(path, storage.parquet_files(path, what="truth")), columns)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a batch of people."""

    people: People
    focal_px: torch.Tensor
    princpt_px: torch.Tensor
    root_depth_m: torch.Tensor
    """Of the pelvis, or the wrist, in the camera's frame."""


def truth_reader(benchmark: Benchmark, body: Body) -> TruthReader | HandReader:
    """Raises ValueError where bodies or the truth cannot be read."""
    return HandReader(body) if isinstance(benchmark.rules, HandProtocol) else TruthReader(benchmark, body)


class HandReader:
    """Rows of samples in, what is known of their right hands out: MANO's mesh, and the samples' own 21 joints, or where
    they lack one those of the mesh."""

    def __init__(self, body: Body) -> None:
        self.model = HandModel(body)

    @torch.no_grad()
    def __call__(self, table: pa.Table, joint_set: JointSet) -> Known:
        columns = hand_columns(table, joint_set, weak=False)
        still = {"affine": np.zeros((len(table), 2, 3), np.float32), "rotation_rad": np.zeros(len(table), np.float32)}
        known = {name: torch.from_numpy(value) for name, value in (columns | still).items() if name != "sample_key"}
        truth = HandTruth(**known, flip=torch.zeros(len(table)) > 0)
        hands, own = self.model(truth), truth.keypoints_3d_m
        whole = (own[..., 3] > 0).all(dim=1)[:, None, None]
        wrist = own[:, RIGHT_HAND21.index("right_wrist")]
        mesh_depth_m = torch.where(hands.placed, hands.joints_m[:, RIGHT_HAND21.index("right_wrist"), 2], torch.nan)
        return Known(
            people=People(vertices_m=hands.vertices_m, joints_m=torch.where(whole, own[..., :3], hands.joints_m)),
            focal_px=truth.focal_px,
            princpt_px=truth.princpt_px,
            root_depth_m=torch.where(wrist[:, 3] > 0, wrist[:, 2], mesh_depth_m),
        )


class TruthReader:
    """Rows of samples in, what is known of them out."""

    def __init__(self, benchmark: Benchmark, body: Body) -> None:
        """`body` is that of the neutral truth, and of protocols without a gender.

        Raises ValueError where bodies or the truth cannot be read.
        """
        self.benchmark = benchmark
        self.layers = {"": BodyLayer(body)}
        if benchmark.rules.gender == "gendered":
            self.layers |= {gender: BodyLayer(_gendered(benchmark.bodies, gender)) for gender in GENDERED}
        self.apart = truth_lookup(benchmark.truth) if benchmark.truth is not None else None

    @torch.no_grad()
    def __call__(self, table: pa.Table, joint_set: JointSet) -> Known:
        """Raises ValueError for a person whose gender nobody knows where the protocol asks for it."""
        rules = self.benchmark.rules
        assert not isinstance(rules, HandProtocol)
        focal_px, princpt_px = (torch.from_numpy(values) for values in tables.camera_columns(table).values())
        prefix = "smpl_"
        values = table
        if self.apart is not None:
            values = self.apart.take(self.apart.find(table.column("sample_key").to_numpy()))
            focal_px, princpt_px = (_floats(values, name) for name in ("focal_px", "princpt_px"))
            prefix = ""
        if self.benchmark.kind == "joints":
            joints = _floats(table, "keypoints_3d_m").reshape(len(table), len(joint_set), 4)
            pixels = _floats(table, "keypoints_2d_px").reshape(len(table), len(joint_set), 3)
            order = joint_set.indices(rules.joint_set.names)
            root = joint_set.index(rules.root)
            return Known(
                people=People(
                    joints_m=torch.where(joints[:, order, 3:] > 0, joints[:, order, :3], torch.nan),
                    joints_px=pixels[:, order, :2],
                    visible=pixels[:, order, 2] > 0,
                ),
                focal_px=focal_px,
                princpt_px=princpt_px,
                root_depth_m=joints[:, root, 2],
            )
        vertices_m, root_m = self._mesh(values, prefix, self._genders(table))
        return Known(
            people=People(vertices_m=vertices_m), focal_px=focal_px, princpt_px=princpt_px, root_depth_m=root_m[:, 2]
        )

    def _genders(self, table: pa.Table) -> list[str]:
        if self.benchmark.rules.gender != "gendered":
            return [""] * len(table)
        genders = (
            table.column("smpl_gender").to_pylist() if "smpl_gender" in table.schema.names else [None] * len(table)
        )
        if strange := {str(gender) for gender in genders if gender not in GENDERED}:
            raise ValueError(
                f"protocol {self.benchmark.protocol} scores people by the body of their gender; samples say "
                f"{', '.join(sorted(strange))}\n  fix: ingest the benchmark again with this version of jobs/ingest.py"
            )
        return [str(gender) for gender in genders]

    def _mesh(self, table: pa.Table, prefix: str, genders: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Vertices and pelvis in the camera's frame."""
        orient, pose, betas, transl_m = (_floats(table, prefix + name) for name in PARAMETERS)
        rotmats = rotvec_to_rotmat(torch.cat([orient, pose], dim=1).unflatten(1, (24, 3)))
        count = len(next(iter(self.layers.values())).v_template)
        vertices_m, root_m = torch.empty(len(table), count, 3), torch.empty(len(table), 3)
        for gender in set(genders):
            mine = torch.tensor([g == gender for g in genders])
            posed = self.layers[gender](rotmats=rotmats[mine], betas=betas[mine])
            vertices_m[mine] = posed.vertices_m + transl_m[mine][:, None]
            root_m[mine] = posed.joints_m[:, 0] + transl_m[mine]
        return vertices_m, root_m


def _gendered(folder: str | None, gender: str) -> Body:
    found = [Path(folder) / name for name in GENDERED[gender]] if folder else []
    for path in found:
        if path.is_file():
            return load_body(path)
    holds = "no folder of bodies was given" if folder is None else f"{folder} holds neither"
    raise ValueError(
        f"{' or '.join(GENDERED[gender])} not found: {holds}\n"
        "  why: the truth of this protocol is of gendered bodies, whose licence forbids shipping them with this code\n"
        "  fix: register at https://smpl.is.tue.mpg.de, and pass their folder as --bodies"
    )


def _floats(table: pa.Table, name: str) -> torch.Tensor:
    return torch.from_numpy(np.nan_to_num(tables.numpy_column(table, name, missing=0.0)).astype(np.float32))
