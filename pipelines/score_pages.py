"""Scores as text: tables of Markdown, and numbers that any JSON reader takes."""

from __future__ import annotations

import math
from typing import Any

UNITS = ("mm", "percent", "px", "deg")


def plain_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """NaN, which is nobody's number, as null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def table(found: dict[str, Any]) -> list[str]:
    """Scores as lines of Markdown: the headline first."""
    statement, columns = found["statement"], found["columns"]
    order = [name for name in statement["headline"] if name in columns]
    order += [name for name in columns if name not in order]
    regressors, root = ", ".join(statement["regressor"]) or "none", statement["root"] or "none"
    lines = [
        f"{found['people']} people, protocol {statement['protocol']}: gender {statement['gender']}, "
        f"regressor {regressors}, root {root}, {_joints(statement)}",
        "",
        "| | mean | 95% interval | people | without | witnesses |",
        "|---|---|---|---|---|---|",
    ]
    for name in order:
        one = columns[name]
        digits = _digits(name)
        interval = f"{_cell(one['low'], digits)} – {_cell(one['high'], digits)}" if one["low"] is not None else "–"
        counts = f"{one['people']} | {one['missing']} | {one['groups']}"
        lines.append(f"| {name} | {_cell(one['mean'], digits)} | {interval} | {counts} |")
    if sequences := found["sequences"]:
        told = f"{sequences['acceleration_error_mm']:.2f} mm per squared frame"
        lines += ["", f"acceleration error {told}, {sequences['frames']} frames of {sequences['tracks']} tracks"]
    return lines


def comparison_table(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{found['new']} less {found['old']}, protocol {found['statement']['protocol']}, the same people",
        "",
        "| | new | old | difference | 95% interval | people |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found["columns"].items():
        sure, d = "" if one["sure"] else " (may be 0)", _digits(name)
        interval = "–"
        if one["low"] is not None:
            interval = f"{_cell(one['low'], d, '+')} to {_cell(one['high'], d, '+')}{sure}"
        cells = [_cell(one["new"], d), _cell(one["old"], d), _cell(one["mean"], d, "+"), interval, str(one["people"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _digits(name: str) -> int:
    return 2 if name.rpartition("_")[2] in UNITS else 4  # shares are from 0 to 1


def _joints(statement: dict[str, Any]) -> str:
    return f"{len(statement['joints'])} joints"


def _cell(value: float | None, digits: int, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.{digits}f}"
