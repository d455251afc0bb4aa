"""LSP-Extended: 10,000 pictures of parkour, gymnastics and athletics, one person labelled in each.

Johnson and Everingham, 2011 (http://sam.johnson.io/research/lspet.html): `joints.mat` and `images/im00001.jpg` …
Licence: none is stated; pictures of Flickr, for research. The standard use is to train on all of it; there is no split,
and nothing is subsampled. `joints` is (14, 3, pictures): x, y, visible, in pixels of the whole picture, y down, which
was reduced so that the person is about 150 px long. Sides are the person's.

Traps. A joint that is not visible holds zeros or junk, even far outside the picture: it is unlabelled, and its numbers
are dropped. Labels are clicks of Mechanical Turk, with fractions; nowhere is said whether they count pixels from 0 or
from 1, so they stay as they are. The last joint is the top of the head, `head_top` here. There are no boxes: the
keypoints' box takes their place. Two datasets look alike and are refused: LSP itself, whose `joints` is (3, 14,
pictures) with a third row that says who is HIDDEN; and HR-LSPET, whose PNGs lie beside joints.mat, some missing,
so that the number of a picture is not its column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.matlab import load_mat
from mesh_lib.datasets.people import Files, Person, Reader, array, need

LSPET14 = JointSet(
    "lspet14",
    (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
        "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
    ),
)  # fmt: skip

EXPECTED = "LSP-Extended's joints.mat: `joints`, (14, 3, pictures) of x, y, visible"
FIX = "pass the folder lspet_dataset, with joints.mat and images (http://sam.johnson.io/research/lspet.html)"


@dataclass(frozen=True, kw_only=True)
class Lspet(Reader):
    """LSP-Extended: sports, one person a picture."""

    folder: str
    """lspet_dataset, with joints.mat and images/im00001.jpg …"""

    @property
    def joint_set(self) -> JointSet:
        return LSPET14

    @property
    def inputs(self) -> Sequence[str]:
        return (self.folder,)

    def units(self, files: Files) -> list[str]:
        path = need(files, self._file("joints.mat"), what="joints.mat of LSP-Extended", fix=FIX)
        if not files.exists(self._file("images/im00001.jpg")):
            names = ("im00001.png", "images/im00001.png")
            if any(files.exists(self._file(name)) for name in names) or files.list(self.folder, ".png"):
                raise ValueError(
                    f"{self.folder} holds PNGs: it is HR-LSPET, of which pictures are missing, and is not read\n"
                    f"  fix: {FIX}"
                )
        return [path]

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        joints = load_mat(files, unit, "joints", expected=EXPECTED)["joints"]
        if joints.ndim == 3 and joints.shape[:2] == (3, 14):
            raise ValueError(
                f"{unit}: joints has shape {joints.shape}: it is LSP, whose third row says who is hidden, "
                f"not LSP-Extended\n  expected: {EXPECTED}\n  fix: {FIX}"
            )
        joints = array(joints, (len(LSPET14), 3, -1), what="joints", where=unit)
        for i in range(joints.shape[2]):
            name = f"im{i + 1:05d}"
            visible = ~(joints[:, 2:, i] <= 0)
            yield Person(
                image_id=name,
                person_id="0",
                picture=self._file(f"images/{name}.jpg"),
                keypoints_2d_px=np.where(visible, np.hstack([joints[:, :2, i], visible]), 0.0),
            )

    def _file(self, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{name}"
