"""What every benchmark shares: paired timing, and a Markdown table with the machine's name."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path


def paired(work: dict[str, Callable[[], object]], *, rounds: int, warm_up: int = 2) -> dict[str, float]:
    """Median seconds of each piece of work, taken in turns so that a noisy minute strikes all alike."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warm_up + rounds):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """CPU, cores and date, for the record."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, {date.today().isoformat()}"
