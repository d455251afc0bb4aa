"""Protocols: what each states, and its columns against the definition, written out again from vertices."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mesh_lib.body.files import Body
from mesh_lib.body.joints import LSP14, SMPL24
from mesh_lib.body.layer import BodyLayer, KeypointLayer
from mesh_lib.datasets.mupots import MUPOTS17
from mesh_lib.geometry.rotations import rotvec_to_rotmat
from mesh_lib.metrics.joints import acceleration_error_mm, mpjpe_mm, pa_mpjpe_mm
from mesh_lib.metrics.meshes import f_score, mpvpe_mm, pa_mpvpe_mm
from mesh_lib.metrics.pck_3d import hand_auc
from mesh_lib.metrics.penetration import SelfPenetration
from mesh_lib.metrics.protocols import (
    EHF,
    FREIHAND,
    HUMAN36M_P1,
    MUPOTS,
    MUPOTS_BONES,
    OPEN_WORLD,
    PROTOCOLS,
    PW3D,
    PW3D_NEUTRAL,
    BodyProtocol,
    Protocol,
    find_protocol,
)
from mesh_lib.metrics.regressors import RegressorMissing
from mesh_lib.metrics.scorers import BodyScorer, People, plausibility_columns, scorer_of

ROWS = {
    "J_regressor_h36m_smpl.npy": (17, 6890), "J_regressor_mi_smpl.npy": (28, 6890), "SMPLX_to_J14.npy": (14, 10475),
    "J_regressor_smplx.npy": (55, 10475), "J_regressor_mano_left.npy": (16, 778),
    "J_regressor_mano_right.npy": (16, 778),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up files in the layout of the owners'."""
    folder = tmp_path_factory.mktemp("regressors")
    rng = np.random.default_rng(0)
    for name, (rows, vertices) in ROWS.items():
        matrix = np.zeros((rows, vertices))
        matrix[np.arange(rows)[:, None], rng.integers(vertices, size=(rows, 6))] = rng.random((rows, 6)) + 0.1
        np.save(folder / name, matrix / matrix.sum(axis=1, keepdims=True))
    hands = {"left_hand": rng.permutation(10475)[:778], "right_hand": rng.permutation(10475)[:778]}
    (folder / "MANO_SMPLX_vertex_ids.pkl").write_bytes(pickle.dumps(hands))
    np.save(folder / "SMPL-X__FLAME_vertex_ids.npy", rng.permutation(10475)[:5023])
    return folder


def matrix(folder: Path, name: str) -> Tensor:
    return torch.from_numpy(np.load(folder / name))


