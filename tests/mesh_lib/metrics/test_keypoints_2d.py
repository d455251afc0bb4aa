"""PCK by hand; COCO's average precision by COCO's code, on its real files too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mesh_lib.metrics.keypoints_2d import oks_ap, pck


def test_pck_counts_visible_joints_within_a_part_of_the_box() -> None:
    target = torch.zeros(2, 4, 2)
    predicted = torch.tensor([[[9.0, 0], [11, 0], [0, 9.9], [500, 0]], [[0.0, 0], [0, 0], [0, 0], [0, 0]]])
    visible = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 0]])
    found = pck(predicted_px=predicted, target_px=target, visible=visible, box_side_px=torch.tensor([100.0, 100.0]))
    assert found[0].item() == pytest.approx(2 / 3) and found[1].isnan()


def results_of(truth: dict[str, Any], *, shift_px: float) -> list[dict[str, Any]]:
    return [
        {"image_id": record["image_id"], "category_id": 1, "score": 0.9,
         "keypoints": [v + shift_px if i % 3 < 2 else 1 for i, v in enumerate(record["keypoints"])]}
        for record in truth["annotations"] if not record["iscrowd"] and record["num_keypoints"]
    ]  # fmt: skip


def test_exact_keypoints_have_all_precision_and_far_ones_none(samples_dir: Path) -> None:
    truth = json.loads((samples_dir / "coco" / "annotations" / "person_keypoints_val2017.json").read_text())
    seen = {image["id"] for image in truth["images"]}

    def ap(results: list[dict[str, Any]]) -> float:
        return oks_ap(truth, results, image_ids=seen)["AP"]

    exact = results_of(truth, shift_px=0)
    assert ap(exact) == pytest.approx(1)
    assert 0 < ap(results_of(truth, shift_px=4)) < 1 and ap(results_of(truth, shift_px=300)) == 0
    assert ap([r for r in exact if r["image_id"] != exact[0]["image_id"]]) < 1, "a picture without a result counts"
    with pytest.raises(ValueError, match="no keypoints"):
        ap([])
