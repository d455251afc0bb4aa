"""Training: the prior and f as run folders, batches as asked for, and mistakes named before any work."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs.train_annotator import Job, main
from mesh_lib.nets.pose2pose import Pose2PoseConfig
from mesh_lib.nets.resnet import ResNet
from mesh_lib.nets.vposer import VPoserV1
from pipelines import annotators, runs, storage
from pipelines.annotate import AnnotateStage
from pipelines.bodies import cached_body, put_body
from pipelines.sources import open_source
from pipelines.train_annotator import PRIOR, AnnotatorRecipe, AnnotatorTraining, starting_backbone
from pipelines.train_loop import computes_in_bfloat16
from pipelines.train_prior import PriorTraining, gather_poses
from pipelines.windows import StreamConfig

pytestmark = pytest.mark.ray


def test_the_prior_is_a_run_that_reports_its_error(tiny_prior: Path) -> None:
    found = runs.load_run(tiny_prior, job="train_prior")["result"]
    assert found["poses"] == 256 and 0 < found["reconstruction_cm"] < 100 and 0 <= found["active_units"] <= 32
    with torch.no_grad():
        assert annotators.load_prior(str(tiny_prior)).decode(torch.zeros(1, 32)).shape == (1, 21, 3, 3)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux tells what its CPU can")
def test_a_cpu_that_only_imitates_bfloat16_trains_in_single_precision() -> None:
    """On one with AVX2 alone a step in bfloat16 takes fifteen times as long."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert computes_in_bfloat16(torch.device("cpu")) == bool(flags & {"avx512_bf16", "amx_bf16"})
    assert AnnotatorTraining().precision == "auto"


def test_poses_come_from_every_source(samples_dir: Path, tmp_path: Path) -> None:
    clips = samples_dir / "cmu_mocap" / "bvh_3dsmax"
    poses = gather_poses(PriorTraining(generated=10), bvh_dir=clips, amass_dir=None)
    assert poses.shape[1:] == (21, 3) and len(poses) > 10 and poses.dtype == np.float32
    with pytest.raises(ValueError, match="no AMASS clips"):
        gather_poses(PriorTraining(), bvh_dir=None, amass_dir=tmp_path)
    with pytest.raises(ValueError, match="no poses to learn from"):
        gather_poses(PriorTraining(generated=0), bvh_dir=None, amass_dir=None)


def test_amass_is_read_as_its_owners_ship_it(tmp_path: Path) -> None:
    """A folder a subject, with shape.npz beside the clips; 120 frames a second become ten."""
    poses = np.random.default_rng(0).normal(0, 0.3, (48, 156))
    for subject in ("CMU/01", "CMU/02"):
        (tmp_path / subject).mkdir(parents=True)
        np.savez(tmp_path / subject / "shape.npz", betas=np.zeros(16))
        np.savez(tmp_path / subject / "a_poses.npz", poses=poses, trans=np.zeros((48, 3)), mocap_framerate=120.0)
    found = gather_poses(PriorTraining(generated=0), bvh_dir=None, amass_dir=tmp_path)
    np.testing.assert_allclose(found, np.concatenate([poses[::12, 3:66]] * 2).reshape(8, 21, 3), atol=1e-6)


def test_f_is_a_run_that_loads_again(tiny_annotator: Path) -> None:
    history = storage.read_json(str(tiny_annotator / "metrics.json"))
    assert [m["epoch"] for m in history] == [1, 2] and all(np.isfinite(m["loss"]) for m in history)
    assert history[1]["lr"] == pytest.approx(history[0]["lr"] / 10)
    assert all(10 < m["val_pa_mpjpe_mm"] < 500 and m["unreadable"] == 0 for m in history)
    events = b"".join(path.read_bytes() for path in (tiny_annotator / "tensorboard").iterdir())
    assert b"val_pa_mpjpe_mm" in events and b"samples_per_s" in events
    f = annotators.load_annotator(str(tiny_annotator))
    assert not f.training and f.config.input_size == (64, 64)
    fresh = annotators.Annotator(f.config, body=annotators.load_body_of(str(tiny_annotator)), vposer=f.vposer)
    trained, untrained = f.regressor.state_dict(), fresh.regressor.state_dict()
    assert not torch.equal(trained["root.weight"], untrained["root.weight"])


def test_the_best_epoch_can_be_what_is_delivered(tiny_annotator: Path) -> None:
    history = storage.read_json(str(tiny_annotator / "metrics.json"))
    best = min(history, key=lambda m: m["val_pa_mpjpe_mm"])["epoch"]
    kept = [load_file(tiny_annotator / name) for name in ("annotator-best.safetensors", annotators.WEIGHTS)]
    same = all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    assert same == (best == 2)


