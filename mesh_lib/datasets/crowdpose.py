"""CrowdPose: people in crowds, 14 keypoints each.

Li et al., 2019 (https://github.com/Jeff-sjtu/CrowdPose): `json/crowdpose_{train,val,trainval,test}.json` and
`images/%06d.jpg`, pictures of COCO, MPII and AI Challenger. Licence: non-commercial research only. The format is
COCO's: pixels of the whole picture, y down, integers at pixel centres; v is 0 not labelled, 1 labelled but hidden,
2 visible. The standard split is the owners' (train 10,000 pictures, val 2,000, test 8,000; trainval is train and val):
one file each. Nothing is subsampled.

Traps. The owners' files carry COCO's skeleton, whose numbers go up to 17: the order of the joints is taken from the
paper, not from it. What they call "head" is the top of the head, so it is `head_top` here. Many people have a box and
no keypoint at all; they stay, and ingest counts them as without keypoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.coco_like import CocoLike
from mesh_lib.datasets.people import Files, Person, Reader, need

CROWDPOSE14 = JointSet(
    "crowdpose14",
    (
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head_top", "neck",
    ),
)  # fmt: skip

FIX = "pass the dataset's json/crowdpose_*.json (https://github.com/Jeff-sjtu/CrowdPose)"


@dataclass(frozen=True, kw_only=True)
class CrowdPose(Reader):
    """CrowdPose: people in crowds."""

    annotations: str
    """json/crowdpose_{train,val,trainval,test}.json"""
    images: str
    """Folder of the pictures."""

    @property
    def joint_set(self) -> JointSet:
        return CROWDPOSE14

    @property
    def inputs(self) -> Sequence[str]:
        return self.annotations, self.images

    def units(self, files: Files) -> list[str]:
        return [need(files, self.annotations, what="annotation file", fix=FIX)]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        file = CocoLike(annotations=unit, images=self.images, joints=CROWDPOSE14, fix=FIX)
        yield from file.people(unit, files, skipped)
