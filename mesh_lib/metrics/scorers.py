"""Predicted and true people in, one value a person and column out, by a protocol.

    scorer = scorer_of(find_protocol("3dpw"), folder="licensed/regressors")
    scores.add(ids, scorer.columns(predicted=People(vertices_m=...), target=People(vertices_m=...)), groups=sequences)
    {"statement": scorer.statement, **...}

Names of columns end with their unit: `_mm`, `_percent`; `f_…`, `auc_…` and `matched` are shares from 0 to 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mesh_lib.body.files import Body
from mesh_lib.body.hands import is_hand
from mesh_lib.body.joints import JointSet
from mesh_lib.metrics.joint_limits import joint_limit_excess_deg, joint_limit_violations_percent
from mesh_lib.metrics.joints import (
    axis_errors_mm,
    from_root,
    mpjpe_mm,
    pa_axis_errors_mm,
    pa_mpjpe_mm,
    procrustes,
)
from mesh_lib.metrics.meshes import f_score, mpvpe_mm, pa_mpvpe_mm
from mesh_lib.metrics.pck_3d import UNMATCHED, auc_3d_percent, bones_of_target, hand_auc, match_people, pck_3d_percent
from mesh_lib.metrics.penetration import SelfPenetration
from mesh_lib.metrics.protocols import (
    MUPOTS_PARENTS,
    BodyProtocol,
    CrowdProtocol,
    HandProtocol,
    PartsProtocol,
    Protocol,
    statement,
)
from mesh_lib.metrics.regressors import (
    MANO_VERTICES,
    SMPLX_VERTICES,
    Regressor,
    body_regressor,
    find,
    load_regressor,
    read_array,
    vertex_ids,
    with_fingertips,
)


@dataclass(frozen=True, kw_only=True)
class People:
    """Predicted or true people, in metres of the camera's frame. Row i of both is one person, crowds aside."""

    vertices_m: Float[Tensor, "people vertices 3"] | None = None
    joints_m: Float[Tensor, "people joints 3"] | None = None
    """All joints of the protocol's joint set, in its order; without them they are regressed from the vertices."""
    joints_px: Float[Tensor, "people joints 2"] | None = None
    """Crowds: the same joints in the whole picture, by which people are matched."""
    visible: Bool[Tensor, "people joints"] | None = None
    """Crowds, truth: joints whose pixels can be trusted; None: all."""
    image_ids: tuple[str, ...] = ()
    """Crowds: the picture that each person is in."""


def plausibility_columns(
    *,
    rotmats: Float[Tensor, "people 24 3 3"],
    vertices_m: Float[Tensor, "people vertices 3"],
    penetration: SelfPenetration,
) -> dict[str, Tensor]:
    """Recipe 3's claim, measured on predictions alone: penetration, and joints turned out of their range."""
    return {
        "self_penetration_percent": penetration.percent(vertices_m),
        "joint_limits_percent": joint_limit_violations_percent(rotmats),
        "joint_limits_excess_deg": joint_limit_excess_deg(rotmats).mean(dim=-1),
    }


class Scorer(ABC):
    """A protocol with its files."""

    statement: dict[str, Any]
    """What goes into every file of scores."""

    @abstractmethod
    def columns(self, *, predicted: People, target: People) -> dict[str, Tensor]:
        """(people,) by name, a row for each target.

        Raises ValueError for people who are not what the protocol scores: other joints, other meshes, other numbers.
        """


def scorer_of(protocol: Protocol, *, folder: str | Path | None = None, body: Body | None = None) -> Scorer:
    """A protocol ready to score. `folder` holds the owners' regressors; `body` is that of protocols without one, or the
    hand itself.

    Crowds and hands need no folder where predictions and truth come with joints.

    Raises RegressorMissing where a file is absent, ValueError for one that is not what it should be.
    """
    match protocol:
        case BodyProtocol():
            return BodyScorer(protocol, folder, body)
        case CrowdProtocol():
            return _CrowdScorer(protocol, folder)
        case HandProtocol():
            return HandScorer(protocol, folder, body)
        case PartsProtocol():
            return _PartsScorer(protocol, folder)


