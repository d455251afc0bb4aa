"""I2L-MeshNet's published architecture, its names and shapes, its ablations, and its fast form against the plain."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mesh_lib.body.files import Body
from mesh_lib.body.joints import MANO_TIPS, RIGHT_HAND21, SMPL_PARENTS
from mesh_lib.geometry.lixels import HAND_BOX_M
from mesh_lib.nets.checkpoints import fit_state
from mesh_lib.nets.gaussians import Pose2Feat
from mesh_lib.nets.lixel import LIXEL29, I2LMeshNet, LixelConfig, Trunk, lixel_regressor, rename_lixel
from mesh_lib.nets.lixel_heads import HeadConfig, build_head, soft_argmax
from mesh_lib.nets.resnet import Bottleneck, ResNet

TINY = HeadConfig(channels=8, fc_width=16)
SMALL = LixelConfig(backbone=18, input_width=64, input_height=64, depth_bins=16, head=TINY)
TRUNK, STEM = 23_508_032, 64 * 3 * 49 + 2 * 64
"""ResNet-50 without its classifier, and of it what MeshNet does not have."""


def hollow(vertices: int, joints: int) -> Body:
    """A body of SMPL's or MANO's size, without a shape."""
    parents = SMPL_PARENTS if joints == 24 else (-1, *(3 * f + i for f in range(5) for i in (0, 1, 2)))
    names = LIXEL29.names[24:] if joints == 24 else ()
    return Body(
        name="hollow", v_template=np.zeros((vertices, 3)), shapedirs=np.zeros((vertices, 3, 10)), posedirs=None,
        J_regressor=np.eye(joints, vertices), weights=np.eye(vertices, joints), parents=parents,
        faces=np.array([[0, 1, 2]], dtype=np.int32),
        keypoint_vertices={name: 100 + i for i, name in enumerate(names)}, sha256="",
    )  # fmt: skip


SMPL, MANO = hollow(6890, 24), hollow(778, 16)


def on_meta(body: Body, **config: Any) -> I2LMeshNet:
    """The network at its published size, shapes alone: nothing is allocated or computed."""
    with torch.device("meta"):
        return I2LMeshNet(LixelConfig(**config), body=body).to("meta").eval()


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_shapes_at_256_with_resnet_50() -> None:
    net = on_meta(SMPL)
    seen: dict[str, tuple[int, ...]] = {}

    def see(name: str, y: Any) -> None:
        seen[name] = tuple(y.shape)

    for name, module in net.named_modules():
        if isinstance(module, (nn.Sequential, nn.Conv1d, nn.MaxPool2d, nn.ReLU, Pose2Feat, Bottleneck)):
            module.register_forward_hook(lambda _, __, y, name=name: see(name, y))
    out = net(torch.empty(2, 3, 256, 256, device="meta"))
    assert seen["pose_backbone.maxpool"] == seen["pose2feat"] == (2, 64, 64, 64)
    assert seen["pose_backbone.layer4.2"] == seen["mesh_backbone.layer4.2"] == (2, 2048, 8, 8)
    for net_name, points in (("pose_net", 29), ("mesh_net", 6890)):
        assert [seen[f"{net_name}.deconv.{i}"] for i in (2, 5, 8)] == [(2, 256, n, n) for n in (16, 32, 64)]
        assert seen[f"{net_name}.conv_x.0"] == seen[f"{net_name}.conv_y.0"] == (2, points, 64)
        assert seen[f"{net_name}.conv_z_1"] == (2, 256 * 64, 1) and seen[f"{net_name}.conv_z_2.0"] == (2, points, 64)
    assert out.joints.shape == out.mesh_joints.shape == (2, 29, 3) and out.mesh.shape == (2, 6890, 3)
    assert net.config.bins == (64, 64, 64) and net.config.sigma == 2.5 and net.config.box_m == 2.0
    assert net.get_parameter("pose2feat.conv.0.weight").shape == (64, 64 + 29 * 64, 3, 3)
    assert net.parameters_from(out).rotmats.shape == (2, 24, 3, 3)


@pytest.mark.parametrize(("body", "joints", "parameters"), [(SMPL, 29, 142_325_935), (MANO, 21, 137_263_303)])
def test_it_has_the_published_number_of_parameters(body: Body, joints: int, parameters: int) -> None:
    net = on_meta(body, box_m=2.0 if body is SMPL else HAND_BOX_M)
    decoder = 2048 * 256 * 16 + 2 * 256 * 256 * 16 + 3 * 2 * 256
    depth = 2048 * 256 * 64 + 3 * 256 * 64
    assert size(net.pose_backbone) == TRUNK and size(net.mesh_backbone) == TRUNK - STEM
    assert size(net.pose_net) == decoder + depth + 3 * (256 + 1) * joints
    assert size(net.mesh_net) == decoder + depth + 3 * (256 + 1) * len(body.v_template)
    assert size(net.pose2feat) == (64 + joints * 64) * 64 * 9 + 3 * 64
    assert size(net) == parameters


@pytest.mark.parametrize(
    ("target", "millions"), [("lixel", 72.9), ("coordinates", 116.6), ("lixel_fc", 81.3)]
)  # the paper's Table 1: 73, 117, 82
def test_table_1s_networks_have_its_sizes(target: Any, millions: float) -> None:
    net = on_meta(SMPL, cascade="none", head=HeadConfig(target=target))
    assert round((size(net) - size(net.param_regressor)) / 1e6, 1) == millions


def released(points: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the release's tensors, as its modules make them (ResNet-50, SMPL)."""
    shapes = {}
    with torch.device("meta"):
        trunk = ResNet(50).state_dict()
    for backbone in ("pose_backbone", "mesh_backbone"):
        shapes |= {f"{backbone}.{name}": tuple(value.shape) for name, value in trunk.items()}

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        parts = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}

    def layer(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}

    for net, count in points.items():
        for i, inputs in ((0, 2048), (3, 256), (6, 256)):
            shapes |= {f"{net}.deconv.{i}.weight": (inputs, 256, 4, 4)} | norm(f"{net}.deconv.{i + 1}", 256)
        for axis in ("conv_x", "conv_y", "conv_z_2"):
            shapes |= layer(f"{net}.{axis}.0", count, 256, 1)
        shapes |= layer(f"{net}.conv_z_1.0", 16384, 2048, 1) | norm(f"{net}.conv_z_1.1", 16384)
    shapes |= layer("pose2feat.conv.0", 64, 1920, 3, 3) | norm("pose2feat.conv.1", 64)
    shapes |= layer("param_regressor.fc.0", 1024, 87) | norm("param_regressor.fc.1", 1024)
    shapes |= layer("param_regressor.fc.3", 512, 1024) | norm("param_regressor.fc.4", 512)
    return shapes | layer("param_regressor.fc_pose.0", 144, 512) | layer("param_regressor.fc_shape.0", 10, 512)


