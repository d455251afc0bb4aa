"""How benchmarks are scored: on which joints, by which regressor, from which root, after which alignment.

A protocol is a frozen dataclass that says all of it; scorers.py turns people into columns by it. docs/evaluation.md
tells how each maps to the tables of the papers. No setting changes anything here: a number under another rule is
another protocol, with another name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mesh_lib.body.joints import LSP14, RIGHT_HAND21, SMPL24, JointSet
from mesh_lib.metrics.meshes import F_THRESHOLDS_MM
from mesh_lib.metrics.pck_3d import HAND_MAX_MM, HAND_STEPS, MATCH_PX, PCK_MM
from mesh_lib.metrics.regressors import (
    H36M_REGRESSOR,
    J14_REGRESSOR,
    MUPOTS_REGRESSOR,
    SMPLX_REGRESSOR,
    RegressorFile,
    mano_regressor,
)

Gender = Literal["gendered", "neutral", "none"]
"""Of the truth's body model: each person's own, neutral for all; or there is none, as with measured joints."""
Alignment = Literal["root", "procrustes"]
"""Both shifted to their roots; or the prediction rotated, scaled and shifted onto the truth, never mirrored."""


@dataclass(frozen=True, kw_only=True)
class BodyProtocol:
    """Joints of one body, and its mesh where the truth is one."""

    name: str
    people: str
    """Which samples it is defined on."""
    truth: str
    """What the truth is."""
    gender: Gender
    regressor: RegressorFile | None
    """None: the body's own, of SMPL24."""
    joints: tuple[str, ...]
    """On which errors are taken, by their names in the regressor's joint set."""
    root: str
    alignments: tuple[Alignment, ...] = ("root", "procrustes")
    sequences: bool = False
    """Whether it has every frame, so that accelerations mean something."""
    sequence_like: str = ""
    """Regular expression of the sequences that it is defined on; others are refused."""
    every: int = 1
    """The frames that it is defined on: multiples of this."""
    headline: tuple[str, ...]
    """The columns that papers print."""
    source: str

    @property
    def joint_set(self) -> JointSet:
        return SMPL24 if self.regressor is None else self.regressor.joint_set


@dataclass(frozen=True, kw_only=True)
class CrowdProtocol:
    """Several people a picture, who are matched in 2D before they are scored in 3D."""

    name: str
    people: str
    truth: str
    gender: Gender
    regressor: RegressorFile
    joints: tuple[str, ...]
    root: str
    bones_of_target: bool
    """Whether the prediction gets the truth's bone lengths before 3DPCK is taken."""
    threshold_mm: float = PCK_MM
    match_px: float = MATCH_PX
    headline: tuple[str, ...]
    source: str

    @property
    def joint_set(self) -> JointSet:
        return self.regressor.joint_set


@dataclass(frozen=True, kw_only=True)
class HandProtocol:
    """One hand: mesh and joints, after Procrustes."""

    name: str
    people: str
    truth: str
    gender: Gender
    regressor: RegressorFile
    """Gives the joints where a prediction, or the truth, is only a mesh."""
    f_mm: tuple[float, ...] = F_THRESHOLDS_MM
    auc_mm: float = HAND_MAX_MM
    auc_steps: int = HAND_STEPS
    headline: tuple[str, ...]
    source: str

    @property
    def joint_set(self) -> JointSet:
        return RIGHT_HAND21


@dataclass(frozen=True, kw_only=True)
class PartsProtocol:
    """A body with hands and face, whose parts are scored on their own too."""

    name: str
    people: str
    truth: str
    gender: Gender
    regressor: RegressorFile
    """Gives the roots."""
    body_regressor: RegressorFile
    left_regressor: RegressorFile
    right_regressor: RegressorFile
    hand_vertices: str
    """File of the hands' vertices among the body's."""
    face_vertices: str
    root: str
    hand_roots: tuple[str, str]
    face_root: str
    headline: tuple[str, ...]
    source: str


