"""NeuralAnnot's JSON (Moon et al., 2022): {annotation id: {"smpl_param": …, "cam_param": …}}.

`smpl_param` has `pose` 72, `shape` 10 and `trans` 3; `cam_param` the `focal` and `princpt` of the person's virtual
crop camera in the whole picture's pixels: our own camera, number for number (docs/cameras.md). That is the published
form of datasets in the wild; others are nested or lack the camera, and are neither written nor read here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mesh_lib.formats.batch import Labels, plain


def entries(labels: Labels) -> list[tuple[str, dict[str, Any]]]:
    """(annotation id, entry) for each label of a batch."""
    return [
        (
            labels.person_id[i],
            {
                "smpl_param": {
                    "pose": plain(labels.rotvec[i]), "shape": plain(labels.betas[i]), "trans": plain(labels.transl_m[i])
                },
                "cam_param": {"focal": plain(labels.focal_px[i]), "princpt": plain(labels.princpt_px[i])},
            },
        )
        for i in range(len(labels))
    ]  # fmt: skip


def read_entry(key: str, entry: Any, *, where: str) -> dict[str, Any]:
    """One entry as parameters and our camera. Raises ValueError for one that is not of NeuralAnnot's SMPL files."""
    try:
        if "smpl_param" not in entry:
            raise ValueError(
                "it has no smpl_param. Of files in other forms, Human3.6M's (SMPL) and InterHand2.6M's (MANO) are read "
                "with their datasets, by jobs/ingest.py; MPI-INF-3DHP's, 3DPW's, and those of SMPL-X and FLAME are not"
            )
        smpl, camera = entry["smpl_param"], entry["cam_param"]
        return {
            "person_id": key,
            "rotvec": np.asarray(smpl["pose"], np.float64).reshape(24, 3),
            "betas": np.asarray(smpl["shape"], np.float64).reshape(10),
            "transl_m": np.asarray(smpl["trans"], np.float64).reshape(3),
            "focal_px": np.asarray(camera["focal"], np.float64).reshape(2),
            "princpt_px": np.asarray(camera["princpt"], np.float64).reshape(2),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: entry {key} is not NeuralAnnot's: {error}") from None