class BodyScorer(Scorer):
    """Of bodies; gives their joints too, for errors of sequences."""

    def __init__(self, protocol: BodyProtocol, folder: str | Path | None, body: Body | None) -> None:
        if protocol.regressor is not None:
            self.regressor = load_regressor(protocol.regressor, folder)
        elif body is not None:
            self.regressor = body_regressor(body)
        else:
            raise ValueError(f"protocol {protocol.name} takes the joints of the body itself: pass the body")
        self.protocol = protocol
        self.statement = statement(protocol, regressors={self.regressor.name: self.regressor.sha256})

    def joints_m(self, people: People) -> Float[Tensor, "people joints 3"]:
        """The protocol's joints relative to the root, for errors that need frames in order: `acceleration_error_mm`."""
        every = _joints_of(people, self.regressor, self.protocol.joint_set)
        return self._from_root(every[:, self.protocol.joint_set.indices(self.protocol.joints)], every)

    def columns(self, *, predicted: People, target: People) -> dict[str, Tensor]:
        ours, theirs = self.joints_m(predicted), self.joints_m(target)
        _same_people(ours, theirs)
        joints = {"predicted_m": ours, "target_m": theirs}
        meshes: dict[str, Tensor] = {}
        if predicted.vertices_m is not None and target.vertices_m is not None:
            _same_mesh(predicted.vertices_m, target.vertices_m)
            pairs = (("predicted_m", predicted.vertices_m), ("target_m", target.vertices_m))
            meshes = {name: self._from_root(mesh, self.regressor.joints_m(mesh)) for name, mesh in pairs}
        out: dict[str, Tensor] = {}
        if "root" in self.protocol.alignments:
            out |= {"mpjpe_mm": mpjpe_mm(**joints), **_axes("", axis_errors_mm(**joints))}
            out |= {"mpvpe_mm": mpvpe_mm(**meshes)} if meshes else {}
        if "procrustes" in self.protocol.alignments:
            out |= {"pa_mpjpe_mm": pa_mpjpe_mm(**joints), **_axes("pa_", pa_axis_errors_mm(**joints))}
            out |= {"pa_mpvpe_mm": pa_mpvpe_mm(**meshes)} if meshes else {}
        return out

    def _from_root(self, points_m: Tensor, joints_m: Tensor) -> Tensor:
        return from_root(points_m, root_m=joints_m[:, self.protocol.joint_set.index(self.protocol.root)])


class _CrowdScorer(Scorer):
    def __init__(self, protocol: CrowdProtocol, folder: str | Path | None) -> None:
        self.protocol = protocol
        self.regressor = None if folder is None else load_regressor(protocol.regressor, folder)
        self.statement = statement(protocol, regressors=_named(self.regressor))

    def columns(self, *, predicted: People, target: People) -> dict[str, Tensor]:
        """A row for each target; who is predicted but matches nobody is not counted, as by the owners.

        `…_all_percent` is 0 for a target without a prediction, `…_matched_percent` and the errors are NaN.
        """
        ours, theirs = self._joints(predicted), self._joints(target)
        for people, count, who in ((predicted, len(ours), "predicted"), (target, len(theirs), "true")):
            _check_crowd(people, count, len(self.protocol.joint_set), who=who)
        match = self._match(predicted, target, usable=ours.isfinite().all(dim=2).all(dim=1)).to(theirs.device)
        matched = match != UNMATCHED
        chosen = torch.full_like(theirs, torch.nan)
        chosen[matched] = ours[match[matched]].to(theirs)
        names, scored = self.protocol.joint_set, self.protocol.joint_set.indices(self.protocol.joints)
        root = names.index(self.protocol.root)
        chosen, theirs = (from_root(points, root_m=points[:, root]) for points in (chosen, theirs))
        if self.protocol.bones_of_target:
            parents = tuple(names.index(MUPOTS_PARENTS[n]) if n in MUPOTS_PARENTS else -1 for n in names.names)
            measured = bones_of_target(predicted_m=chosen, target_m=theirs, parents=parents)
        else:
            measured = chosen
        pair = {"predicted_m": measured[:, scored], "target_m": theirs[:, scored]}
        own = {"predicted_m": chosen[:, scored], "target_m": theirs[:, scored]}
        pck, auc = pck_3d_percent(**pair, threshold_mm=self.protocol.threshold_mm), auc_3d_percent(**pair)
        return {
            "matched": matched.to(theirs),
            "pck_all_percent": torch.where(matched, pck, 0.0),
            "pck_matched_percent": pck,
            "auc_all_percent": torch.where(matched, auc, 0.0),
            "auc_matched_percent": auc,
            "mpjpe_mm": mpjpe_mm(**own),
            "pa_mpjpe_mm": pa_mpjpe_mm(**own),
            **_axes("pa_", pa_axis_errors_mm(**own)),
        }

    def _joints(self, people: People) -> Tensor:
        if people.joints_m is None and self.regressor is None:
            load_regressor(self.protocol.regressor, None)  # says what is missing
        return _joints_of(people, self.regressor, self.protocol.joint_set)

    def _match(self, predicted: People, target: People, *, usable: Tensor) -> Tensor:
        """For each target the row of its prediction, or UNMATCHED; picture by picture."""
        assert predicted.joints_px is not None and target.joints_px is not None
        scored = self.protocol.joint_set.indices(self.protocol.joints)
        visible = target.visible if target.visible is not None else torch.ones(target.joints_px.shape[:2]) > 0
        out = torch.full((len(target.image_ids),), UNMATCHED, dtype=torch.int64)
        found, wanted = _by_image(predicted.image_ids), _by_image(target.image_ids)
        for image, theirs in wanted.items():
            mine = [row for row in found.get(image, []) if usable[row]]
            if not mine:
                continue
            match = match_people(
                predicted_px=predicted.joints_px[mine][:, scored].to(target.joints_px),
                target_px=target.joints_px[theirs][:, scored],
                visible=visible[theirs][:, scored],
                threshold_px=self.protocol.match_px,
            )
            rows = torch.tensor(mine)[match.clamp(min=0)]
            out[theirs] = torch.where(match == UNMATCHED, UNMATCHED, rows)
        return out


