"""Files in COCO's format whose people have other joints than COCO's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mesh_lib.body.joints import JointSet
from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.people import Files, Person


@dataclass(frozen=True, kw_only=True)
class CocoLike(Coco):
    """People of one file; used by readers, and none itself."""

    joints: JointSet
    fix: str
    """What to pass instead of a file that has other joints."""

    @property
    def joint_set(self) -> JointSet:
        return self.joints

    def people(self, unit: str, files: Files, skipped: Counter[str]) -> Iterator[Person]:
        found, before = 0, skipped["malformed_keypoints"]
        for person in super().people(unit, files, skipped):
            found += 1
            yield person
        malformed = skipped["malformed_keypoints"] - before
        if malformed and not found:
            raise ValueError(
                f"{unit}: none of {malformed} records has x, y, v of the {len(self.joints)} joints {self.joints.name}\n"
                f"  fix: {self.fix}"
            )
