"""One tree of all joints that any set names: which joint a bone comes from, whatever the set leaves out between.

From the pelvis outwards. A set's parents are the nearest ancestors that it has, so that a skeleton can be drawn, or
bone lengths compared, for every dataset alike.
"""

from __future__ import annotations

from mesh_lib.body.joints import FACE68, FINGERS, JointSet

_TRUNK = {
    "spine1": "pelvis", "belly": "spine1", "spine": "belly", "spine2": "spine", "chest_lower": "spine2",
    "spine3": "chest_lower", "chest_upper": "spine3", "thorax": "chest_upper", "mid_shoulder": "thorax",
    "neck": "mid_shoulder", "upper_neck": "neck", "face": "upper_neck", "head": "face", "head_top": "head",
    "nose": "head", "nose_tip": "nose",
}  # fmt: skip
_SIDED = {
    "hip": "pelvis", "knee": "{}_hip", "ankle": "{}_knee", "heel": "{}_ankle", "foot_middle": "{}_ankle",
    "foot": "{}_foot_middle", "toe": "{}_foot", "big_toe": "{}_foot", "small_toe": "{}_foot",
    "clavicle": "neck", "collar": "{}_clavicle", "shoulder": "{}_collar", "elbow": "{}_shoulder", "wrist": "{}_elbow",
    "hand": "{}_wrist", "hand_root": "{}_wrist", "eye": "nose", "ear": "{}_eye", "pupil": "{}_eye",
}  # fmt: skip


def _tree() -> dict[str, str]:
    tree = dict(_TRUNK)
    for side in ("left", "right"):
        tree |= {f"{side}_{joint}": parent.format(side) for joint, parent in _SIDED.items()}
        for finger in FINGERS:
            tree[f"{side}_{finger}1"] = f"{side}_hand_root"
            tree |= {f"{side}_{finger}{i}": f"{side}_{finger}{i - 1}" for i in range(2, 5)}
    for name in FACE68.names:
        tree.setdefault(name, "nose_tip")
    return tree


PARENT = _tree()
"""Parent of each joint but the pelvis."""


def parents(joint_set: JointSet) -> tuple[int, ...]:
    """For each joint of a set the index of its nearest ancestor there; -1 for one that has none.

    Raises ValueError for a joint that is not in the tree.
    """
    found = []
    for name in joint_set.names:
        above = name
        while True:
            if above != "pelvis" and above not in PARENT:
                raise ValueError(f"joint {above!r} of {joint_set.name} has no place in the tree of joints")
            above = PARENT.get(above, "")
            if not above or above in joint_set.names:
                break
        found.append(joint_set.index(above) if above else -1)
    return tuple(found)