def test_a_released_checkpoint_fills_ours_whole() -> None:
    """All but MeshNet's stem, which nobody runs, and the buffers of its body model."""
    state = {n: torch.empty(s, device="meta") for n, s in released({"pose_net": 29, "mesh_net": 6890}).items()}
    state["human_model_layer.th_faces"] = torch.empty(13776, 3, device="meta")
    fit = fit_state(on_meta(SMPL), state, rename=rename_lixel)
    assert not fit.absent
    stem = {name for name in Trunk(18).state_dict() if not name.startswith("layer")}
    assert set(fit.unknown) == {f"mesh_backbone.{name}" for name in stem} | {"human_model_layer.th_faces"}
    hand = {n: torch.empty(s, device="meta") for n, s in released({"pose_net": 21, "mesh_net": 778}).items()}
    with pytest.raises(ValueError, match="another architecture"):
        fit_state(on_meta(SMPL), hand, rename=rename_lixel)


def test_a_checkpoint_without_stage_two_says_what_is_absent_and_gives_its_values(body: Body) -> None:
    ours, theirs = I2LMeshNet(SMALL, body=body), I2LMeshNet(SMALL, body=body)
    state = {name: value for name, value in theirs.state_dict().items() if not name.startswith("param_regressor.")}
    fit = fit_state(ours, state, rename=rename_lixel)
    assert not fit.unknown and all(name.startswith("param_regressor.") for name in fit.absent) and fit.absent
    assert torch.equal(*(net.get_parameter("mesh_net.conv_x.0.weight") for net in (ours, theirs)))


def test_joints_of_a_hand_are_manos_and_its_fingertips() -> None:
    rows = lixel_regressor(MANO)
    order = [0, 13, 14, 15, None, 1, 2, 3, None, 4, 5, 6, None, 10, 11, 12, None, 7, 8, 9, None]  # the release's
    for name, row, own in zip(RIGHT_HAND21.names, rows, order, strict=True):
        assert row.sum() == 1 and row.argmax() == (MANO_TIPS[name] if own is None else own), name


