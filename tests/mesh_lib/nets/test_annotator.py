"""f made ready for inference answers as f does."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mesh_lib.body.files import Body
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.packed import PackedTrunk
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.vposer import VPoserV2


@pytest.mark.parametrize("regressor", ["pose2pose", "neural_annot"])
@torch.no_grad()
def test_packed_for_inference_it_gives_the_same_labels(body: Body, regressor: str) -> None:
    torch.manual_seed(0)
    config = Pose2PoseConfig(backbone=18, input_width=64, input_height=96, regressor=regressor)  # pyright: ignore[reportArgumentType]
    f = Annotator(config, body=body, vposer=VPoserV2())
    f(torch.rand(8, 3, 96, 64))  # running statistics that are not trivial
    quick = f.for_inference()
    assert isinstance(quick.regressor.backbone, PackedTrunk) and not quick.training
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    image = torch.rand(5, 3, 96, 64)
    expected, found = f.eval()(image), quick(image)
    for field in dataclasses.fields(expected):
        here, there = getattr(found, field.name), getattr(expected, field.name)
        torch.testing.assert_close(
            here, there, rtol=1e-4, atol=1e-4 * max(1.0, there.abs().amax().item() if there.numel() else 1.0)
        )
