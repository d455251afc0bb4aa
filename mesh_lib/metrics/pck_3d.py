"""Percentage of correct keypoints in 3D: MuPoTS' 3DPCK with its matching of people, and the curves of hands.

One value a person. A joint is correct where its error is not above the threshold, so that truth scores full marks
against itself at every threshold, 0 too. A person with a coordinate that is no number has NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mesh_lib.metrics.joints import MM_PER_M

PCK_MM = 150.0
"""Half of a head (Mehta et al., 2017)."""
AUC_STEP_MM = 5.0
"""3DPCK's area is the mean over 0, 5, … 150 mm."""
MATCH_PX = 40.0
"""How near a predicted joint must lie to count for a person in the matching of MuPoTS."""
UNMATCHED = -1
HAND_MAX_MM, HAND_STEPS = 50.0, 100
"""The curve of hands: 100 thresholds from 0 to 50 mm (Zimmermann and Brox, 2017; FreiHAND)."""


def pck_3d_percent(
    *,
    predicted_m: Float[Tensor, "*batch joints 3"],
    target_m: Float[Tensor, "*batch joints 3"],
    threshold_mm: float = PCK_MM,
) -> Float[Tensor, "*batch"]:
    """3DPCK (Mehta et al., 2017): percentage of a person's joints not further than 150 mm from their place.

    As the points stand: align the roots before. Metres in.
    """
    return _share(_errors_mm(predicted_m, target_m), predicted_m.new_tensor([threshold_mm]))[..., 0] * 100


def auc_3d_percent(
    *, predicted_m: Float[Tensor, "*batch joints 3"], target_m: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """Area under 3DPCK's curve (Mehta et al., 2017): its mean over the thresholds 0, 5, … 150 mm, in percent."""
    thresholds = torch.arange(0, PCK_MM + AUC_STEP_MM / 2, AUC_STEP_MM).to(predicted_m)
    return _share(_errors_mm(predicted_m, target_m), thresholds).mean(dim=-1) * 100


def hand_pck(
    *,
    predicted_m: Float[Tensor, "*batch points 3"],
    target_m: Float[Tensor, "*batch points 3"],
    max_mm: float = HAND_MAX_MM,
    steps: int = HAND_STEPS,
) -> Float[Tensor, "*batch steps"]:
    """Share (0 to 1) of a hand's points not further away than each of `steps` thresholds from 0 to `max_mm`.

    The curve that Zimmermann and Brox (2017) draw. As the points stand; metres in.
    """
    thresholds = torch.linspace(0, max_mm, steps, dtype=torch.float64).to(predicted_m)
    return _share(_errors_mm(predicted_m, target_m), thresholds)


def hand_auc(
    *,
    predicted_m: Float[Tensor, "*batch points 3"],
    target_m: Float[Tensor, "*batch points 3"],
    max_mm: float = HAND_MAX_MM,
    steps: int = HAND_STEPS,
) -> Float[Tensor, "*batch"]:
    """Area under `hand_pck` by trapezoids, over that of a perfect hand: 0 to 1 (Zimmermann and Brox, 2017).

    The mean over hands is the published area of the mean curve, as all hands have equally many points.
    """
    curve = hand_pck(predicted_m=predicted_m, target_m=target_m, max_mm=max_mm, steps=steps)
    return (curve[..., 1:] + curve[..., :-1]).mean(dim=-1) / 2


def match_people(
    *,
    predicted_px: Float[Tensor, "predicted joints 2"],
    target_px: Float[Tensor, "target joints 2"],
    visible: Bool[Tensor, "target joints"],
    threshold_px: float = MATCH_PX,
) -> Int[Tensor, " target"]:
    """Who in a picture is whom: for each target the index of its prediction, or UNMATCHED; each is taken once.

    Greedy, as MuPoTS' owners match (Mehta et al., 2018): a pair's score is the number of the target's visible joints
    with the predicted joint within the threshold; the best pair is taken first, of equals the one with less distance
    over those joints; a pair without such a joint is none. (The owners' script was not at hand: the order of equal
    pairs is ours.)
    """
    distance = (predicted_px[None] - target_px[:, None]).norm(dim=-1)
    near = (distance <= threshold_px) & visible[:, None]
    score = near.sum(dim=-1)
    mean_px = torch.where(near, distance, 0.0).sum(dim=-1) / score
    taken = torch.full((len(target_px),), UNMATCHED, dtype=torch.int64)
    pairs = [(-int(score[t, p]), float(mean_px[t, p]), t, p) for t, p in score.nonzero().tolist()]
    used: set[int] = set()
    for _, _, target, predicted in sorted(pairs):
        if taken[target] == UNMATCHED and predicted not in used:
            taken[target] = predicted
            used.add(predicted)
    return taken


def bones_of_target(
    *,
    predicted_m: Float[Tensor, "*batch joints 3"],
    target_m: Float[Tensor, "*batch joints 3"],
    parents: tuple[int, ...],
) -> Float[Tensor, "*batch joints 3"]:
    """The prediction with the target's bone lengths and its own directions, from the root outwards.

    `parents` has -1 for the root, which stays where it is predicted. A predicted bone without length has no direction:
    its joint stays on its parent. Raises ValueError where the parents make no tree of one root.
    """
    placed: dict[int, Tensor] = {}
    roots = [joint for joint, parent in enumerate(parents) if parent < 0]
    if len(parents) != predicted_m.shape[-2] or len(roots) != 1:
        raise ValueError(f"parents name one of {predicted_m.shape[-2]} joints as the root: {parents}")
    placed[roots[0]] = predicted_m[..., roots[0], :]
    while len(placed) < len(parents):
        ready = [joint for joint, parent in enumerate(parents) if joint not in placed and parent in placed]
        if not ready:
            raise ValueError(f"parents make no tree: {parents}")
        for joint in ready:
            bone = predicted_m[..., joint, :] - predicted_m[..., parents[joint], :]
            length = (target_m[..., joint, :] - target_m[..., parents[joint], :]).norm(dim=-1, keepdim=True)
            direction = torch.nn.functional.normalize(bone, dim=-1)
            placed[joint] = placed[parents[joint]] + direction * length
    return torch.stack([placed[joint] for joint in range(len(parents))], dim=-2)


def _errors_mm(predicted_m: Tensor, target_m: Tensor) -> Tensor:
    return (predicted_m - target_m).norm(dim=-1) * MM_PER_M


def _share(errors_mm: Tensor, thresholds_mm: Tensor) -> Tensor:
    """(…, joints), (steps,) → (…, steps): share of joints within each threshold; NaN where an error is none."""
    share = (errors_mm[..., None] <= thresholds_mm).to(errors_mm.dtype).mean(dim=-2)
    return torch.where(errors_mm.isfinite().all(dim=-1)[..., None], share, torch.nan)