def meshes(vertices: int, people: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predicted and true meshes, each person elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(people, vertices, 3, generator=generator, dtype=torch.float64) * 0.3
    noise = torch.randn(target.shape, generator=generator, dtype=torch.float64) * 0.05
    place = torch.randn(people, 1, 3, generator=generator, dtype=torch.float64)
    return target + noise + place, target + 4 * place


def test_3dpw_is_scored_as_moon_does(folder: Path) -> None:
    predicted, target = meshes(6890)
    columns = scorer_of(PW3D, folder=folder).columns(
        predicted=People(vertices_m=predicted), target=People(vertices_m=target)
    )
    regressor = matrix(folder, "J_regressor_h36m_smpl.npy")
    rows = [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16]
    for i in range(3):
        a, b = (regressor @ mesh[i] for mesh in (predicted, target))
        a_mesh, b_mesh = predicted[i] - a[0], target[i] - b[0]
        a, b = (a - a[0])[rows], (b - b[0])[rows]
        assert columns["mpjpe_mm"][i].item() == pytest.approx((a - b).norm(dim=1).mean().item() * 1000)
        for k, axis in enumerate("xyz"):
            assert columns[f"{axis}_mm"][i].item() == pytest.approx((a - b)[:, k].abs().mean().item() * 1000)
        assert columns["mpvpe_mm"][i].item() == pytest.approx((a_mesh - b_mesh).norm(dim=1).mean().item() * 1000)
        assert columns["pa_mpjpe_mm"][i].item() == pytest.approx(pa_mpjpe_mm(predicted_m=a, target_m=b).item())
        want = pa_mpvpe_mm(predicted_m=predicted[i], target_m=target[i]).item()
        assert columns["pa_mpvpe_mm"][i].item() == pytest.approx(want)


def test_the_joints_of_3dpw_are_rows_1_to_6_8_and_10_to_16() -> None:
    assert PW3D.joint_set.indices(PW3D.joints) == [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16]
    assert PW3D.joint_set.index(PW3D.root) == 0


def test_human36m_truth_is_joints_and_then_there_are_no_mesh_errors(folder: Path) -> None:
    predicted, _ = meshes(6890)
    scorer = scorer_of(HUMAN36M_P1, folder=folder)
    joints = matrix(folder, "J_regressor_h36m_smpl.npy") @ predicted
    turned = joints @ rotvec_to_rotmat(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)).mT + 5
    columns = scorer.columns(predicted=People(vertices_m=predicted), target=People(joints_m=turned))
    assert "mpvpe_mm" not in columns and columns["pa_mpjpe_mm"].max() < 1e-9 and columns["mpjpe_mm"].min() > 1
    with pytest.raises(ValueError, match="people have 24 joints; the protocol's are the 17 of human36m17"):
        scorer.columns(predicted=People(vertices_m=predicted), target=People(joints_m=torch.zeros(3, 24, 3)))
    with pytest.raises(ValueError, match="3 predicted people, 2 true ones"):
        scorer.columns(predicted=People(vertices_m=predicted), target=People(joints_m=turned[:2]))


def test_a_smplx_mesh_is_no_smpl_mesh(folder: Path) -> None:
    wrong = People(vertices_m=torch.zeros(1, 10475, 3))
    with pytest.raises(ValueError, match="for meshes of 6890 vertices; these have 10475"):
        scorer_of(PW3D, folder=folder).columns(predicted=wrong, target=wrong)


def test_mupots_scores_who_is_matched_in_each_picture(folder: Path) -> None:
    """Two pictures; in the first the people are predicted in the other order, in the second one is not seen."""
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.normal(0, 0.4, (4, 17, 3)))
    pixels = torch.from_numpy(rng.uniform(0, 900, (4, 17, 2)))
    truth = People(joints_m=target, joints_px=pixels, image_ids=("a", "a", "b", "b"))
    pelvis, knee = MUPOTS17.index("pelvis"), MUPOTS17.index("left_knee")
    found = target[[1, 0, 3]] + torch.tensor([5.0, 0, 1], dtype=torch.float64)
    found[2, knee, 2] += 0.151
    seen = People(joints_m=found, joints_px=pixels[[1, 0, 3]] + 3, image_ids=("a", "a", "b"))
    columns = scorer_of(MUPOTS, folder=folder).columns(predicted=seen, target=truth)
    assert columns["matched"].tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(columns["pck_all_percent"].numpy(), [100, 100, 0, 100 * 13 / 14])
    np.testing.assert_allclose(columns["pck_matched_percent"].numpy(), [100, 100, np.nan, 100 * 13 / 14])
    assert columns["mpjpe_mm"][3].item() == pytest.approx(151 / 14)
    assert columns["auc_all_percent"][2] == 0 and columns["auc_matched_percent"][2].isnan()
    bent = found.clone()
    bent[2, pelvis] += 1  # all of the body is off, relative to its root
    columns = scorer_of(MUPOTS).columns(
        predicted=People(joints_m=bent, joints_px=seen.joints_px, image_ids=seen.image_ids), target=truth
    )
    assert columns["pck_all_percent"][3] == 0


