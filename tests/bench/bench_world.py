"""How fast the open world is drawn, and whether memory stays flat: N pictures, then 4N.

python -m tests.bench.bench_world 500
"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
import time

from pipelines.bodies import cached_body
from pipelines.cluster import connect
from pipelines.measure import PeakMemory
from pipelines.runs import open_run
from pipelines.synthesize import World, synthesize

log = logging.getLogger(__name__)


def main(count: int) -> None:
    connect()
    for pictures in (count, 4 * count):
        world = World(studio=pictures // 2, street=pictures - pictures // 2, street3d=0, street_test=0)
        with tempfile.TemporaryDirectory() as folder, PeakMemory(every_s=0.5) as memory:
            start = time.perf_counter()
            synthesize(
                open_run(f"{folder}/run", job="synthesize", settings=world), world=world, body=cached_body("full")
            )
            seconds = time.perf_counter() - start
        driver_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        log.info(
            "%d pictures: %.1f s, %.1f a second; peak %.2f GB for driver, workers and store, %.0f MB for the driver",
            pictures, seconds, pictures / seconds, memory.peak_gb, driver_mb,
        )  # fmt: skip


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