def test_joints_of_a_body_are_its_regressors_and_its_keypoint_vertices(body: Body) -> None:
    rows = lixel_regressor(body)
    assert (
        np.array_equal(rows[:24], np.asarray(body.J_regressor)) and rows[24].argmax() == body.keypoint_vertices["nose"]
    )
    earless = {name: vertex for name, vertex in body.keypoint_vertices.items() if name != "right_ear"}
    with pytest.raises(ValueError, match="right_ear"):
        lixel_regressor(dataclasses.replace(body, keypoint_vertices=earless))
    with pytest.raises(ValueError, match="SMPL's 24 and MANO's 16"):
        lixel_regressor(dataclasses.replace(body, parents=(-1, 0)))


def test_a_sharp_1d_heatmap_gives_its_peak_and_a_flat_one_the_middle() -> None:
    logits = torch.zeros(2, 3, 64)
    logits[0, 1, 17] = 100.0
    torch.testing.assert_close(soft_argmax(logits)[0], torch.tensor([31.5, 17.0, 31.5]))


ABLATIONS = [
    *(HeadConfig(target=t) for t in ("pixel_lixel", "voxel", "pixel_depth", "lixel_fc", "coordinates")),
    *(HeadConfig(upsamplings=n) for n in range(4)),
    *(HeadConfig(marginalise=m, pooling=p) for m in ("late", "early") for p in ("mean", "max", "weighted")),
    HeadConfig(target="voxel", upsamplings=0),
    HeadConfig(target="pixel_depth", upsamplings=2),
]


@pytest.mark.parametrize("head", ABLATIONS, ids=lambda h: f"{h.target}-{h.upsamplings}-{h.marginalise}-{h.pooling}")
def test_each_ablation_answers_in_lixels_and_learns(head: HeadConfig) -> None:
    """Untrained answers lie about the middle of 16×16×12 bins, whatever the resolution."""
    torch.manual_seed(0)
    head = dataclasses.replace(head, channels=4, fc_width=8)
    net = build_head(head, inputs=32, points=7, bins=(16, 24, 8))
    found = net(torch.randn(3, 32, 3, 2))
    middle = torch.tensor([8.0, 12.0, 4.0])
    coarse = 2 ** (3 - head.upsamplings) / 2
    assert found.shape == (3, 7, 3) and ((found - middle).abs() <= coarse + 0.1).all()
    (found * torch.randn(found.shape)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_marginalising_before_the_1x1_convolution_is_marginalising_after_it() -> None:
    """Why the mean comes first: 64 times fewer products, the same heatmap. (Not so for the maximum.)"""
    torch.manual_seed(0)
    features, weight = torch.randn(2, 16, 12, 12), torch.randn(40, 16)
    after = torch.einsum("pc,bchw->bphw", weight, features).mean(dim=2)
    torch.testing.assert_close(weight @ features.mean(dim=2), after, rtol=1e-4, atol=1e-4)


def test_two_and_a_half_d_reads_the_depth_where_the_point_is() -> None:
    net = build_head(HeadConfig(target="pixel_depth", upsamplings=0), inputs=2, points=1, bins=(64, 64, 64))
    for name, channel, value in (("conv_xy", 0, 100.0), ("conv_depth", 1, 1.0)):
        weight = nn.init.zeros_(net.get_parameter(f"{name}.weight"))
        weight.data[0, channel] = value
    features = torch.zeros(1, 2, 8, 8)
    features[0, 0, 5, 3], features[0, 1] = 1.0, -0.5
    features[0, 1, 5, 3] = 0.5  # a quarter of the box behind the root
    torch.testing.assert_close(net(features)[0, 0], torch.tensor([3 * 8.0, 5 * 8.0, 48.0]))


@pytest.mark.parametrize("wrong", [{"upsamplings": 4}, {"target": "voxel", "pooling": "max"}])
def test_a_head_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"upsamplings|marginalise"):
        HeadConfig(**wrong)


