"""Mixed batches: an exact part of each from samples with 3D truth, the rest from samples in the wild."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines import storage
from pipelines.bodies import body_npz
from pipelines.sources import Part, Source, holds_3d, open_source
from pipelines.train import make_feed
from pipelines.train_loop import Training
from pipelines.windows import Feed


@dataclass(frozen=True, kw_only=True)
class MixedTraining(Training):
    """Settings of trainings on mixed batches."""

    weak_share: float = 0.5
    """Part of every batch that comes from the datasets in the wild: exact in each batch."""
    strong_shares: tuple[float, ...] = ()
    """Parts of the 3D-supervised samples that each of these datasets gives, exact in each batch; by default they are
    mixed by their size."""
    weak_shares: tuple[float, ...] = ()
    """The same for the datasets in the wild."""
    withhold_3d: tuple[str, ...] = ()
    """3D-supervised datasets (their folders, or `all`) that keep their part of the batch but teach by their 2D alone:
    the control of Three Recipes, Table 9."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weak_share <= 1:
            raise ValueError(f"weak_share is a part of the batch, between 0 and 1; it is {self.weak_share}")
        for name in ("strong_shares", "weak_shares"):
            shares = getattr(self, name)
            if shares and (min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6):
                raise ValueError(f"{name} are parts that add up to 1; they are {shares}, together {sum(shares):g}")


def make_feeds(training: MixedTraining, *, strong: list[Source], weak: list[Source]) -> list[Feed]:
    """Who gives how many samples to every batch. Of the samples in the wild, those without labels teach by their 2D.

    Raises ValueError for a mix that cannot be drawn: no datasets for a part of the batch, or datasets for none of it;
    shares that are not one for each dataset; numbers that do not split over the workers.
    """
    strong = _withhold(training, strong)
    weak = [source if source.labels else replace(source, weak=True) for source in weak]
    weak_samples = round(training.batch_size * training.weak_share)
    feeds = []
    for name, sources, samples, shares in (
        ("strong", strong, training.batch_size - weak_samples, training.strong_shares),
        ("weak", weak, weak_samples, training.weak_shares),
    ):
        if bool(samples) != bool(sources):
            need = f"{samples} of {training.batch_size} samples of a batch should be {name}ly supervised"
            raise ValueError(
                f"{need}, but {'no such dataset was given' if not sources else 'datasets were given for it'}\n"
                "  fix: pass datasets for both kinds, or set weak_share to 0 (3D only) or 1 (2D only)"
            )
        if shares and len(shares) != len(sources):
            raise ValueError(f"{name}_shares has {len(shares)} parts for {len(sources)} datasets; give one for each")
        counts = _counts(samples, shares or [s.rows for s in sources], units=training.workers * training.accumulate)
        if counts is not None:
            feeds += [
                make_feed(source.path, [source], samples=count, training=training)
                for source, count in zip(sources, counts, strict=True)
            ]
            continue
        feeds.append(make_feed(name, sources, samples=samples, training=training))
        if shares:
            raise ValueError(
                f"{samples} {name} samples a batch are too few for {len(sources)} datasets, one each for "
                f"{training.workers} workers and {training.accumulate} parts\n  fix: a larger --training.batch-size"
            )
    return feeds


def _counts(samples: int, shares: Sequence[float], *, units: int) -> list[int] | None:
    """Samples of a batch that each dataset gives: as near to its share as whole samples, which must split over `units`
    parts, come, and at least one for each part. None where they are too few for that, or do not split."""
    whole = samples // units
    if len(shares) > whole or samples % units:
        return None
    wanted = [whole * share / sum(shares) for share in shares]
    counts = [max(1, int(value)) for value in wanted]
    while sum(counts) != whole:
        missing = [value - count for value, count in zip(wanted, counts, strict=True)]
        if sum(counts) < whole:
            counts[missing.index(max(missing))] += 1
        else:
            spare = [m if count > 1 else float("inf") for m, count in zip(missing, counts, strict=True)]
            counts[spare.index(min(spare))] -= 1
    return [count * units for count in counts]


def _withhold(training: MixedTraining, strong: list[Source]) -> list[Source]:
    """The 3D-supervised datasets, those marked whose 3D is withheld."""
    hidden = {storage.absolute(path) for path in training.withhold_3d if path != "all"}
    if unknown := hidden - {source.path for source in strong}:
        raise ValueError(f"withhold_3d names {', '.join(sorted(unknown))}, which is not among the 3D datasets")
    strong = [replace(source, weak="all" in training.withhold_3d or source.path in hidden) for source in strong]
    if flat := [source.path for source in strong if not (source.weak or holds_3d(source))]:
        raise ValueError(
            f"no sample of {', '.join(flat)} has 3D truth, so it cannot supervise in 3D\n  fix: pass it as --weak"
        )
    return strong


def open_validation(path: str | None, part: Part = "body") -> Source | None:
    """Samples whose 3D judges every epoch. Raises ValueError where they have none."""
    held = open_source(path, part) if path else None
    if held and not holds_3d(held):
        raise ValueError(f"no sample of {held.path} has 3D truth, so it cannot say how good the network is")
    return held


def check_bodies(sources: list[Source], body: str) -> None:
    """Raises ValueError where the SMPL parameters of samples are of another body than this file. MANO's are MANO's."""
    sha256 = hashlib.sha256(body_npz(body)).hexdigest()
    for source in sources:
        if source.part == "body" and source.bodies - {sha256}:
            raise ValueError(
                f"the SMPL parameters in {source.path} are of another body than --body: its file's SHA-256 is "
                f"{', '.join(sorted(source.bodies))}, not {sha256}\n"
                "  fix: pass the body that the samples were made with (open worlds keep it beside them, as body.npz)"
            )
