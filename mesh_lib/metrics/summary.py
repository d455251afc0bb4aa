"""From one value a person to a table: means with bootstrap intervals, and two runs compared person by person.

The bootstrap (Efron, 1979) draws as many groups as there are, with replacement, and takes the mean over their people;
the interval is between percentiles of those means. Its groups are people, or what is given as `groups`: the frames of
one sequence show one person in nearly one pose, and to count each as a witness makes intervals many times too narrow.
The same seed gives the same intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

RESAMPLES = 2000
LEVEL = 0.95
Mean = Literal["people", "groups"]
"""Over people, or over the means of their groups, as MuPoTS' tables over sequences."""
CHUNK = 4_000_000
"""Weights that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over people and its interval, in the unit that the column's name ends with."""

    mean: float
    low: float
    high: float
    people: int
    """Who have a value."""
    missing: int
    """Who have none (NaN): unmatched, not finite, no visible joint. They do not count in the mean."""
    groups: int
    """What the bootstrap drew from."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """New less old, over the people who have a value in both."""

    new: float
    old: float
    mean: float
    low: float
    high: float
    people: int
    missing: int
    """Who have no value in one of the two."""
    groups: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0; never where there is none."""
        return self.low > 0 or self.high < 0


class Scores:
    """One value a person and column, gathered a batch at a time."""

    def __init__(self) -> None:
        self.person_ids: list[str] = []
        self.groups: list[str] = []
        self._parts: dict[str, list[np.ndarray]] = {}
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return len(self.person_ids)

    def add(
        self,
        person_ids: Sequence[str],
        columns: Mapping[str, Tensor | np.ndarray],
        *,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add people with their values; without `groups` each is a group of their own.

        Raises ValueError, and adds nobody, for a person who is here already, columns other than those of the people
        before, or a column that is not one value a person.
        """
        ids = [str(person) for person in person_ids]
        doubled = [person for person, count in Counter(ids).items() if count > 1 or person in self._seen]
        if doubled:
            raise ValueError(f"{_some(doubled)} scored twice: every person of a benchmark counts once")
        if self._parts and set(columns) != set(self._parts):
            raise ValueError(f"columns are {', '.join(sorted(self._parts))}; these are {', '.join(sorted(columns))}")
        values = {name: _numbers(column) for name, column in columns.items()}
        wrong = {name: value.shape for name, value in values.items() if value.shape != (len(ids),)}
        if not values or wrong or (groups is not None and len(groups) != len(ids)):
            raise ValueError(f"{len(ids)} people need one value each in every column, and one group: {wrong or 'none'}")
        for name, value in values.items():
            self._parts.setdefault(name, []).append(value)
        self.person_ids += ids
        self.groups += [str(group) for group in groups] if groups is not None else ids
        self._seen.update(ids)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """(people,) float64 by name, in the order of `person_ids`."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    def require(self, expected: Iterable[str]) -> None:
        """Raises ValueError where people of the benchmark have no score, or there are scores of others."""
        wanted = {str(person) for person in expected}
        absent, strange = sorted(wanted - self._seen), sorted(self._seen - wanted)
        if absent or strange:
            parts = [f"{_some(absent)} not scored"] * bool(absent) + [f"{_some(strange)} not of it"] * bool(strange)
            raise ValueError(f"the benchmark has {len(wanted)} people, {len(self)} were scored: {'; '.join(parts)}")

    def summary(
        self, *, of: Mean = "people", seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
    ) -> dict[str, Estimate]:
        """Mean and interval of every column. Raises ValueError where nobody was scored."""
        table = self.columns
        if not len(self):
            raise ValueError("nobody was scored")
        values = np.stack(list(table.values()), axis=1)
        boot = _Bootstrap(values, self.groups, of=of, seed=seed, resamples=resamples, level=level)
        return {
            name: Estimate(
                mean=boot.mean[i], low=boot.low[i], high=boot.high[i], people=boot.people[i],
                missing=len(self) - boot.people[i], groups=boot.groups,
            )
            for i, name in enumerate(table)
        }  # fmt: skip


def compare(
    new: Scores,
    old: Scores,
    *,
    of: Mean = "people",
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """Two runs on the same people: for each column that both have, the mean of new less old, with its interval.

    Each person is their own control, so that what makes people easy or hard cancels: the interval is far narrower than
    those of the two means. Raises ValueError where the people, their groups, or all columns differ.
    """
    if not len(new) or set(new.person_ids) != set(old.person_ids):
        only_new, only_old = (sorted(set(a) - set(b)) for a, b in _both_ways(new.person_ids, old.person_ids))
        raise ValueError(
            "runs can be compared on the same people only: "
            f"{_some(only_new)} only in the new run, {_some(only_old)} only in the old one"
        )
    order = {person: i for i, person in enumerate(old.person_ids)}
    rows = np.array([order[person] for person in new.person_ids])
    if new.groups != [old.groups[row] for row in rows]:
        raise ValueError("the two runs group the same people differently")
    mine, theirs = new.columns, old.columns
    shared = [name for name in mine if name in theirs]
    if not shared:
        raise ValueError(f"no common column: {', '.join(sorted(mine))} and {', '.join(sorted(theirs))}")
    a, b = np.stack([mine[name] for name in shared], axis=1), np.stack([theirs[name][rows] for name in shared], axis=1)
    paired = np.isfinite(a - b)
    masked = [np.where(paired, values, np.nan) for values in (a, b, a - b)]
    ours, others = (_mean(*(part.sum(axis=0) for part in _sums(m, new.groups, of=of))).tolist() for m in masked[:2])
    boot = _Bootstrap(masked[2], new.groups, of=of, seed=seed, resamples=resamples, level=level)
    return {
        name: Difference(
            new=ours[i], old=others[i], mean=boot.mean[i], low=boot.low[i], high=boot.high[i],
            people=boot.people[i], missing=len(new) - boot.people[i], groups=boot.groups,
        )
        for i, name in enumerate(shared)
    }  # fmt: skip


class _Bootstrap:
    """Of means over people who come in groups; NaN is nobody's value."""

    def __init__(
        self, values: np.ndarray, groups: Sequence[str], *, of: Mean, seed: int, resamples: int, level: float
    ) -> None:
        if resamples < 1 or not 0 < level < 1:
            raise ValueError(f"resamples are at least 1, the level is between 0 and 1; they are {resamples}, {level}")
        total, count = _sums(values, groups, of=of)
        self.groups = len(total)
        self.people = np.isfinite(values).sum(axis=0).tolist()
        self.mean = _mean(total.sum(axis=0), count.sum(axis=0)).tolist()
        drawn = np.concatenate(
            [_mean(weights @ total, weights @ count) for weights in _weights(self.groups, resamples, seed)]
        )
        if self.groups < 2:  # one witness says nothing of what others would
            drawn = np.full_like(drawn, np.nan)
        tail = (1 - level) / 2
        self.low, self.high = (_percentiles(drawn, q) for q in (tail, 1 - tail))


def _sums(values: np.ndarray, groups: Sequence[str], *, of: Mean) -> tuple[np.ndarray, np.ndarray]:
    """(groups, columns) sums of the values that are there, and what to divide by."""
    _, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    known = np.isfinite(values)
    total, count = np.zeros((2, int(member.max()) + 1, values.shape[1]))
    np.add.at(total, member, np.where(known, values, 0.0))
    np.add.at(count, member, known)
    return (total, count) if of == "people" else (_mean(total, count, empty=0.0), (count > 0).astype(np.float64))


def _weights(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """(some, groups) how often each group was drawn, some resamples at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // groups)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=size).astype(np.float64)


def _percentiles(drawn: np.ndarray, q: float) -> list[float]:
    """Of each column, over the resamples that have a value."""
    known = [column[~np.isnan(column)] for column in drawn.T]
    return [float(np.quantile(column, q)) if len(column) else float("nan") for column in known]


def _mean(total: np.ndarray, count: np.ndarray, *, empty: float = np.nan) -> np.ndarray:
    return np.divide(total, count, out=np.full_like(total, empty), where=count > 0)


def _numbers(column: Tensor | np.ndarray) -> np.ndarray:
    values = column.detach().cpu().numpy() if isinstance(column, Tensor) else np.asarray(column)
    return values.astype(np.float64)


def _both_ways(a: list[str], b: list[str]) -> tuple[tuple[list[str], list[str]], tuple[list[str], list[str]]]:
    return (a, b), (b, a)


def _some(people: Sequence[str]) -> str:
    """How many, and who the first of them are."""
    return f"{len(people)} people ({', '.join(people[:3])}{' …' if len(people) > 3 else ''})" if people else "0 people"
