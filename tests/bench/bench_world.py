"""How fast the open world is drawn, and whether memory stays flat: N pictures, then 4N.

python -m tests.bench.bench_world 400
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time

from pipelines.bodies import cached_body
from pipelines.cluster import connect
from pipelines.measure import PeakMemory
from pipelines.runs import open_run
from pipelines.synthesize import World, synthesize
from tests.bench.table import machine, markdown


def main(count: int) -> None:
    connect()
    rows = []
    for pictures in (count, 4 * count):
        world = World(studio=pictures // 2, street=pictures - pictures // 2, street3d=0, street_test=0)
        with tempfile.TemporaryDirectory() as folder, PeakMemory(every_s=0.5) as memory:
            start = time.perf_counter()
            synthesize(
                open_run(f"{folder}/run", job="synthesize", settings=world), world=world, body=cached_body("full")
            )
            seconds = time.perf_counter() - start
        driver_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append([f"{pictures}", f"{seconds:.1f}", f"{pictures / seconds:.1f}", f"{memory.peak_gb:.2f} GB",
                     f"{driver_mb:.0f} MB"])  # fmt: skip
    header = ["pictures", "seconds", "a second", "peak memory, all processes", "peak of the driver"]
    sys.stdout.write(f"{machine()}\n\n{markdown(header, rows)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