class HandScorer(Scorer):
    """Of hands; joints that are not given are regressed by the owners' file, else by MANO itself, where it is given."""

    def __init__(self, protocol: HandProtocol, folder: str | Path | None, body: Body | None) -> None:
        self.protocol = protocol
        self.regressor = None
        if folder is not None:
            self.regressor = with_fingertips(load_regressor(protocol.regressor, folder))
        elif body is not None and is_hand(body):
            self.regressor = with_fingertips(body_regressor(body))
        self.statement = statement(protocol, regressors=_named(self.regressor))

    def columns(self, *, predicted: People, target: People) -> dict[str, Tensor]:
        joints = {"predicted_m": self.joints_m(predicted), "target_m": self.joints_m(target)}
        meshes = {"predicted_m": _vertices(predicted), "target_m": _vertices(target)}
        _same_people(*joints.values())
        _same_mesh(*meshes.values())
        if meshes["target_m"].shape[1] != MANO_VERTICES:
            raise ValueError(f"hands are MANO's {MANO_VERTICES} vertices; these have {meshes['target_m'].shape[1]}")
        moved_joints = {"predicted_m": procrustes(**joints), "target_m": joints["target_m"]}
        moved_mesh = {"predicted_m": procrustes(**meshes), "target_m": meshes["target_m"]}
        curve = {"max_mm": self.protocol.auc_mm, "steps": self.protocol.auc_steps}
        return {
            "pa_mpjpe_mm": mpjpe_mm(**moved_joints),
            "pa_mpvpe_mm": mpvpe_mm(**moved_mesh),
            **{f"f_{mm:g}mm": f_score(**moved_mesh, threshold_mm=mm) for mm in self.protocol.f_mm},
            "auc_joints": hand_auc(**moved_joints, **curve),
            "auc_vertices": hand_auc(**moved_mesh, **curve),
        }

    def joints_m(self, people: People) -> Float[Tensor, "people joints 3"]:
        """The protocol's joints in the camera's frame."""
        if people.joints_m is None and self.regressor is None:
            load_regressor(self.protocol.regressor, None)  # says what is missing
        return _joints_of(people, self.regressor, self.protocol.joint_set)