def test_mupots_with_the_truths_bones_forgives_size() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1, 17, 3, generator=generator, dtype=torch.float64)
    pixels = torch.rand(1, 17, 2, generator=generator, dtype=torch.float64)
    people = {"joints_px": pixels, "image_ids": ("a",)}
    giant, truth = People(joints_m=3 * target, **people), People(joints_m=target, **people)
    assert scorer_of(MUPOTS).columns(predicted=giant, target=truth)["pck_all_percent"] < 50
    assert scorer_of(MUPOTS_BONES).columns(predicted=giant, target=truth)["pck_all_percent"] == 100


def test_mupots_does_not_match_who_is_no_number_nor_trust_pixels_it_is_told_not_to() -> None:
    target = torch.zeros(2, 17, 3)
    pixels = torch.zeros(2, 17, 2)
    pixels[1] += 500
    broken = target.clone()
    broken[0, 3, 1] = torch.nan
    far = pixels.clone()
    visible = torch.ones(2, 17, dtype=torch.bool)
    visible[1] = False
    truth = People(joints_m=target, joints_px=pixels, visible=visible, image_ids=("a", "a"))
    predicted = People(joints_m=broken, joints_px=far, image_ids=("a", "a"))
    columns = scorer_of(MUPOTS).columns(predicted=predicted, target=truth)
    assert columns["matched"].tolist() == [0, 0] and columns["pck_all_percent"].tolist() == [0, 0]


def test_a_crowd_without_pixels_or_pictures_is_refused() -> None:
    joints = torch.zeros(2, 17, 3)
    whole = People(joints_m=joints, joints_px=torch.zeros(2, 17, 2), image_ids=("a", "b"))
    scorer = scorer_of(MUPOTS)
    with pytest.raises(ValueError, match="need the pixels of all 17 joints"):
        scorer.columns(predicted=People(joints_m=joints, image_ids=("a", "b")), target=whole)
    with pytest.raises(ValueError, match="2 true people are in 0 pictures"):
        scorer.columns(predicted=whole, target=People(joints_m=joints, joints_px=torch.zeros(2, 17, 2)))
    with pytest.raises(RegressorMissing, match="no folder of regressors was given"):
        scorer.columns(predicted=People(vertices_m=torch.zeros(2, 6890, 3)), target=whole)


def test_freihand_is_scored_after_procrustes(folder: Path) -> None:
    predicted, target = meshes(778)
    predicted, target = predicted * 0.1, target * 0.1
    scorer = scorer_of(FREIHAND, folder=folder)
    columns = scorer.columns(predicted=People(vertices_m=predicted), target=People(vertices_m=target))
    assert set(columns) == {"pa_mpjpe_mm", "pa_mpvpe_mm", "f_5mm", "f_15mm", "auc_joints", "auc_vertices"}
    moved = 2 * predicted @ rotvec_to_rotmat(torch.tensor([1.0, 0, 2], dtype=torch.float64)).mT - 1
    again = scorer.columns(predicted=People(vertices_m=moved), target=People(vertices_m=target))
    for name, values in columns.items():
        torch.testing.assert_close(again[name], values, msg=name)
    same = scorer.columns(predicted=People(vertices_m=moved), target=People(vertices_m=predicted))
    for name, values in same.items():
        want = 0.0 if name.endswith("_mm") else 1.0  # rounding may put an error of nothing above the threshold 0
        torch.testing.assert_close(values.mean().item(), want, atol=0.006 if name.startswith("auc") else 1e-9, rtol=0)
    raw = f_score(predicted_m=moved, target_m=target, threshold_mm=15.0)
    assert (raw < columns["f_15mm"]).all() and hand_auc(predicted_m=moved, target_m=target).max() < 0.1
    joints = torch.rand(3, 21, 3, dtype=torch.float64)
    given = scorer_of(FREIHAND).columns(
        predicted=People(vertices_m=predicted, joints_m=joints), target=People(vertices_m=target, joints_m=joints)
    )
    assert given["pa_mpjpe_mm"].max() < 1e-9, "joints that are given are taken"
    with pytest.raises(RegressorMissing, match="no folder of regressors was given"):
        scorer_of(FREIHAND).columns(predicted=People(vertices_m=predicted), target=People(vertices_m=target))


