"""Right hands from samples to scores: I2L-MeshNet learns them, is scored on them, and is not taken for a body's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs import evaluate, train_estimator
from mesh_lib.body.joints import COCO17, RIGHT_HAND21
from mesh_lib.datasets.interhand import INTERHAND42
from mesh_lib.geometry.lixels import HAND_BOX_M
from mesh_lib.losses.lixel import LixelLossConfig
from mesh_lib.metrics.scorers import People, scorer_of
from mesh_lib.nets.hmr import Hmr, HmrConfig
from mesh_lib.nets.lixel import LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from pipelines.benchmark import truth_reader
from pipelines.bodies import cached_body, load_body_of
from pipelines.estimators import load_estimator
from pipelines.evaluate import open_benchmark
from pipelines.hands import hand_columns
from pipelines.sources import holds_3d, open_source
from pipelines.stream import batches
from pipelines.train_estimator import PRESETS, HmrTraining, LixelTraining
from pipelines.windows import Feed, StreamConfig
from tests.hands import right_hand, write_samples
from tests.jobs.test_import_estimator import spin, take

pytestmark = pytest.mark.ray
TINY = LixelConfig(
    backbone=18, input_width=64, input_height=64, depth_bins=16, box_m=HAND_BOX_M, head=HeadConfig(channels=16)
)
FEW = 6


def train(folder: Path, out: Path, *, weights: str | None = None, **training: Any) -> list[dict[str, Any]]:
    """A run of jobs/train_estimator.py lixel on the folder's samples; its metrics of each epoch."""
    settings = {
        "model": TINY, "loss": LixelLossConfig(normalise_by="valid", check_fits=False), "batch_size": FEW,
        "weak_share": 0.0, "epochs": 1, "samples_per_epoch": FEW * 2, "learning_rate": 1e-3, "schedule": "linear",
        "warm_up": 5, "precision": "float32", "threads": 1, "stream": StreamConfig(readers=1, augment=False),
    }  # fmt: skip
    train_estimator.main(train_estimator.Lixel(
        strong=(str(folder / "samples"),), validate=str(folder / "samples"), out=str(out),
        body=str(folder / "MANO_RIGHT.npz"), weights=weights, training=LixelTraining(**settings | training),
    ))  # fmt: skip
    return json.loads((out / "metrics.json").read_text())


def score(network: Path, folder: Path, out: Path, *, protocol: str = "freihand", **more: Any) -> dict[str, Any]:
    stage = evaluate.EvaluateStage(batch_size=4, resamples=50, threads=1, **more.pop("stage", {}))
    evaluate.main(evaluate.Network(
        network=str(network), samples=(str(folder / "samples"),), protocol=protocol, out=str(out), stage=stage, **more
    ))  # fmt: skip
    return json.loads((out / "scores.json").read_text())