def test_meshnet_may_see_the_picture_or_the_true_joints(body: Body) -> None:
    image, truth = torch.rand(2, 3, 64, 64), torch.rand(2, 29, 3) * 16
    alone = I2LMeshNet(dataclasses.replace(SMALL, cascade="none"), body=body).eval()
    told = I2LMeshNet(dataclasses.replace(SMALL, cascade="truth"), body=body).eval()
    with torch.no_grad():
        assert alone(image).joints.shape == (2, 0, 3)
        assert torch.equal(told(image, truth).joints, truth)
        assert not torch.equal(told(image, truth).mesh, told(image, truth + 3).mesh)
    assert not hasattr(told, "pose_net") and not hasattr(told.pose_backbone, "layer1")
    for net, joints in ((alone, truth), (told, None)):
        with pytest.raises(ValueError, match="'truth' only"):
            net(image, joints)


def test_posenet_does_not_learn_from_meshnet(body: Body) -> None:
    """P^{H_G} is made of detached joints (§3.4)."""
    net = I2LMeshNet(SMALL, body=body)
    net(torch.rand(2, 3, 64, 64)).mesh.sum().backward()
    assert all(p.grad is None for p in net.pose_net.parameters())
    assert net.pose_backbone.conv1.weight.grad is not None, "the stem is shared"


def answers(net: I2LMeshNet, image: Tensor, push: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    out = net(image)
    ((out.joints.sum() + (out.mesh * push).sum()) / len(image)).backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return [out.joints.detach(), out.mesh.detach(), *net.buffers()], gradients


def test_the_fast_form_is_the_plain_one_gradients_and_statistics_too(body: Body) -> None:
    """In double precision: batch norms over few values would turn rounding into differences."""
    torch.manual_seed(0)
    plain_config = dataclasses.replace(SMALL, form="plain", head=dataclasses.replace(TINY, recompute=False))
    plain = I2LMeshNet(plain_config, body=body).double()
    fast = I2LMeshNet(SMALL, body=body).double()
    fast.load_state_dict(plain.state_dict())
    image, push = torch.rand(3, 3, 64, 64).double(), torch.randn(len(body.v_template), 3).double()
    (values, gradients), (fast_values, fast_gradients) = answers(plain, image, push), answers(fast, image, push)
    for a, b in zip(values, fast_values, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)  # heatmaps are taken in single precision
    assert gradients.keys() == fast_gradients.keys()
    for name, a in gradients.items():
        scale = max(a.abs().max().item(), 1e-3)
        torch.testing.assert_close(fast_gradients[name] / scale, a / scale, rtol=1e-4, atol=1e-4, msg=name)


def test_for_inference_the_answers_are_the_same(body: Body) -> None:
    torch.manual_seed(0)
    net = I2LMeshNet(SMALL, body=body)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(4, 3, 64, 64))  # running statistics that are not trivial
        net.eval()
        image = torch.rand(2, 3, 64, 64)
        expected, found = net(image), net.for_inference()(image)
    torch.testing.assert_close(found.mesh, expected.mesh, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.joints, expected.joints, rtol=1e-4, atol=1e-4)


def test_in_stage_two_the_regressor_alone_learns(body: Body) -> None:
    net = I2LMeshNet(dataclasses.replace(SMALL, stage="param"), body=body).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    out = net(torch.rand(4, 3, 64, 64))
    answer = net.parameters_from(out)
    answer.joints_rel_m.square().sum().backward()
    learned = {name for name, p in net.named_parameters() if p.grad is not None}
    assert learned and all(name.startswith("param_regressor.") for name in learned)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("param_regressor.") for name in moved), "statistics of the rest stay"
    assert answer.rotmats.shape == (4, 24, 3, 3) and answer.betas.shape == (4, 10)
    assert answer.joints_rel_m[:, 0].abs().max() == 0, "relative to the pelvis"
    torch.testing.assert_close(answer.rotmats @ answer.rotmats.mT, torch.eye(3).expand(4, 24, 3, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", ["lixel", "pixel_lixel", "voxel", "pixel_depth", "lixel_fc", "coordinates"])
@torch.no_grad()
def test_in_half_precision_positions_stay_whole(body: Body, target: Any) -> None:
    """bfloat16 has eight bits: of the 61st of 64 bins it would know a quarter."""
    head = HeadConfig(target=target, channels=8)
    net = I2LMeshNet(LixelConfig(backbone=18, input_width=64, input_height=64, depth_bins=16, head=head), body=body)
    with torch.autocast("cpu", torch.bfloat16):
        out = net.eval()(torch.rand(2, 3, 64, 64))
    assert out.mesh.dtype == out.joints.dtype == out.mesh_joints.dtype == torch.float32
    torch.testing.assert_close(out.mesh_joints, net.regressor @ out.mesh)
