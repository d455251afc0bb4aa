"""How good 2D keypoints are: PCK, and COCO's object keypoint similarity through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor


def pck(
    *,
    predicted_px: Float[Tensor, "batch joints 2"],
    target_px: Float[Tensor, "batch joints 2"],
    visible: Float[Tensor, "batch joints"],
    box_side_px: Float[Tensor, " batch"],
    threshold: float = 0.1,
) -> Float[Tensor, " batch"]:
    """Share of each person's visible joints nearer than `threshold` of the box's longer side; NaN without one.

    Yang and Ramanan, 2013. Pixels; a prediction that is no number is not near.
    """
    seen = visible > 0
    near = (predicted_px - target_px).norm(dim=-1) < threshold * box_side_px[:, None]
    return (near & seen).sum(dim=1).to(predicted_px.dtype) / seen.sum(dim=1)


def oks_ap(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], *, image_ids: Collection[int]
) -> dict[str, float]:
    """COCO's keypoint average precision of `results` ({image_id, category_id, keypoints, score}), by its own code.

    ground_truth is the parsed person_keypoints_*.json; image_ids are the pictures that were looked at: people in them
    count, found or not. Raises ValueError where there is no result.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:
        raise ValueError("no keypoints to score")
    with contextlib.redirect_stdout(io.StringIO()):  # it reports as it goes
        truth: Any = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(list(results)), "keypoints")
        judge.params.imgIds = sorted(image_ids)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR")
    return {name: float(value) for name, value in zip(names, judge.stats[:6], strict=True)}