class _PartsScorer(Scorer):
    def __init__(self, protocol: PartsProtocol, folder: str | Path | None) -> None:
        self.roots = load_regressor(protocol.regressor, folder)
        self.body = load_regressor(protocol.body_regressor, folder)
        hands = (protocol.left_regressor, protocol.right_regressor)
        self.hands = [with_fingertips(load_regressor(file, folder)) for file in hands]
        self.hand_ids = [_hand_ids(protocol, folder, side) for side in ("left_hand", "right_hand")]
        self.face_ids = _face_ids(protocol, folder)
        self.protocol = protocol
        used = (self.roots, self.body, *self.hands)
        self.statement = statement(protocol, regressors={r.name: r.sha256 for r in used})

    def columns(self, *, predicted: People, target: People) -> dict[str, Tensor]:
        ours, theirs = _vertices(predicted), _vertices(target)
        _same_mesh(ours, theirs)
        roots = [self.roots.joints_m(mesh) for mesh in (ours, theirs)]

        def mesh(ids: Tensor | slice, root: str) -> dict[str, Tensor]:
            at = self.roots.joint_set.index(root)
            parts = [
                from_root(points[:, ids], root_m=root_m[:, at])
                for points, root_m in ((ours, roots[0]), (theirs, roots[1]))
            ]
            return {"predicted_m": parts[0], "target_m": parts[1]}

        whole, face = mesh(slice(None), self.protocol.root), mesh(self.face_ids, self.protocol.face_root)
        hands = [mesh(ids, root) for ids, root in zip(self.hand_ids, self.protocol.hand_roots, strict=True)]
        joints = {"predicted_m": self.body.joints_m(ours), "target_m": self.body.joints_m(theirs)}
        fingers = [
            {name: regressor.joints_m(points) for name, points in hand.items()}
            for regressor, hand in zip(self.hands, hands, strict=True)
        ]
        return {
            "mpvpe_all_mm": mpvpe_mm(**whole),
            "mpvpe_hands_mm": torch.stack([mpvpe_mm(**hand) for hand in hands]).mean(dim=0),
            "mpvpe_face_mm": mpvpe_mm(**face),
            "pa_mpvpe_all_mm": pa_mpvpe_mm(**whole),
            "pa_mpvpe_hands_mm": torch.stack([pa_mpvpe_mm(**hand) for hand in hands]).mean(dim=0),
            "pa_mpvpe_face_mm": pa_mpvpe_mm(**face),
            "pa_mpjpe_body_mm": pa_mpjpe_mm(**joints),
            "pa_mpjpe_hands_mm": torch.stack([pa_mpjpe_mm(**hand) for hand in fingers]).mean(dim=0),
        }


def _hand_ids(protocol: PartsProtocol, folder: str | Path | None, key: str) -> Tensor:
    what, source = "vertices of SMPL-X's hands", "register at https://smpl-x.is.tue.mpg.de (Downloads, MANO and FLAME)"
    path = find((protocol.hand_vertices,), folder, what=what, source=source)
    ids = read_array(path, key=key)
    return torch.from_numpy(vertex_ids(path, ids, what=what, vertices=SMPLX_VERTICES, count=MANO_VERTICES))


def _face_ids(protocol: PartsProtocol, folder: str | Path | None) -> Tensor:
    what, source = "vertices of SMPL-X's face", "register at https://smpl-x.is.tue.mpg.de (Downloads, MANO and FLAME)"
    path = find((protocol.face_vertices,), folder, what=what, source=source)
    return torch.from_numpy(vertex_ids(path, read_array(path, key="ids"), what=what, vertices=SMPLX_VERTICES))


def _joints_of(people: People, regressor: Regressor | None, joint_set: JointSet) -> Tensor:
    """All joints of the protocol's set."""
    if people.joints_m is None:
        assert regressor is not None
        return regressor.joints_m(_vertices(people))
    if people.joints_m.shape[1] != len(joint_set):
        raise ValueError(
            f"people have {people.joints_m.shape[1]} joints; the protocol's are the {len(joint_set)} of "
            f"{joint_set.name}: {', '.join(joint_set.names)}"
        )
    return people.joints_m


def _named(regressor: Regressor | None) -> dict[str, str]:
    return {regressor.name: regressor.sha256} if regressor else {}


def _check_crowd(people: People, count: int, joints: int, *, who: str) -> None:
    if people.joints_px is None or people.joints_px.shape[:2] != (count, joints):
        raise ValueError(f"{count} {who} people need the pixels of all {joints} joints, to be matched by")
    if len(people.image_ids) != count:
        raise ValueError(f"{count} {who} people are in {len(people.image_ids)} pictures: each needs the id of one")


def _vertices(people: People) -> Tensor:
    if people.vertices_m is None:
        raise ValueError("the protocol needs meshes: vertices_m is None")
    return people.vertices_m


def _same_people(ours: Tensor, theirs: Tensor) -> None:
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} predicted people, {len(theirs)} true ones: each needs the other")


def _same_mesh(ours: Tensor, theirs: Tensor) -> None:
    _same_people(ours, theirs)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"predicted meshes have {ours.shape[1]} vertices, the true ones {theirs.shape[1]}")


def _axes(prefix: str, errors_mm: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}{axis}_mm": errors_mm[:, i] for i, axis in enumerate("xyz")}


def _by_image(image_ids: tuple[str, ...]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(image_ids):
        rows.setdefault(image, []).append(row)
    return rows