def test_a_damaged_or_foreign_checkpoint_is_refused(tiny_annotator: Path, tmp_path: Path) -> None:
    f = annotators.load_annotator(str(tiny_annotator))
    weights = load_file(tiny_annotator / annotators.WEIGHTS)
    with pytest.raises(ValueError, match="another architecture") as error:
        annotators.load_whole(f, {**weights, "regressor.root.weight": torch.zeros(6, 5)}, where="w")
    assert "regressor.root.weight: there (6, 5)" in str(error.value)
    rootless = {name: value for name, value in weights.items() if "root" not in name}
    with pytest.raises(ValueError, match=r"absent: regressor\.root\.bias[\s\S]*unknown: x"):
        annotators.load_whole(f, rootless | {"x": torch.zeros(1)}, where="w")
    shutil.copytree(tiny_annotator, tmp_path / "f", ignore=shutil.ignore_patterns("_ray"))
    path = tmp_path / "f" / annotators.WEIGHTS
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        annotators.load_annotator(str(tmp_path / "f"))


def test_settings_of_another_version_are_refused(tiny_annotator: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_annotator, tmp_path / "f", ignore=shutil.ignore_patterns("_ray"))
    settings = json.loads((tmp_path / "f" / annotators.MODEL).read_text())
    (tmp_path / "f" / annotators.MODEL).write_text(json.dumps({**settings, "wings": 2}))
    with pytest.raises(ValueError, match="wings"):
        annotators.load_annotator(str(tmp_path / "f"))
    (tmp_path / "f" / annotators.MODEL).write_text(json.dumps({**settings, "backbone": 50}))
    with pytest.raises(ValueError, match="another architecture"):
        annotators.load_annotator(str(tmp_path / "f"))


def test_f_starts_from_published_weights(tiny_annotator: Path, published_resnet18: Path) -> None:
    """Forty small steps away from them still."""
    start = torch.load(published_resnet18, weights_only=True)
    backbone = annotators.load_annotator(str(tiny_annotator)).regressor.backbone
    for name in ("conv1.weight", "layer4.1.conv2.weight"):
        moved = (backbone.get_parameter(name) - start[name]).abs().max()
        assert 0 < moved < 3e-3, name
    again = starting_backbone(AnnotatorTraining(model=Pose2PoseConfig(backbone=18), init="pose3d"), str(tiny_annotator))
    assert again is not None
    torch.testing.assert_close(again.get_parameter("conv1.weight"), backbone.get_parameter("conv1.weight"))


def test_published_weights_may_lie_in_object_storage(published_resnet18: Path, s3: str) -> None:
    storage.write_bytes(f"{s3}/published/resnet18.pth", published_resnet18.read_bytes())
    training = AnnotatorTraining(model=Pose2PoseConfig(backbone=18), init="imagenet")
    found = starting_backbone(training, f"{s3}/published/resnet18.pth")
    start = torch.load(published_resnet18, weights_only=True)
    assert found is not None and torch.equal(found.get_parameter("conv1.weight"), start["conv1.weight"])
    with pytest.raises(ValueError, match="no checkpoint at s3://"):
        starting_backbone(training, f"{s3}/published/gone.pth")


def test_a_prior_goes_with_the_head_that_decodes_it(tiny_world: Path, tiny_prior: Path, tmp_path: Path) -> None:
    plain = AnnotatorTraining(model=Pose2PoseConfig(pose_head="rot6d"), init="random")
    job = Job(strong=(str(tiny_world / "studio"),), out=str(tmp_path / "f"), body="low", training=plain)
    with pytest.raises(ValueError, match="has no use for --prior"):
        main(dataclasses.replace(job, prior=str(tiny_prior)))
    with pytest.raises(ValueError, match=r"fix: pass --prior, or --training\.model\.pose-head rot6d"):
        main(dataclasses.replace(job, training=AnnotatorTraining(init="random")))


def test_f_with_a_published_prior_is_kept_and_loaded_again(tmp_path: Path) -> None:
    """A VPoser of the first release, as SMPLify-X ships it."""
    vposer = VPoserV1().state_dict()
    torch.save(vposer, tmp_path / "TR00_E096.pt")
    run = runs.open_run(tmp_path / "f", job="train_annotator", settings={})
    put_body(cached_body("low"), run.folder)
    prior = annotators.load_prior(str(tmp_path / "TR00_E096.pt"))
    annotators.write_weights(prior.state_dict(), run.path(PRIOR))
    training = AnnotatorTraining(model=Pose2PoseConfig(backbone=18, input_width=64, input_height=64))
    learner = AnnotatorRecipe(training).start(run.folder)
    learner.save()
    run.finish()
    f = annotators.load_annotator(run.folder)
    assert f.vposer
    torch.testing.assert_close(f.vposer.get_parameter("bodyprior_dec_out.weight"), vposer["bodyprior_dec_out.weight"])


