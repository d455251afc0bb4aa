"""The 2D pose network as a run: trained on shards, scored, and f started from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from jobs.train_pose2d import Job, main
from mesh_lib.datasets.coco import Coco
from mesh_lib.nets.pose2d import Pose2D, Pose2DConfig
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.resnet import ResNet
from pipelines import runs
from pipelines.cluster import connect
from pipelines.ingest import IngestStage, ingest
from pipelines.train_annotator import AnnotatorTraining, starting_backbone
from pipelines.train_pose2d import Pose2DTraining, load_pose2d, starting_network

pytestmark = pytest.mark.ray
SMALL = Pose2DTraining(
    model=Pose2DConfig(backbone=18, input_width=64, input_height=64), batch_size=8, epochs=1, samples_per_epoch=16
)


def test_it_trains_scores_and_gives_f_its_backbone(
    tiny_world: Path, photos: Path, ray_cluster: None, tmp_path: Path
) -> None:
    coco = runs.open_run(tmp_path / "coco", job="ingest", settings={})
    truth = json.loads((photos / "keypoints.json").read_text().replace("NaN", "0"))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    reader = Coco(annotations=str(tmp_path / "truth.json"), images=str(photos))
    connect()
    found = ingest(coco, reader=reader, dataset="coco", split="x", stage=IngestStage())
    coco.finish(result=found)
    for record in truth["annotations"]:
        record |= {"iscrowd": 0, "area": 9000.0, "num_keypoints": 17, "category_id": 1}
    truth["categories"] = [{"id": 1, "name": "person"}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    main(Job(samples=(str(tiny_world / "street"), str(tiny_world / "studio")), validate=str(tmp_path / "coco"),
             coco_annotations=str(tmp_path / "truth.json"), out=str(tmp_path / "p"), training=SMALL))  # fmt: skip
    scores = runs.load_run(tmp_path / "p", job="train_pose2d")["scores"]
    assert scores["samples"] == found["rows"] and 0 <= scores["pck_0.1"] <= 1 and 0 <= scores["coco_AP"] <= 1
    network = load_pose2d(str(tmp_path / "p"))
    assert not network.training and not torch.equal(
        network.final_layer.weight, starting_network(SMALL, None).final_layer.weight
    )
    f = AnnotatorTraining(model=Pose2PoseConfig(backbone=18), init="pose2d")
    backbone = starting_backbone(f, str(tmp_path / "p"))
    assert backbone is not None
    torch.testing.assert_close(backbone.state_dict(), network.backbone.state_dict())
    with pytest.raises(ValueError, match="a run of train_pose2d, not of train_annotator"):
        starting_backbone(dataclasses.replace(f, init="pose3d"), str(tmp_path / "p"))


def test_it_starts_from_published_weights(tmp_path: Path) -> None:
    theirs = Pose2D(Pose2DConfig(backbone=18, joint_set="coco17")).state_dict()
    torch.save({n.removeprefix("backbone."): v for n, v in theirs.items()}, tmp_path / "pose_resnet.pth.tar")
    torch.save(ResNet(18).state_dict() | {"fc.bias": torch.zeros(1000)}, tmp_path / "resnet18.pth")
    published = Pose2DTraining(model=Pose2DConfig(backbone=18, joint_set="coco17"), init="pose2d")
    started = starting_network(published, str(tmp_path / "pose_resnet.pth.tar"))
    torch.testing.assert_close(dict(started.state_dict()), dict(theirs))
    starting_network(dataclasses.replace(SMALL, init="imagenet"), str(tmp_path / "resnet18.pth"))
    with pytest.raises(ValueError, match=r"another architecture[\s\S]*final_layer"):
        starting_network(dataclasses.replace(SMALL, init="pose2d"), str(tmp_path / "pose_resnet.pth.tar"))
    with pytest.raises(ValueError, match="no whole network"):
        starting_network(published, str(tmp_path / "resnet18.pth"))
    with pytest.raises(ValueError, match="needs --weights"):
        starting_network(published, None)
