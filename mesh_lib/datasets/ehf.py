"""EHF: a hundred pictures of one man, whose SMPL-X meshes are the usual test of bodies with hands and faces.

Pavlakos et al., 2019 (https://smpl-x.is.tue.mpg.de, after registration). Licence: non-commercial research only. One
folder: `01_img.png` (or .jpg) … `100_img.png`, `01_2Djnt.json` (OpenPose: body 25, face 70, hands 21 each),
`01_align.ply` (the mesh: 10,475 vertices of SMPL-X, metres, in a world with y up), `EHF_camera.txt`. One camera took
them all; it is written down here, and takes that world to ours: `camera.to_camera(vertices)`. All of it is for tests.

Traps. The 2D joints are detections, pixels of the whole picture; a joint that was not found is (0, 0) with confidence
0; OpenPose's traps are told in mesh_lib/datasets/openpose.py. The meshes are not read: rows have 2D and a camera, no
3D. Of several detections in a picture the first is the man.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets import json_stream
from mesh_lib.datasets.openpose import OPENPOSE137, detection
from mesh_lib.datasets.people import ITW_2D, Camera, Files, Person, Reader, base_name

CAMERA = Camera(
    focal_px=np.array([1498.22426237, 1498.22426237]),
    princpt_px=np.array([790.263706, 578.90334]),
    rotation=Rotation.from_rotvec([-2.98747896, 0.01172457, -0.05704687]).as_matrix(),
    translation_m=np.array([-0.03609917, 0.43416458, 2.37101226]),
)
"""EHF_camera.txt"""
LABELS = "_2Djnt.json"


@dataclass(frozen=True, kw_only=True)
class Ehf(Reader):
    """EHF (Expressive Hands and Faces): 2D detections and the camera."""

    folder: str
    """Folder of *_2Djnt.json and *_img.png or *_img.jpg."""

    @property
    def joint_set(self) -> JointSet:
        return OPENPOSE137

    @property
    def inputs(self) -> Sequence[str]:
        return (self.folder,)

    def units(self, files: Files) -> list[list[str]]:
        if not (found := files.list(self.folder, LABELS)):
            raise ValueError(
                f"no *{LABELS} in {self.folder}\n  fix: pass the folder of EHF (https://smpl-x.is.tue.mpg.de, EHF.zip)"
            )
        return [found]

    def people(self, unit: list[str], files: Files, skipped: Counter[str]) -> Iterator[Person]:
        for path in unit:
            with files.open(path) as stream:
                content = json_stream.entries(stream, "people", where=path)
                detections = [(key, entry) for _, key, entry in content]
            if not detections:
                skipped["no_detection"] += 1
                continue
            if len(detections) > 1:
                skipped["other_detection"] += len(detections) - 1
            name = path.removesuffix(LABELS)
            picture = f"{name}_img.png"
            yield Person(
                image_id=f"{base_name(name)}_img",
                person_id="0",
                picture=picture if files.exists(picture) else f"{name}_img.jpg",
                keypoints_2d_px=detection(detections[0][1], where=path),
                camera=CAMERA,
                supervision=ITW_2D,
            )
