"""What many tests share: one Ray cluster a session, the real samples, and a tiny run of every stage."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pyarrow import fs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _no_rival_starts_at_once() -> None:
    """In this process alone; tests of two drivers start commands, which wait for each other as ever."""
    from pipelines import lease

    lease.SETTLE_S = 0.1


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[None]:
    """A real local cluster, started once, its workers knowing the S3 server; only what was started here is stopped."""
    import ray

    from pipelines.cluster import connect

    os.environ.pop("RAY_ADDRESS", None)
    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Small real samples of the real datasets; tests that need them skip, visibly, where they are absent."""
    folder = Path(os.environ.get("ANNOMESH_SAMPLES", ROOT.parent / "shared" / "samples"))
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set ANNOMESH_SAMPLES")
    return folder


@pytest.fixture(scope="session")
def tiny_world(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a world of 60 people."""
    from jobs.synthesize import Job, main
    from pipelines.synthesize import World

    out = tmp_path_factory.mktemp("tiny") / "world"
    main(Job(out=str(out), world=World(studio=24, street=24, street3d=12, street_test=0, size=96), body="low"))
    return out


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a VPoser that has hardly learned."""
    from jobs.train_prior import Job, main
    from pipelines.train_prior import PriorTraining

    out = tmp_path_factory.mktemp("tiny") / "prior"
    main(Job(out=str(out), training=PriorTraining(generated=256, steps=8, batch_size=32)))
    return out


@pytest.fixture(scope="session")
def published_resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like torchvision's, classifier included."""
    import torch

    from mesh_lib.nets.resnet import ResNet

    path = tmp_path_factory.mktemp("published") / "resnet18-f37072fd.pth"
    torch.save(ResNet(18).state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, path)
    return path


@pytest.fixture(scope="session")
def tiny_annotator(
    tiny_world: Path, tiny_prior: Path, published_resnet18: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folder of an f that has hardly learned: real layers, 64×64 crops, 40 steps."""
    from jobs.train_annotator import main

    out = tmp_path_factory.mktemp("tiny") / "f"
    main(annotator_job(tiny_world, tiny_prior, published_resnet18, out))
    return out


def annotator_job(world: Path | str, prior: Path, backbone: Path, out: Path | str, **training: Any) -> Any:
    """What jobs/train_annotator.py is asked for, in tests."""
    from jobs.train_annotator import Job
    from mesh_lib.nets.pose2pose import Pose2PoseConfig
    from pipelines.train_annotator import AnnotatorTraining

    tiny = {
        "model": Pose2PoseConfig(backbone=18, input_width=64, input_height=64), "batch_size": 8, "epochs": 2,
        "samples_per_epoch": 160, "lr_drops": (2,), "init": "imagenet", "checkpoint_steps": 4, "threads": 1,
    }  # fmt: skip
    return Job(
        strong=(f"{world}/studio", f"{world}/street3d"), weak=(f"{world}/street",), prior=str(prior),
        validate=f"{world}/street3d", weights=str(backbone), out=str(out), body="low",
        training=AnnotatorTraining(**tiny | training),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_labels(tiny_world: Path, tiny_annotator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the street's labels."""
    from jobs.annotate import Job, main
    from pipelines.annotate import AnnotateStage

    out = tmp_path_factory.mktemp("tiny") / "labels"
    stage = AnnotateStage(batch_size=10)  # 24 people: two whole batches and a part of one
    main(Job(samples=str(tiny_world / "street"), annotator=str(tiny_annotator), out=str(out), stage=stage))
    return out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of troublesome pictures of the test's own."""
    return take_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def photo_labels(tiny_annotator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of their labels."""
    from jobs.annotate import Job, main

    folder = tmp_path_factory.mktemp("tiny")
    photos, out = take_photos(folder / "photos"), folder / "labels"
    main(Job(images=str(photos), keypoints=str(photos / "keypoints.json"), annotator=str(tiny_annotator), out=str(out)))
    return out


def take_photos(folder: Path) -> Path:
    """A folder of pictures with COCO-style keypoints, every trouble that pictures and people give included.

    ids: 1 good, 2 no visible keypoint, 3 too few, 4 NaN, 5 picture missing, 6 truncated, 7 leaves the picture.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "cut.jpg"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    cut = folder / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:900])
    good = [n for k in range(17) for n in (100.0 + 5 * k, 60.0 + 9 * k, 2)]

    def person(number: int, image: int, keypoints: list[float] = good, **more: Any) -> dict[str, Any]:
        return {"id": number, "image_id": image, "keypoints": keypoints, "bbox": [90, 50, 100, 170], **more}

    few = [v if i < 9 else 0 for i, v in enumerate(good)]
    annotations = [
        person(1, 1), person(2, 1, [0.0] * 51), person(3, 1, few), person(4, 1, [float("nan"), *good[1:]]),
        person(5, 2), person(6, 3), person(7, 1, bbox=[250, 150, 200, 300]),
    ]  # fmt: skip
    images = [{"id": i + 1, "file_name": name} for i, name in enumerate(("a.jpg", "gone.jpg", "cut.jpg"))]
    (folder / "keypoints.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty bucket on a real S3 server, spoken to over HTTP; credentials are in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update(environment)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}", scheme="http", force_virtual_addressing=False,
            allow_bucket_creation=True,
        ).create_dir("annomesh-test")  # fmt: skip
        yield "s3://annomesh-test"
    finally:
        server.terminate()
        server.wait()
        for name in environment:
            os.environ.pop(name, None)
