"""The annotator at work: memory that ends, parts of batches, and the probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh_lib.body.joints import BODY33
from pipelines import labeller, storage
from pipelines.crops import COLUMNS, prepare
from pipelines.labeller import Labeller, Method, probe

pytestmark = pytest.mark.ray
PLAIN = Method(8, "float32", flip_test=False)


class Cramped(Labeller):
    """A machine on which batches of more than `room` crops, and crops of one person, do not fit."""

    room, too_much, tried = 2, "", ()

    def answer(self, batch: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
        self.tried = (*self.tried, size)
        if size > self.room or self.too_much in list(batch["sample_id"]):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1099511627776 bytes")
        return super().answer(batch, size)


@pytest.fixture(scope="module")
def crops(tiny_world: Path, ray_cluster: None) -> dict[str, np.ndarray]:
    table = storage.read_parquet(str(tiny_world / "street")).select(list(COLUMNS)).slice(0, 11)
    return prepare(table, input_size=(64, 64), joint_set=BODY33)


def test_a_batch_that_does_not_fit_is_taken_in_halves(tiny_annotator: Path, crops: dict[str, np.ndarray]) -> None:
    cramped = Cramped(str(tiny_annotator), PLAIN, threads=1)
    eight = {name: values[:8] for name, values in crops.items()}
    found = cramped(eight)
    assert cramped.tried == (8, 4, 2, 2, 4, 2, 2) and set(found["status"].to_pylist()) == {"ok"}
    whole = Labeller(str(tiny_annotator), Method(2, "float32", flip_test=False), threads=1)
    for at in range(0, 8, 2):
        there = whole({name: values[at : at + 2] for name, values in eight.items()})
        assert found.slice(at, 2).equals(there)


def test_a_sample_that_does_not_fit_alone_is_quarantined_and_no_other(
    tiny_annotator: Path, crops: dict[str, np.ndarray]
) -> None:
    cramped = Cramped(str(tiny_annotator), PLAIN, threads=1)
    cramped.too_much = crops["sample_id"][4]
    found = cramped({name: values[:7] for name, values in crops.items()})
    assert found["status"].to_pylist() == ["ok"] * 4 + ["out_of_memory"] + ["ok"] * 2
    assert found["sample_id"].to_pylist() == list(crops["sample_id"][:7])
    for name in ("body_pose", "transl_m", "joints_2d_px", "camera_self_check_px"):
        assert found[name][4].as_py() is None, name


def test_another_crash_is_no_reason_to_quarantine(tiny_annotator: Path, crops: dict[str, np.ndarray]) -> None:
    class Broken(Labeller):
        def answer(self, batch: Any, size: int) -> Any:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Broken(str(tiny_annotator), PLAIN, threads=1)(crops)


@pytest.mark.parametrize(
    ("said", "is_memory"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("unsupported memory format option", False),
    ],
)
def test_memory_that_ends_is_told_from_other_crashes(said: str, is_memory: bool) -> None:
    assert labeller.is_out_of_memory(RuntimeError(said)) == is_memory


def test_a_label_does_not_depend_on_who_shares_its_batch(tiny_annotator: Path, crops: dict[str, np.ndarray]) -> None:
    at_work = Labeller(str(tiny_annotator), PLAIN, threads=1)
    eight = at_work({name: values[:8] for name, values in crops.items()})
    three = at_work({name: values[:3] for name, values in crops.items()})
    assert eight.slice(0, 3).equals(three), "bit for bit"
    # At another place of the batch some processors' kernels add up in another order.
    moved = at_work({name: values[2:5] for name, values in crops.items()})
    for name in ("global_orient", "body_pose", "betas", "transl_m", "joints_3d_m"):
        here, there = (np.array(table.column(name).to_pylist()) for table in (eight.slice(2, 3), moved))
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flip_test", [False, True])
def test_the_flip_test_says_where_the_network_guesses(
    tiny_annotator: Path, crops: dict[str, np.ndarray], flip_test: bool
) -> None:
    found = Labeller(str(tiny_annotator), Method(8, "float32", flip_test), threads=1)(
        {name: values[:4] for name, values in crops.items()}
    )
    for name in ("flip_disagreement_deg", "flip_disagreement_mm"):
        values = found[name].to_pylist()
        assert all(value > 0 for value in values) if flip_test else values == [None] * 4, name
    assert set(found["status"].to_pylist()) == {"ok"}, "an averaged label passes its camera's self-check"


def test_the_probe_takes_the_fastest_of_what_fits_and_is_precise(
    tiny_annotator: Path, crops: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped = Cramped(str(tiny_annotator), PLAIN, threads=1)
    cramped.room = 16
    chosen, tried = probe(cramped, crops, batch_size="auto", precision="auto")
    assert {trial["batch_size"] for trial in tried} <= {8, 16}
    assert {trial["precision"] for trial in tried} == {"float32", "bfloat16", "float16"}
    assert tried[0]["off_mm"] == 0 and any(trial["off_mm"] > 0 for trial in tried)
    fit = [trial for trial in tried if trial["off_mm"] <= labeller.TOLERANCE_MM]
    fastest = max(fit, key=lambda trial: trial["crops_per_s"])
    assert (chosen.batch_size, chosen.precision) == (fastest["batch_size"], fastest["precision"])

    monkeypatch.setattr(labeller, "TOLERANCE_MM", 0.0)
    assert probe(cramped, crops, batch_size=16, precision="auto")[0] == Method(16, "float32", flip_test=False)
    cramped.room = 4
    with pytest.raises(ValueError, match="does not fit into memory even for the smallest batch"):
        probe(cramped, crops, batch_size="auto", precision="float32")