def test_what_f_starts_from_is_checked_before_any_work(tmp_path: Path) -> None:
    small = AnnotatorTraining(model=Pose2PoseConfig(backbone=18))
    assert starting_backbone(small, None) is None
    with pytest.raises(ValueError, match="random takes no --weights"):
        starting_backbone(small, "x.pth")
    with pytest.raises(ValueError, match="pose2d needs --weights"):
        starting_backbone(dataclasses.replace(small, init="pose2d"), None)
    torch.save({n: v for n, v in ResNet(18).state_dict().items() if "layer4" not in n}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="no whole ResNet-18"):
        starting_backbone(dataclasses.replace(small, init="imagenet"), str(tmp_path / "part.pth"))


def test_inputs_that_are_not_samples_are_named(tiny_world: Path, tiny_prior: Path, tmp_path: Path) -> None:
    job = Job(strong=(str(tiny_world / "studio"),), weak=(str(tiny_world / "street"),), prior=str(tiny_prior),
              out=str(tmp_path / "f"), body="low")  # fmt: skip
    with pytest.raises(ValueError, match="not of train_prior"):
        main(dataclasses.replace(job, prior=str(tiny_world)))
    with pytest.raises(ValueError, match="body model not found"):
        main(dataclasses.replace(job, body=str(tmp_path / "SMPL_NEUTRAL.npz")))
    with pytest.raises(ValueError, match="no such input"):
        main(dataclasses.replace(job, weak=(str(tmp_path / "gone"),)))
    with pytest.raises(ValueError, match="does not hold annomesh samples"):
        open_source(str(tiny_world / "truth" / "street"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="not a Parquet file"):
        open_source(str(tmp_path / "broken"))
    empty = storage.read_parquet(str(tiny_world / "street")).slice(0, 0)
    storage.write_parquet(empty, str(tmp_path / "empty" / "a.parquet"))
    with pytest.raises(ValueError, match="hold no row"):
        open_source(str(tmp_path / "empty"))


def test_the_truth_must_speak_of_the_same_body(tiny_world: Path, tiny_prior: Path, tmp_path: Path) -> None:
    job = Job(strong=(str(tiny_world / "studio"),), weak=(str(tiny_world / "street"),), prior=str(tiny_prior),
              out=str(tmp_path / "f"), body="full")  # fmt: skip
    with pytest.raises(ValueError, match=r"studio are of another body than --body[\s\S]*fix: "):
        main(job)


def test_half_written_samples_are_refused(tiny_world: Path, tmp_path: Path) -> None:
    """The world's job was killed after its first shards."""
    shard = storage.read_parquet(str(tiny_world / "street"))
    storage.write_parquet(shard, str(tmp_path / "world" / "street" / "part-00000.parquet"))
    record = runs.load_run(tiny_world, job="synthesize")
    storage.write_json(str(tmp_path / "world" / runs.RUN_FILE), record | {"status": "running"})
    with pytest.raises(ValueError, match=r"incomplete: their run of synthesize is running[\s\S]*fix: "):
        open_source(str(tmp_path / "world" / "street"))
    storage.write_json(str(tmp_path / "world" / runs.RUN_FILE), record)
    assert open_source(str(tmp_path / "world" / "street")).rows == 24


def test_the_learning_rate_follows_its_schedule() -> None:
    published = AnnotatorTraining()
    at = [published.learning_rate_at(step, steps=10) for step in (0, 99, 100, 119, 120, 149)]
    assert at == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])
    falling = AnnotatorTraining(schedule="linear", learning_rate=1e-3, warm_up=10, epochs=2)
    at = [falling.learning_rate_at(step, steps=100) for step in (0, 9, 100, 199)]
    assert at == pytest.approx([1e-4, 1e-3 * 191 / 200, 5e-4, 5e-6])


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (AnnotatorTraining, {"epochs": 0}), (AnnotatorTraining, {"batch_size": 0}), (AnnotatorTraining, {"warm_up": 0}),
        (AnnotatorTraining, {"samples_per_epoch": 0}), (AnnotatorTraining, {"learning_rate": float("nan")}),
        (AnnotatorTraining, {"weak_share": 1.5}), (AnnotatorTraining, {"strong_shares": (0.5, 0.6)}),
        (AnnotatorTraining, {"accumulate": 0}), (AnnotatorTraining, {"checkpoint_steps": 0}),
        (PriorTraining, {"steps": 0}), (PriorTraining, {"held_out": 1.0}),
        (PriorTraining, {"generated": -1}), (StreamConfig, {"strength": -0.1}), (AnnotateStage, {"actors": 0}),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        settings(**wrong)


def test_another_batch_size_is_another_training(tmp_path: Path) -> None:
    runs.open_run(tmp_path / "f", job="train_annotator", settings=AnnotatorTraining()).finish()
    with pytest.raises(ValueError, match=r"settings\.batch_size: there 192, now 96"):
        runs.open_run(tmp_path / "f", job="train_annotator", settings=AnnotatorTraining(batch_size=96))
