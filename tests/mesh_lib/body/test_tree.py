"""Every joint set: left stays left, mirror pairs and parents are complete."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from mesh_lib import datasets
from mesh_lib.body.joints import BODY33, COCO17, JOINT_SETS, SMPL24, SMPL_PARENTS, JointSet, mirror_name
from mesh_lib.body.tree import PARENT, parents
from mesh_lib.datasets.readers import READERS

MODULES = [importlib.import_module(f"mesh_lib.datasets.{one.name}") for one in pkgutil.iter_modules(datasets.__path__)]
SETS = {
    found.name: found for module in MODULES for found in vars(module).values() if isinstance(found, JointSet)
} | JOINT_SETS


def test_the_sets_of_all_readers_are_looked_at() -> None:
    assert len(SETS) >= 20 and len(READERS) == 16


@pytest.mark.parametrize("name", SETS)
def test_sides_come_in_pairs_that_mirror_into_each_other(name: str) -> None:
    joint_set = SETS[name]
    one_sided = {"right_hand21"}
    for i, joint in enumerate(joint_set.names):
        assert not joint.startswith(("l_", "r_", "L", "R")), joint
        if name in one_sided:
            assert joint.startswith("right_")
            continue
        assert joint_set.mirror[joint_set.mirror[i]] == i
        if joint.startswith(("left_", "right_")):
            assert joint_set.names[joint_set.mirror[i]] == mirror_name(joint) != joint
        else:
            assert joint_set.mirror[i] == i


@pytest.mark.parametrize("name", SETS)
def test_every_joint_has_a_parent_and_sides_have_parents_alike(name: str) -> None:
    joint_set = SETS[name]
    found = parents(joint_set)
    for i in range(len(found)):
        above, seen = i, set()
        while above >= 0:  # up to a root, in no circle
            assert above not in seen
            seen.add(above)
            above = found[above]
        if name != "right_hand21":
            mirrored = found[joint_set.mirror[i]]
            assert mirrored == (joint_set.mirror[found[i]] if found[i] >= 0 else -1)


def test_parents_of_known_joints() -> None:
    assert parents(SMPL24)[:9] == SMPL_PARENTS[:9]
    coco = parents(COCO17)
    assert coco[COCO17.index("left_wrist")] == COCO17.index("left_elbow")
    assert coco[COCO17.index("right_ear")] == COCO17.index("right_eye")
    assert coco[COCO17.index("left_shoulder")] == -1  # COCO has neither neck nor pelvis
    assert parents(BODY33)[BODY33.index("left_index1")] == BODY33.index("left_wrist")
    assert parents(BODY33)[BODY33.index("left_big_toe")] == BODY33.index("left_ankle")
    assert all(parent in PARENT or parent == "pelvis" for parent in PARENT.values())


def test_a_joint_without_a_place_is_named() -> None:
    with pytest.raises(ValueError, match="'tail' of cats"):
        parents(JointSet("cats", ("pelvis", "tail")))