def test_ehf_is_scored_part_by_part(folder: Path) -> None:
    predicted, target = meshes(10475, people=2)
    columns = scorer_of(EHF, folder=folder).columns(
        predicted=People(vertices_m=predicted), target=People(vertices_m=target)
    )
    roots = matrix(folder, "J_regressor_smplx.npy")
    hands = pickle.loads((folder / "MANO_SMPLX_vertex_ids.pkl").read_bytes())
    face = np.load(folder / "SMPL-X__FLAME_vertex_ids.npy")

    def from_joint(mesh: Tensor, joint: str) -> Tensor:
        return mesh - (roots @ mesh)[:, [SMPL24.index(joint)]]

    def mean_of_hands(metric: Any, pairs: list[list[Tensor]]) -> Tensor:
        return torch.stack([metric(predicted_m=p, target_m=t) for p, t in pairs]).mean(dim=0)

    both = [
        [from_joint(mesh, f"{side}_wrist")[:, hands[f"{side}_hand"]] for mesh in (predicted, target)]
        for side in ("left", "right")
    ]
    want = {
        "mpvpe_all_mm": mpvpe_mm(predicted_m=from_joint(predicted, "pelvis"), target_m=from_joint(target, "pelvis")),
        "mpvpe_hands_mm": mean_of_hands(mpvpe_mm, both),
        "mpvpe_face_mm": mpvpe_mm(
            predicted_m=from_joint(predicted, "neck")[:, face], target_m=from_joint(target, "neck")[:, face]
        ),
        "pa_mpvpe_all_mm": pa_mpvpe_mm(predicted_m=predicted, target_m=target),
        "pa_mpvpe_hands_mm": mean_of_hands(pa_mpvpe_mm, both),
        "pa_mpvpe_face_mm": pa_mpvpe_mm(predicted_m=predicted[:, face], target_m=target[:, face]),
        "pa_mpjpe_body_mm": pa_mpjpe_mm(
            predicted_m=matrix(folder, "SMPLX_to_J14.npy") @ predicted,
            target_m=matrix(folder, "SMPLX_to_J14.npy") @ target,
        ),
    }
    tips = [745, 317, 445, 556, 673]
    fingers = [
        [torch.cat([matrix(folder, f"J_regressor_mano_{side}.npy") @ hand, hand[:, tips]], dim=1) for hand in pair]
        for side, pair in zip(("left", "right"), both, strict=True)
    ]
    want["pa_mpjpe_hands_mm"] = mean_of_hands(pa_mpjpe_mm, fingers)
    assert set(columns) == set(want)
    for name, values in want.items():
        torch.testing.assert_close(columns[name], values, msg=name)


