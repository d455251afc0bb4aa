"""Trained estimators g on disk. A Pose2Pose lies as annotators do, so that f and g can stand in for one another."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import torch

from mesh_lib.body.files import Body, load_body
from mesh_lib.body.hands import check_right_hand, is_hand
from mesh_lib.geometry.lixels import BODY_BOX_M, HAND_BOX_M
from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.checkpoints import Fit, depth_of, fit_state
from mesh_lib.nets.estimators import Estimator, EstimatorConfig, build_estimator
from mesh_lib.nets.hmr import HmrConfig, HmrEstimator, rename_spin
from mesh_lib.nets.lixel import I2LMeshNet, LixelConfig, rename_lixel
from mesh_lib.nets.lixel_heads import HeadConfig
from pipelines import annotators, runs, storage
from pipelines.bodies import load_body_of, put_body

WEIGHTS = "estimator.safetensors"
ANNOTATOR = "Pose2PoseConfig"
"""The kind of network that annotators.py keeps."""
LISTED = 5


def import_estimator(
    run: runs.Run,
    *,
    state: Mapping[str, torch.Tensor],
    body: str,
    input_size: tuple[int, int] | None = None,
    stage: Literal["lixel", "param"] = "lixel",
) -> Fit:
    """A published SPIN (or HMR of its names) or I2L-MeshNet as an estimator in the run folder; which name went where.

    Its kind, backbone and widths are told by its tensors, whether it is of bodies or of hands by the body. `input_size`
    None is the published one. Raises ValueError for another architecture, for a checkpoint that holds less than the
    whole network, and for a body that it was not trained with.
    """
    model = load_body(body)
    config = _published_config(state, body=model, input_size=input_size, stage=stage)
    network = build_estimator(config, body=model)
    if isinstance(network, I2LMeshNet):
        found = fit_state(network, state, rename=rename_lixel)
        # Both stages are in the owners' last snapshot; one of the first stage alone is whole without the second.
        absent = [name for name in found.absent if stage == "param" or not name.startswith("param_regressor.")]
    else:
        assert isinstance(network, HmrEstimator)
        found = fit_state(network.regressor, state, rename=rename_spin)
        absent = list(found.absent)
    if absent:
        raise ValueError(f"the checkpoint holds no whole network (it lacks {', '.join(absent[:LISTED])}): {found}")
    put_body(body, run.folder)
    save_estimator(network, run.folder)
    storage.write_json(run.path("import.json"), dataclasses.asdict(found))
    return found


def _published_config(
    state: Mapping[str, torch.Tensor],
    *,
    body: Body,
    input_size: tuple[int, int] | None,
    stage: Literal["lixel", "param"],
) -> HmrConfig | LixelConfig:
    """Settings that a checkpoint's tensors tell."""
    size: dict[str, Any] = {} if input_size is None else {"input_width": input_size[0], "input_height": input_size[1]}
    if "decpose.weight" in state and "fc1.weight" in state:
        if stage == "param":
            raise ValueError("stages are I2L-MeshNet's; this is HMR or SPIN\n  fix: leave --stage out")
        return HmrConfig(backbone=depth_of(state), width=len(state["fc1.weight"]), **size)
    named = ("mesh_net.deconv.0.weight", "mesh_net.conv_x.0.weight", "mesh_net.conv_z_1.0.weight")
    if lacking := [name for name in named if name not in state]:
        told = ", ".join(sorted({name.partition(".")[0] for name in state})[:8])
        raise ValueError(
            f"the checkpoint is neither SPIN (no decpose) nor I2L-MeshNet (no {lacking[0]}); it holds {told}\n"
            "  fix: networks of the Pose2Pose family are imported by jobs/import_annotator.py"
        )
    deconv, points, depth = (state[name] for name in named)
    if len(points) != len(body.v_template):
        raise ValueError(
            f"this I2L-MeshNet answers with {len(points)} vertices, and --body has {len(body.v_template)}\n"
            "  fix: pass the body it was trained with: SMPL has 6890, MANO 778"
        )
    if is_hand(body):
        check_right_hand(body)
    backbone = {name.partition(".")[2]: v for name, v in state.items() if name.startswith("pose_backbone.")}
    channels = deconv.shape[1]
    return LixelConfig(
        backbone=depth_of(backbone), depth_bins=len(depth) // channels, head=HeadConfig(channels=channels), stage=stage,
        box_m=HAND_BOX_M if is_hand(body) else BODY_BOX_M, **size,
    )  # fmt: skip


def save_estimator(network: Estimator, folder: str, *, kind: str = "") -> None:
    """Weights and model settings; the body is put beside them when the run starts."""
    if isinstance(network, Annotator):
        annotators.save_annotator(network, folder, kind=kind)
        return
    storage.write_json(storage.join(folder, annotators.MODEL), runs.plain(network.config))
    name = annotators.weights_file(WEIGHTS, kind)
    annotators.write_weights(network.state_dict(), storage.join(folder, name))


def load_estimator(folder: str) -> Estimator:
    """The network of a finished run, f's included, in evaluation mode.

    Raises ValueError for a folder that is no such run, and for weights of another architecture.
    """
    config = load_config(folder)
    if config is None:
        return annotators.load_annotator(folder)
    network = build_estimator(config, body=load_body_of(folder))
    annotators.load_whole(network, annotators.read_weights(storage.join(folder, WEIGHTS)), where=folder)
    return network.eval()


def load_config(folder: str) -> EstimatorConfig | None:
    """The model settings of a finished run; None for one that annotators.py reads.

    Raises ValueError for a folder that is no such run.
    """
    runs.load_run(folder, job=annotators.MAKERS)
    settings: dict[str, Any] = storage.read_json(storage.join(folder, annotators.MODEL))
    kind = settings.pop("kind", ANNOTATOR)
    try:
        match kind:
            case "Pose2PoseConfig":
                return None
            case "HmrConfig":
                return HmrConfig(**settings)
            case "LixelConfig":
                head = {name: value for name, value in settings.pop("head").items() if name != "kind"}
                return LixelConfig(**settings, head=HeadConfig(**head))
    except TypeError as error:
        raise ValueError(f"{folder}/{annotators.MODEL} has settings that this version does not know: {error}") from None
    raise ValueError(f"{folder}/{annotators.MODEL} is of a network that this version does not know: {kind}")


def input_size(folder: str) -> tuple[int, int]:
    """(width, height) of the crops that a run's network takes."""
    return (load_config(folder) or annotators.load_config(folder)).input_size


def weights_sha256(folder: str) -> str:
    """SHA-256 of a run's weights, for lineage."""
    if load_config(folder) is None:
        return annotators.weights_sha256(folder)
    return hashlib.sha256(storage.read_bytes(storage.join(folder, WEIGHTS))).hexdigest()
