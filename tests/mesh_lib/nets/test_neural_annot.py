"""NeuralAnnot's regressor: one layer after pooling, and no position net."""

from __future__ import annotations

import torch

from mesh_lib.body.files import Body
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.neural_annot import NeuralAnnot
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2


def test_one_linear_layer_follows_the_pooled_features() -> None:
    net = NeuralAnnot(Pose2PoseConfig(regressor="neural_annot", input_width=256, input_height=256)).eval()
    learned = {name for name, _ in net.named_parameters() if not name.startswith("backbone")}
    assert learned == {"parameters_head.weight", "parameters_head.bias"}
    assert net.parameters_head.weight.shape == (6 + 32 + 10 + 3, 2048)
    with torch.no_grad():
        image = torch.rand(2, 3, 64, 64)
        out = net(image)
        pooled = net.backbone(image).mean(dim=(2, 3))
    torch.testing.assert_close(out.betas, net.parameters_head(pooled)[:, 38:48])
    assert out.joints_hm.shape == (2, 0, 3) and out.pose.shape == (2, 32) and out.camera_raw.shape == (2, 3)


def test_f_answers_with_a_body(body: Body) -> None:
    config = Pose2PoseConfig(regressor="neural_annot", backbone=18, input_width=64, input_height=64)
    f = Annotator(config, body=body, vposer=VPoserV2())
    answer = f(torch.rand(2, 3, 64, 64))
    assert answer.joints_m.shape == (2, 33, 3) and answer.joints_hm.shape == (2, 0, 3)
