"""What people do, in anatomical angles: one function a posture, each fills (n, 24, 3) degrees and the tilt.

The three numbers of a joint follow the axes of `poses.JOINT_LIMITS`; the same sign is the same movement on the
left and on the right. The tilt is (turn, pitch, spin about the body's own long axis, roll).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mesh_lib.body.joints import SMPL24

Rng = np.random.Generator
Posture = tuple[np.ndarray, np.ndarray]

_J = {name: i for i, name in enumerate(SMPL24.names)}
_BOTH = {
    part: [_J[f"left_{part}"], _J[f"right_{part}"]]
    for part in ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")
}
_SPINE = [_J["spine1"], _J["spine2"], _J["spine3"]]

# swing, raise, twist of the shoulder; bend, turn of the elbow: mean and spread, degrees
_ARMS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "hang": ((4, -77, 2, -18, 0), (11, 5, 14, 11, 22)),
    "hold": ((-18, -74, 24, -88, 10), (16, 8, 12, 24, 30)),
    "akimbo": ((26, -45, 64, -95, 0), (7, 6, 9, 9, 15)),
    "fold": ((-30, -82, 45, -98, 20), (8, 6, 8, 9, 15)),
    "forward": ((-80, -76, 5, -18, 0), (18, 12, 25, 18, 35)),
    "overhead": ((-160, -62, 0, -28, 0), (16, 14, 28, 22, 30)),
    "side": ((-25, -22, 0, -22, 0), (35, 14, 35, 22, 30)),
    "wave": ((-95, -32, 0, -72, 0), (18, 13, 20, 28, 25)),
    "face": ((-42, -62, 20, -132, 0), (12, 11, 12, 8, 20)),
    "back": ((38, -72, 40, -50, 0), (7, 6, 16, 18, 20)),
}
_ARM_NAMES = tuple(_ARMS)
_ARM_MEAN, _ARM_SPREAD = (np.array([_ARMS[name][i] for name in _ARM_NAMES], np.float32) for i in (0, 1))
_ARM_WEIGHTS = np.array([0.42, 0.16, 0.06, 0.05, 0.07, 0.05, 0.07, 0.04, 0.05, 0.03])


def _at(*parts: np.ndarray | list[int]) -> tuple[np.ndarray, ...]:
    """Index of every combination of people, joints (and angles)."""
    return np.ix_(*(np.asarray(part) for part in parts))


def set_arms(angles: np.ndarray, rng: Rng, style: str | tuple[str, ...] | None = None) -> None:
    """Draw both arms: of the given style, of one of several, or of any; two arms often do the same."""
    count = len(angles)
    if style is None:
        kinds = rng.choice(len(_ARM_NAMES), (count, 2), p=_ARM_WEIGHTS / _ARM_WEIGHTS.sum())
    else:
        names = (style,) if isinstance(style, str) else style
        kinds = np.array([_ARM_NAMES.index(name) for name in names])[rng.integers(len(names), size=(count, 2))]
    same = rng.random(count) < 0.55
    kinds[same, 1] = kinds[same, 0]
    shared, own = rng.standard_normal((count, 1, 5)), rng.standard_normal((count, 2, 5))
    arms = _ARM_MEAN[kinds] + _ARM_SPREAD[kinds] * (0.6 * shared + 0.8 * own)
    angles[:, _BOTH["shoulder"]] = arms[..., :3]
    elbow = angles[:, _BOTH["elbow"]]
    elbow[..., 0], elbow[..., 2] = np.minimum(arms[..., 3], -2), arms[..., 4]
    angles[:, _BOTH["elbow"]] = elbow
    angles[:, _BOTH["wrist"]] = rng.normal(0, (14, 7, 3), (count, 2, 3))
    lifted = np.clip((-arms[..., 0] - 60) / 100, 0, 1)  # raised arms take the shoulder blades with them
    angles[:, _BOTH["collar"]] = np.stack([18 * lifted, 0 * lifted, 0 * lifted], -1) + rng.normal(
        0, (3, 4, 2), (count, 2, 3)
    )


def _bend(angles: np.ndarray, rng: Rng, flex: np.ndarray, side: np.ndarray, turn: np.ndarray) -> None:
    """Share a bend of the whole back over its three joints."""
    share = rng.dirichlet((12, 14, 10), len(angles))
    angles[:, _SPINE] = share[..., None] * np.stack([flex, side, turn], -1)[:, None]


def _look(angles: np.ndarray, rng: Rng, lean: np.ndarray) -> None:
    """Look about, and keep the gaze roughly level when the trunk leans by `lean`."""
    turn, nod, roll = (rng.normal(0, spread, len(angles)) for spread in (26, 11, 8))
    look = np.stack([turn, 6 + nod - 0.55 * lean, roll], -1) / 2
    angles[:, _J["neck"]], angles[:, _J["head"]] = look * 0.8, look * 1.2


def _legs(angles: np.ndarray, pitch: np.ndarray, thigh: np.ndarray, shin: np.ndarray, foot: np.ndarray) -> None:
    """Set hips, knees and ankles from the pitch of (n, 2) thighs, shins and feet in the world; 0 hangs down."""
    knee = np.maximum(shin - thigh, 1)
    angles[:, _BOTH["hip"], 0] = thigh - pitch[:, None]
    angles[:, _BOTH["knee"], 0] = knee
    angles[:, _BOTH["ankle"], 0] = foot - (thigh + knee)


def _spread(angles: np.ndarray, rng: Rng, out: tuple[int, int], toes: tuple[int, int]) -> None:
    """Open the legs sideways and turn the toes out; feet stay flat on the ground."""
    count = len(angles)
    angles[:, _BOTH["hip"], 1] = rng.normal(*out, (count, 2))
    angles[:, _BOTH["hip"], 2] = rng.normal(*toes, (count, 2))
    angles[:, _BOTH["ankle"], 1] = -angles[:, _BOTH["hip"], 1]
    angles[:, _BOTH["foot"], 0] = rng.normal(-3, 4, (count, 2))


def _start(count: int) -> Posture:
    return np.zeros((count, 24, 3), np.float32), np.zeros((count, 4), np.float32)


def _upright(rng: Rng, count: int, *, pitch: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    angles, tilt = _start(count)
    tilt[:, 1], tilt[:, 3] = rng.normal(*pitch, count), rng.normal(0, 2.5, count)
    return angles, tilt


def stand(rng: Rng, count: int) -> Posture:
    angles, tilt = _upright(rng, count, pitch=(3, 4))
    shin = np.abs(rng.normal(0, 4, (count, 2)))
    relaxed = rng.integers(2, size=count)  # weight on one leg, the other knee gives way
    shin[np.arange(count), relaxed] += np.abs(rng.normal(0, 9, count))
    thigh = -0.7 * shin + rng.normal(0, 5, (count, 1)) * np.array([1, -1])
    _legs(angles, tilt[:, 1], thigh, shin, np.zeros((count, 2)))
    _spread(angles, rng, (5, 4), (8, 7))
    _bend(angles, rng, rng.normal(4, 9, count), rng.normal(0, 5, count), rng.normal(0, 9, count))
    set_arms(angles, rng)
    _look(angles, rng, tilt[:, 1])
    return angles, tilt


def walk(rng: Rng, count: int) -> Posture:
    running = rng.random(count) < 0.3
    stride = np.where(running, rng.uniform(1.1, 1.7, count), rng.uniform(0.5, 1.15, count))
    angles, tilt = _upright(rng, count, pitch=(4, 3))
    tilt[:, 1] += np.where(running, 8, 0)
    phase = (rng.uniform(0, 2 * np.pi, (count, 1)) + np.array([0, np.pi])) % (2 * np.pi)
    reach, fast = stride[:, None], running[:, None]
    thigh = -4 - 8 * fast - 24 * reach * np.cos(phase)
    swing = np.exp(-np.square((phase - 1.35 * np.pi) / (0.30 * np.pi)))
    knee = 7 + 8 * fast + np.where(fast, 58, 48) * reach * swing
    half_turns = np.array([0, 0.2, 0.7, 1.0, 1.3, 1.7, 2.0]) * np.pi
    foot = np.interp(phase, half_turns, [-18, 0, 2, 32, 42, 5, -18])
    _legs(angles, tilt[:, 1], thigh, thigh + knee, foot)
    _spread(angles, rng, (2, 2), (5, 5))
    angles[:, _BOTH["foot"], 0] = np.interp(phase, half_turns, [0, 0, -8, -30, -10, 0, 0])
    twist = 7 * stride * np.cos(phase[:, 0]) + rng.normal(0, 3, count)
    _bend(angles, rng, rng.normal(5, 5, count), rng.normal(0, 3, count), twist)
    set_arms(angles, rng, "hang")
    arm_swing = np.where(fast, 30, 22) * reach * np.cos(phase) + 3
    busy = rng.random(count) < 0.2  # one hand carries, points or phones
    angles[:, _BOTH["shoulder"], 0] = arm_swing + rng.normal(0, 5, (count, 2))
    bend = np.where(fast, -85, -20) - 12 * reach * (1 - np.cos(phase)) / 2
    angles[:, _BOTH["elbow"], 0] = np.minimum(bend + rng.normal(0, 9, (count, 2)), -3)
    other = np.zeros_like(angles)
    set_arms(other, rng)
    arm = [_J[f"left_{part}"] for part in ("collar", "shoulder", "elbow", "wrist")]
    angles[_at(busy, arm)] = other[_at(busy, arm)]
    _look(angles, rng, tilt[:, 1])
    return angles, tilt


def sit(rng: Rng, count: int) -> Posture:
    """On chairs (most), on the floor with crossed legs, or on the floor with straight legs."""
    kind = rng.choice(3, count, p=(0.72, 0.16, 0.12))[:, None]
    angles, tilt = _upright(rng, count, pitch=(-6, 9))
    thigh = np.choose(kind, [-86, -112, -90]) + rng.normal(0, 7, (count, 2))
    knee = np.choose(kind, [88, 118, 14]) + rng.normal(0, (12, 12), (count, 2))
    shin = thigh + np.maximum(knee, 3)
    foot = np.choose(kind, [0, 30, -70]) + rng.normal(0, 8, (count, 2))
    _legs(angles, tilt[:, 1], thigh, shin, foot)
    _spread(angles, rng, (9, 8), (4, 7))
    crossed = kind[:, 0] == 1
    angles[_at(crossed, _BOTH["hip"], [1, 2])] = rng.normal((36, 40), (5, 7), (crossed.sum(), 2, 2))
    angles[:, _BOTH["ankle"], 1] *= 0.3
    legs_over = (rng.random(count) < 0.2) & (kind[:, 0] == 0)  # one leg over the other
    angles[legs_over, _J["left_hip"], 0] -= 16
    angles[legs_over, _J["left_hip"], 1] = rng.normal(-17, 3, legs_over.sum())
    lean = np.where(kind[:, 0] == 0, rng.normal(14, 16, count), rng.normal(22, 12, count))
    _bend(angles, rng, lean, rng.normal(0, 6, count), rng.normal(0, 10, count))
    set_arms(angles, rng, ("hold", "hold", "hold", "hang", "forward", "face", "fold", "wave", "side"))
    on_lap = rng.random(count) < 0.4
    angles[_at(on_lap, _BOTH["shoulder"], [0])] = rng.normal(-22, 8, (on_lap.sum(), 2, 1))
    angles[_at(on_lap, _BOTH["elbow"], [0])] = rng.normal(-55, 12, (on_lap.sum(), 2, 1))
    _look(angles, rng, tilt[:, 1] + 0.8 * lean)
    return angles, tilt


def crouch(rng: Rng, count: int) -> Posture:
    """Squats and half-kneeling: knees forwards over flat feet, the trunk leans to keep the balance."""
    depth = rng.uniform(0.25, 1, count)
    angles, tilt = _upright(rng, count, pitch=(0, 6))
    tilt[:, 1] += 12 + 22 * depth
    shin = (12 + 20 * depth)[:, None] + rng.normal(0, 4, (count, 2))
    thigh = -(25 + 75 * depth)[:, None] + rng.normal(0, 5, (count, 2))
    foot = np.where(rng.random((count, 1)) < 0.3, 24 * depth[:, None], 0) + np.zeros((count, 2))
    kneel = rng.random(count) < 0.3
    thigh[kneel] = rng.normal((-88, -4), 6, (kneel.sum(), 2))
    shin[kneel] = rng.normal((4, 84), 5, (kneel.sum(), 2))
    foot[kneel] = (0, 75)
    tilt[kneel, 1] = rng.normal(8, 7, kneel.sum())
    _legs(angles, tilt[:, 1], thigh, shin, foot)
    _spread(angles, rng, (12, 7), (12, 7))
    angles[_at(kneel, _BOTH["hip"], [1])] *= 0.3
    angles[:, _BOTH["foot"], 0] = -foot * 0.8
    lean = rng.normal(20, 13, count)
    _bend(angles, rng, lean, rng.normal(0, 6, count), rng.normal(0, 10, count))
    set_arms(angles, rng, ("forward", "hold", "hold", "hang", "face", "side"))
    _look(angles, rng, tilt[:, 1] + 0.6 * lean)
    return angles, tilt


def reach(rng: Rng, count: int) -> Posture:
    """Up to a shelf, forwards, or down to the ground with bent knees."""
    height = rng.choice((-1, 0, 1), count, p=(0.3, 0.3, 0.4))
    down = height == -1
    angles, tilt = _upright(rng, count, pitch=(3, 4))
    tilt[:, 1] += np.where(down, rng.uniform(25, 60, count), 0)
    shin = np.where(down[:, None], rng.uniform(2, 22, (count, 1)), np.abs(rng.normal(0, 5, (count, 2))))
    thigh = np.where(down[:, None], -1.3 * shin - 4, -0.7 * shin) + rng.normal(0, 9, (count, 1)) * np.array([1, -1])
    tiptoe = np.where((height == 1) & (rng.random(count) < 0.3), 30, 0)[:, None] + np.zeros((count, 2))
    _legs(angles, tilt[:, 1], thigh, shin, tiptoe)
    _spread(angles, rng, (6, 5), (7, 6))
    angles[:, _BOTH["foot"], 0] = -tiptoe
    flex = np.select(
        [down, height == 0], [rng.normal(40, 15, count), rng.normal(14, 10, count)], rng.normal(-8, 7, count)
    )
    _bend(angles, rng, flex, rng.normal(0, 10, count), rng.normal(0, 14, count))
    for level, style in ((-1, "forward"), (0, "forward"), (1, "overhead")):
        rows = height == level
        part, rest = angles[rows], angles[rows].copy()
        set_arms(part, rng, style)
        set_arms(rest, rng)
        one_hand = np.flatnonzero(rng.random(len(part)) < 0.5)
        right = [_J[f"right_{name}"] for name in ("collar", "shoulder", "elbow", "wrist")]
        part[_at(one_hand, right)] = rest[_at(one_hand, right)]
        angles[rows] = part
    angles[_at(down, _BOTH["elbow"], [0])] *= 0.6
    _look(angles, rng, np.where(down, 0.5, 1) * (tilt[:, 1] + 0.6 * flex))
    return angles, tilt


def jump(rng: Rng, count: int) -> Posture:
    """In the air: tucked, in a star, or in a long leap."""
    kind = rng.integers(3, size=count)[:, None]
    angles, tilt = _upright(rng, count, pitch=(5, 9))
    leap = np.array([[-55.0, 22.0]]) * rng.uniform(0.6, 1.3, (count, 1))
    thigh = np.choose(kind, [-70 + rng.normal(0, 18, (count, 2)), rng.normal(-4, 8, (count, 2)), leap])
    knee = np.choose(
        kind,
        [rng.normal(95, 18, (count, 2)), np.abs(rng.normal(8, 8, (count, 2))), np.abs(rng.normal(28, 20, (count, 2)))],
    )
    shin = thigh + knee
    _legs(angles, tilt[:, 1], thigh, shin, shin + rng.normal(25, 9, (count, 2)))
    _spread(angles, rng, (8, 6), (6, 6))
    angles[:, _BOTH["hip"], 1] += np.where(kind == 1, rng.uniform(5, 32, (count, 1)), 0)
    angles[:, _BOTH["ankle"], 1] = 0
    lean = rng.normal(4, 14, count)
    _bend(angles, rng, lean, rng.normal(0, 7, count), rng.normal(0, 10, count))
    set_arms(angles, rng, ("overhead", "overhead", "side", "side", "forward", "wave", "hang"))
    _look(angles, rng, tilt[:, 1] + 0.5 * lean)
    return angles, tilt


def lie(rng: Rng, count: int) -> Posture:
    """On the back, on the belly, or on a side (knees drawn up)."""
    angles, tilt = _start(count)
    kind = rng.choice(3, count, p=(0.45, 0.25, 0.3))
    tilt[:, 1] = np.choose(kind, [-90, 90, -90]) + rng.normal(0, 2, count)
    tilt[:, 2] = np.choose(kind, [rng.normal(0, 6, count), rng.normal(0, 6, count), rng.normal(90, 9, count)])
    bent = np.abs(rng.normal(np.choose(kind, [0, 0, 35])[:, None], np.choose(kind, [22, 6, 22])[:, None], (count, 2)))
    angles[:, _BOTH["hip"], 0] = -bent * np.where(kind == 1, -0.3, 1)[:, None]
    angles[:, _BOTH["knee"], 0] = 3 + bent * np.choose(kind, [1.5, 1.2, 1.3])[:, None]
    angles[:, _BOTH["ankle"], 0] = rng.normal(28, 8, (count, 2))
    angles[:, _BOTH["hip"], 1] = rng.normal(np.where(kind == 2, 0, 8)[:, None], 4, (count, 2))
    angles[:, _BOTH["hip"], 2] = rng.normal(np.where(kind == 2, 0, 16)[:, None], 8, (count, 2))
    flex = rng.normal(np.choose(kind, [2, -6, 22]), 5)
    _bend(angles, rng, flex, rng.normal(0, 6, count), rng.normal(0, 6, count))
    set_arms(angles, rng, ("hang", "hang", "side", "side", "overhead", "wave", "hold"))
    on_side = np.zeros((int((kind == 2).sum()), 24, 3), np.float32)
    set_arms(on_side, rng, ("hold", "hold", "forward"))
    arms = [joint for part in ("collar", "shoulder", "elbow", "wrist") for joint in _BOTH[part]]
    angles[_at(kind == 2, arms)] = on_side[:, arms]
    flat = (kind != 2)[:, None]  # the ground keeps arms and head in the plane of the body
    swing = angles[:, _BOTH["shoulder"], 0]
    in_plane = np.where(swing < -80, -176, 2) + rng.normal(0, 4, swing.shape)
    angles[:, _BOTH["shoulder"], 0] = np.where(flat, in_plane, swing)
    angles[_at(kind == 1, _BOTH["elbow"], [0])] *= 0.15
    _look(angles, rng, np.zeros(count))
    angles[kind != 2, _J["neck"], 1] *= 0.3
    angles[kind == 1, _J["neck"], 0] = rng.normal(30, 6, (kind == 1).sum())
    angles[kind == 1, _J["head"], 0] = rng.normal(30, 6, (kind == 1).sum())
    return angles, tilt


def twist(rng: Rng, count: int) -> Posture:
    """Throwing, dancing, turning round: a strong turn of the trunk, the arms follow."""
    angles, tilt = stand(rng, count)
    turn = rng.uniform(22, 50, count)
    lean = rng.normal(6, 12, count)
    _bend(angles, rng, lean, rng.normal(0, 11, count), turn)
    lunge = np.abs(rng.normal(0, 18, (count, 1))) * np.array([-1, 0.8])
    shin = np.abs(rng.normal(6, 8, (count, 2))) + np.maximum(lunge, 0)
    _legs(angles, tilt[:, 1], lunge - 0.5 * shin, shin, np.maximum(lunge, 0))
    _spread(angles, rng, (9, 6), (11, 8))
    set_arms(angles, rng, ("side", "forward", "wave", "overhead", "hold", "hang"))
    _look(angles, rng, tilt[:, 1] + 0.5 * lean)
    angles[:, _J["neck"], 0] += 0.3 * turn
    return angles, tilt


POSTURES: dict[str, Callable[[Rng, int], Posture]] = {
    "stand": stand, "walk": walk, "sit": sit, "crouch": crouch,
    "reach": reach, "jump": jump, "lie": lie, "twist": twist,
}  # fmt: skip
WEIGHTS = (0.24, 0.18, 0.15, 0.10, 0.13, 0.06, 0.06, 0.08)
"""How often each posture is drawn, in the order of POSTURES."""