@pytest.fixture(scope="module")
def hands(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MANO_RIGHT.npz, and `samples` of a few right hands."""
    folder = tmp_path_factory.mktemp("hands")
    write_samples(folder / "samples", right_hand(folder), FEW)
    return folder


@pytest.fixture(scope="module")
def network(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a network that has seen these hands now and then."""
    out = tmp_path_factory.mktemp("hands") / "run"
    train(hands, out, epochs=2, samples_per_epoch=FEW * 25)
    return out


def test_a_network_of_hands_learns_and_is_scored_as_its_training_judged_it(
    hands: Path, network: Path, tmp_path: Path
) -> None:
    history = json.loads((network / "metrics.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"] * 0.9
    found = score(network, hands, tmp_path / "scores")
    means = {name: one["mean"] for name, one in found["columns"].items()}
    assert found["people"] == FEW and not found["without_prediction"]
    assert set(means) == {"pa_mpjpe_mm", "pa_mpvpe_mm", "f_5mm", "f_15mm", "auc_joints", "auc_vertices"}
    # The training's own judge is another path to the same number.
    assert means["pa_mpjpe_mm"] == pytest.approx(history[-1]["val_pa_mpjpe_mm"], rel=0.01)
    assert history[-1]["val_pa_mpjpe_mm"] < history[0]["val_pa_mpjpe_mm"]
    assert found["statement"]["protocol"] == "freihand" and len(found["statement"]["joints"]) == 21
    assert list(found["statement"]["regressor"]) == ["J_regressor of body and five fingertips"]
    told = (tmp_path / "scores" / "scores.md").read_text()
    assert "root none" in told and f"| f_15mm | {means['f_15mm']:.4f} |" in told


def test_the_truth_itself_scores_nothing(hands: Path, network: Path) -> None:
    """Of a benchmark's reader and scorer: the truth's mesh in place of a prediction is without error."""
    benchmark = open_benchmark(
        (str(hands / "samples"),), protocol="freihand", truth=None, regressors=None, bodies=None
    )  # fmt: skip
    body = load_body_of(str(network))
    known = truth_reader(benchmark, body)(pq.read_table(hands / "samples"), RIGHT_HAND21)
    columns = scorer_of(benchmark.rules, body=body).columns(
        predicted=People(vertices_m=known.people.vertices_m), target=known.people
    )
    assert columns["pa_mpjpe_mm"].max() < 1e-2 and columns["pa_mpvpe_mm"].max() < 1e-2
    assert columns["f_5mm"].min() == 1
    joints = pq.read_table(hands / "samples").column("keypoints_3d_m").to_pylist()
    assert known.root_depth_m.tolist() == pytest.approx([row[2] for row in joints])  # the wrist comes first


def test_bodies_and_hands_are_not_scored_by_each_others_protocols(
    hands: Path, network: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hmr = Hmr(HmrConfig(backbone=18, input_width=64, input_height=64, width=32))
    of_bodies = take(tmp_path_factory.mktemp("spin"), "spin", {"model": spin(hmr)}, cached_body("low"))
    with pytest.raises(
        ValueError, match=r"open_world scores bodies, and what is in .* predicts right hands[\s\S]*: freihand"
    ):
        score(network, hands, tmp_path / "a", protocol="open_world")
    with pytest.raises(ValueError, match=r"freihand scores right hands, and what is in .* predicts bodies"):
        score(of_bodies, hands, tmp_path / "b")
    with pytest.raises(ValueError, match="no --truth"):
        score(network, hands, tmp_path / "c", truth="somewhere")
    with pytest.raises(ValueError, match="not of hands"):
        score(network, hands, tmp_path / "d", stage={"plausibility": True})
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_hands_without_mano_are_refused_by_name(hands: Path, network: Path, tmp_path: Path) -> None:
    table = pq.read_table(hands / "samples")
    at = table.schema.get_field_index("mano_valid")
    kind = table.schema.field(at)
    flags = pa.array([[False, row != 2] for row in range(FEW)], kind.type)
    (tmp_path / "samples").mkdir()
    pq.write_table(table.set_column(at, kind, flags), tmp_path / "samples" / "part.parquet")
    with pytest.raises(ValueError, match=r"1 people have no truth of this protocol .*tubes/test/0-2/0"):
        score(network, tmp_path, tmp_path / "scores")


@pytest.mark.slow
def test_stage_two_learns_manos_parameters_and_is_scored_by_its_own_mesh(
    hands: Path, network: Path, tmp_path: Path
) -> None:
    settings = {"init": "network", "weights": str(network), "model": dataclasses.replace(TINY, stage="param")}
    metrics = train(hands, tmp_path / "param", epochs=2, samples_per_epoch=FEW * 10, **settings)
    assert metrics[-1]["loss_pose_param"] < metrics[0]["loss_pose_param"]
    found = score(tmp_path / "param", hands, tmp_path / "scores")
    assert found["columns"]["pa_mpjpe_mm"]["mean"] == pytest.approx(metrics[-1]["val_pa_mpjpe_mm"], rel=0.01)


def test_crops_of_hands_are_never_mirrored_and_bring_manos_truth(hands: Path) -> None:
    source = open_source(str(hands / "samples"), "right_hand")
    feed = Feed("strong", (source,), FEW)
    found = [
        batch
        for batch in batches(
            feed, config=StreamConfig(readers=1), input_size=(64, 64), steps=range(8), device=torch.device("cpu")
        )
    ]
    assert not any(batch["flip"].any() for batch in found)
    assert any((batch["rotation_rad"] != 0).any() for batch in found), "all else is augmented"
    assert all(batch["mano_valid"].all() for batch in found) and "smpl_rotvec" not in found[0]


def test_samples_of_both_hands_give_the_right_one(tmp_path: Path) -> None:
    truth = write_samples(tmp_path / "samples", right_hand(tmp_path), 2, joint_set=INTERHAND42)
    found = hand_columns(pq.read_table(tmp_path / "samples"), INTERHAND42, weak=False)
    for name in ("keypoints_2d_px", "keypoints_3d_m", "mano_rotvec", "mano_betas", "mano_transl_m", "focal_px"):
        np.testing.assert_allclose(found[name], getattr(truth, name).numpy(), atol=1e-6, err_msg=name)
    assert found["mano_valid"].all() and found["mano_transl_valid"].all() and not found["weak"].any()
    hidden = hand_columns(pq.read_table(tmp_path / "samples"), INTERHAND42, weak=True)
    assert not hidden["mano_valid"].any() and not hidden["keypoints_3d_m"].any() and hidden["weak"].all()
    assert hidden["keypoints_2d_px"].any(), "2D alone is left"


def test_a_translation_that_is_not_known_is_said_to_be_so(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", right_hand(tmp_path), 2, placed=False)
    found = hand_columns(pq.read_table(tmp_path / "samples"), RIGHT_HAND21, weak=False)
    assert found["mano_valid"].all() and not found["mano_transl_valid"].any() and not found["mano_transl_m"].any()


def test_samples_that_are_no_hands_are_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", right_hand(tmp_path), 2, joint_set=COCO17)
    with pytest.raises(ValueError, match=r"not of right hands: .*coco17, which lacks right_thumb1"):
        open_source(str(tmp_path / "samples"), "right_hand")


def test_samples_of_left_hands_alone_hold_no_3d_for_a_right_one(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", right_hand(tmp_path), 1)
    assert holds_3d(open_source(str(tmp_path / "samples"), "right_hand"))
    table = pq.read_table(tmp_path / "samples")
    for name in ("keypoints_3d_m", "mano_valid"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.nulls(1, table.schema.field(at).type))
    pq.write_table(table, tmp_path / "samples" / "part-00000.parquet")
    assert not holds_3d(open_source(str(tmp_path / "samples"), "right_hand"))


@pytest.mark.parametrize(
    ("training", "labels", "said"),
    [
        (HmrTraining(weak_share=0.0), (), "only I2L-MeshNet is built for hands"),
        (LixelTraining(weak_share=0.0), (), r"2 m deep are for bodies[\s\S]*box-m 0.3"),
        (LixelTraining(model=TINY), (".",), "labels are of bodies"),
    ],
)
def test_what_a_hand_cannot_be_trained_with_is_told(
    hands: Path, tmp_path: Path, training: Any, labels: tuple[str, ...], said: str
) -> None:
    kind: Any = train_estimator.Hmr if isinstance(training, HmrTraining) else train_estimator.Lixel
    samples = (str(hands / "samples"),)
    with pytest.raises(ValueError, match=said):
        train_estimator.main(kind(
            strong=samples, weak=samples if labels else (), labels=tuple(str(hands / name) for name in labels),
            out=str(tmp_path / "run"),
            body=str(hands / "MANO_RIGHT.npz"), training=training,
        ))  # fmt: skip


def test_the_preset_for_hands_is_the_releases() -> None:
    published = PRESETS["lixel"]["hands"]
    assert isinstance(published, LixelTraining)
    assert (published.model.box_m, published.epochs, published.learning_rate) == (0.3, 25, 1e-4)
    assert not published.loss.joint_orig and published.weak_share == 0
    rates = [published.learning_rate_at(epoch, steps=1) for epoch in range(25)]
    np.testing.assert_allclose(rates, [1e-4] * 17 + [1e-5] * 4 + [1e-6] * 4)


def test_a_run_of_hands_loads_as_it_was_saved(network: Path) -> None:
    found = load_estimator(str(network))
    with torch.no_grad():
        assert found(torch.rand(1, 3, 64, 64)).mesh.shape == (1, 778, 3)