Protocol = BodyProtocol | CrowdProtocol | HandProtocol | PartsProtocol

_LIMBS = (
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "thorax", "head_top",
    "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
"""Rows 1 to 6, 8 and 10 to 16 of Human3.6M's 17 joints; Moon's code calls the thorax neck."""
_MUPOTS14 = (
    "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
)  # fmt: skip
MUPOTS_PARENTS = {
    "head_top": "neck", "neck": "spine", "right_shoulder": "neck", "right_elbow": "right_shoulder",
    "right_wrist": "right_elbow", "left_shoulder": "neck", "left_elbow": "left_shoulder", "left_wrist": "left_elbow",
    "right_hip": "pelvis", "right_knee": "right_hip", "right_ankle": "right_knee", "left_hip": "pelvis",
    "left_knee": "left_hip", "left_ankle": "left_knee", "spine": "pelvis", "head": "neck",
}  # fmt: skip
"""Bones of MuPoTS' 17 joints, from the pelvis outwards."""

PW3D = BodyProtocol(
    name="3dpw",
    people="3DPW, test set: every person of every frame whose camera is valid; crops from the truth's boxes",
    truth="3DPW's SMPL meshes, each of the person's own gender",
    gender="gendered",
    regressor=H36M_REGRESSOR,
    joints=_LIMBS,
    root="pelvis",
    sequences=True,
    headline=("pa_mpjpe_mm", "mpjpe_mm", "mpvpe_mm"),
    source="Moon's Pose2Pose, data/PW3D; the same joints and regressor as SPIN",
)
PW3D_NEUTRAL = BodyProtocol(
    name="3dpw_neutral",
    people=PW3D.people,
    truth="meshes of the neutral SMPL with 3DPW's pose and shape parameters, whoever they were fitted to",
    gender="neutral",
    regressor=H36M_REGRESSOR,
    joints=_LIMBS,
    root="pelvis",
    sequences=True,
    headline=PW3D.headline,
    source="HybrIK and METRO score against the neutral body; not to be compared with 3dpw",
)
HUMAN36M_P1 = BodyProtocol(
    name="human36m_p1",
    sequence_like=r"s_(09|11)_",
    every=64,
    people="Human3.6M, S9 and S11, all four cameras, every 64th frame",
    truth="the 17 joints of motion capture; no body model, no gender",
    gender="none",
    regressor=H36M_REGRESSOR,
    joints=_LIMBS,
    root="pelvis",
    headline=("mpjpe_mm",),
    source="Kanazawa et al., 2018 (HMR), protocol 1",
)
HUMAN36M_P2 = BodyProtocol(
    name="human36m_p2",
    sequence_like=r"s_(09|11)_.*ca_04",
    every=64,
    people="Human3.6M, S9 and S11, the frontal camera (4) alone, every 64th frame",
    truth=HUMAN36M_P1.truth,
    gender="none",
    regressor=H36M_REGRESSOR,
    joints=_LIMBS,
    root="pelvis",
    headline=("pa_mpjpe_mm", "mpjpe_mm"),
    source="Kanazawa et al., 2018 (HMR), protocol 2; I2L-MeshNet's tables",
)
MUPOTS = CrowdProtocol(
    name="mupots",
    people="MuPoTS-3D, all 20 sequences: every annotated person of every frame that is valid",
    truth="17 joints of marker-less motion capture (annot3); no body model, no gender",
    gender="none",
    regressor=MUPOTS_REGRESSOR,
    joints=_MUPOTS14,
    root="pelvis",
    bones_of_target=False,
    headline=("pck_all_percent", "pck_matched_percent", "pa_mpjpe_mm"),
    source="Mehta et al., 2018; Three Recipes, Tables 2, 5, 6, 7 and 8",
)
MUPOTS_BONES = CrowdProtocol(
    name="mupots_bones",
    people=MUPOTS.people,
    truth=MUPOTS.truth,
    gender="none",
    regressor=MUPOTS_REGRESSOR,
    joints=_MUPOTS14,
    root="pelvis",
    bones_of_target=True,
    headline=MUPOTS.headline,
    source="the owners' script as we remember it: bone lengths of the truth, directions of the prediction",
)
EHF = PartsProtocol(
    name="ehf",
    people="EHF, all 100 pictures",
    truth="EHF's SMPL-X meshes, turned by its camera",
    gender="neutral",
    regressor=SMPLX_REGRESSOR,
    body_regressor=J14_REGRESSOR,
    left_regressor=mano_regressor("left"),
    right_regressor=mano_regressor("right"),
    hand_vertices="MANO_SMPLX_vertex_ids.pkl",
    face_vertices="SMPL-X__FLAME_vertex_ids.npy",
    root="pelvis",
    hand_roots=("left_wrist", "right_wrist"),
    face_root="neck",
    headline=("pa_mpvpe_all_mm", "mpvpe_all_mm"),
    source="Moon's Hand4Whole, data/EHF",
)
FREIHAND = HandProtocol(
    name="freihand",
    people="FreiHAND, the 3,960 pictures of evaluation",
    truth="MANO meshes and 21 joints of right hands",
    gender="none",
    regressor=mano_regressor("right"),
    headline=("pa_mpvpe_mm", "pa_mpjpe_mm", "f_5mm", "f_15mm"),
    source="Zimmermann et al., 2019; I2L-MeshNet, Table 7",
)
OPEN_WORLD = BodyProtocol(
    name="open_world",
    people="the open world's people, of whatever domain is named: street_test is what nobody trained on",
    truth="the open body's meshes; it has no gender",
    gender="none",
    regressor=None,
    joints=LSP14.names,
    root="pelvis",
    headline=("pa_mpjpe_mm", "mpjpe_mm", "mpvpe_mm"),
    source="this project: the scores of docs/open_world.md",
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        PW3D, PW3D_NEUTRAL, HUMAN36M_P1, HUMAN36M_P2, MUPOTS, MUPOTS_BONES, EHF, FREIHAND, OPEN_WORLD,
    )
}  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """Raises ValueError for a name that none has."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def statement(protocol: Protocol, *, regressors: dict[str, str]) -> dict[str, Any]:
    """What every file of scores says: who, against what truth, which regressor, joints, root and alignment.

    `regressors` are the names and checksums of the files that were read.
    """
    match protocol:
        case BodyProtocol():
            rules: dict[str, Any] = {
                "joints": list(protocol.joints), "root": protocol.root, "alignment": list(protocol.alignments),
            }  # fmt: skip
        case CrowdProtocol():
            rules = {
                "joints": list(protocol.joints), "root": protocol.root, "alignment": ["root", "procrustes"],
                "bone_lengths": "of the truth" if protocol.bones_of_target else "of the prediction",
                "threshold_mm": protocol.threshold_mm, "match_px": protocol.match_px,
            }  # fmt: skip
        case HandProtocol():
            rules = {
                "joints": list(protocol.joint_set.names), "root": None, "alignment": ["procrustes"],
                "f_mm": list(protocol.f_mm), "auc_mm": protocol.auc_mm, "auc_steps": protocol.auc_steps,
            }  # fmt: skip
        case PartsProtocol():
            rules = {
                "joints": {
                    "body": list(protocol.body_regressor.joint_set.names),
                    "hands": list(RIGHT_HAND21.names),
                },
                "root": {"all": protocol.root, "hands": list(protocol.hand_roots), "face": protocol.face_root},
                "alignment": ["root", "procrustes"],
            }
    return {
        "protocol": protocol.name, "people": protocol.people, "truth": protocol.truth,
        "gender": protocol.gender, "regressor": regressors,
        **rules, "headline": list(protocol.headline), "source": protocol.source,
    }  # fmt: skip
