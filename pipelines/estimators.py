"""Trained estimators g on disk. A Pose2Pose lies as annotators do, so that f and g can stand in for one another."""

from __future__ import annotations

import hashlib
from typing import Any

from mesh_lib.nets.annotator import Annotator
from mesh_lib.nets.estimators import Estimator, EstimatorConfig, build_estimator
from mesh_lib.nets.hmr import HmrConfig
from mesh_lib.nets.lixel import LixelConfig
from mesh_lib.nets.lixel_heads import HeadConfig
from pipelines import annotators, runs, storage
from pipelines.bodies import load_body_of

WEIGHTS = "estimator.safetensors"
ANNOTATOR = "Pose2PoseConfig"
"""The kind of network that annotators.py keeps."""


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