@pytest.fixture(scope="module")
def bodies(body: Body) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (4, 24, 3, 3), meshes, and the joints that docs/open_world.md's scores are of."""
    rotvec = torch.randn(4, 24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    rotmats, betas = rotvec_to_rotmat(rotvec), torch.zeros(4, 10, dtype=torch.float64)
    vertices = BodyLayer(body, dtype=torch.float64)(rotmats=rotmats, betas=betas).vertices_m
    return rotmats, vertices, KeypointLayer(body, LSP14, dtype=torch.float64)(rotmats=rotmats, betas=betas)


def test_the_open_world_is_scored_on_lsp14_by_the_bodys_own_regressor(
    body: Body, bodies: tuple[Tensor, Tensor, Tensor]
) -> None:
    _, vertices, joints = bodies
    columns = scorer_of(OPEN_WORLD, body=body).columns(
        predicted=People(vertices_m=vertices[:2]), target=People(vertices_m=vertices[2:])
    )
    want = pa_mpjpe_mm(predicted_m=joints[:2], target_m=joints[2:])
    torch.testing.assert_close(columns["pa_mpjpe_mm"], want)
    assert set(columns) >= {"mpjpe_mm", "mpvpe_mm", "pa_mpvpe_mm", "pa_x_mm", "pa_y_mm", "pa_z_mm", "z_mm"}
    with pytest.raises(ValueError, match="pass the body"):
        scorer_of(OPEN_WORLD)


def test_a_sequence_has_its_acceleration_error_on_the_protocols_joints(
    body: Body, bodies: tuple[Tensor, Tensor, Tensor]
) -> None:
    scorer = scorer_of(OPEN_WORLD, body=body)
    assert isinstance(scorer, BodyScorer)
    _, vertices, joints = bodies
    drifting = vertices + torch.arange(4.0, dtype=torch.float64)[:, None, None] ** 2
    found = [scorer.joints_m(People(vertices_m=mesh)) for mesh in (drifting, vertices)]
    assert acceleration_error_mm(predicted_m=found[0], target_m=found[1]) < 1e-9, "roots are aligned in each frame"
    root = torch.from_numpy(body.J_regressor @ vertices[0].numpy())[0]
    torch.testing.assert_close(found[1][0], joints[0] - root)


def test_plausibility_needs_no_truth(body: Body, bodies: tuple[Tensor, Tensor, Tensor]) -> None:
    rotmats, vertices, _ = bodies
    columns = plausibility_columns(rotmats=rotmats, vertices_m=vertices, penetration=SelfPenetration(body))
    assert all(values.shape == (4,) and values.isfinite().all() for values in columns.values())
    assert columns["joint_limits_percent"].max() > 0


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_every_protocol_states_its_rules_as_json(protocol: Protocol, folder: Path, body: Body) -> None:
    said = json.loads(json.dumps(scorer_of(protocol, folder=folder, body=body).statement))
    assert said["protocol"] == protocol.name and len(said["regressor"]) >= 1
    for rule in ("people", "truth", "gender", "joints", "root", "alignment", "source", "headline"):
        assert said[rule] or (rule == "root" and protocol is FREIHAND)
    assert said["gender"] in ("gendered", "neutral", "none")
    if isinstance(protocol, BodyProtocol):
        assert len(protocol.joints) == 14 and protocol.root in protocol.joint_set.names


def test_the_two_3dpws_differ_in_the_truths_gender_alone() -> None:
    assert (PW3D.gender, PW3D_NEUTRAL.gender) == ("gendered", "neutral")
    assert (PW3D.joints, PW3D.root, PW3D.regressor) == (PW3D_NEUTRAL.joints, PW3D_NEUTRAL.root, PW3D_NEUTRAL.regressor)


def test_headlines_are_columns(folder: Path, body: Body) -> None:
    for protocol in PROTOCOLS.values():
        if isinstance(protocol, BodyProtocol) and protocol.regressor is not None:
            mesh = People(vertices_m=torch.zeros(1, 6890, 3))
            columns = scorer_of(protocol, folder=folder).columns(predicted=mesh, target=mesh)
            assert set(protocol.headline) <= set(columns)
            assert mpjpe_mm(predicted_m=torch.zeros(1, 1, 3), target_m=torch.zeros(1, 1, 3)) == columns["mpjpe_mm"]


def test_a_protocol_without_its_regressor_says_so(tmp_path: Path) -> None:
    for protocol in (PW3D, MUPOTS, FREIHAND, EHF):
        with pytest.raises(RegressorMissing, match="licensed body model"):
            scorer_of(protocol, folder=tmp_path)
    with pytest.raises(ValueError, match="no protocol '3dpwx'; there are 3dpw, 3dpw_neutral"):
        find_protocol("3dpwx")
    assert find_protocol("3dpw") is PW3D
