"""Memory is measured over all processes, shared pages once."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: the suite's Ray cluster would be counted with this one, and it grows and shrinks as it likes.
MEASURE = """
import subprocess, sys, time
from pipelines.measure import PeakMemory

with PeakMemory(every_s=0.1) as alone:
    time.sleep(0.3)
with PeakMemory(every_s=0.1) as memory:
    subprocess.run([sys.executable, "-c", "import time; data = bytearray(300_000_000); time.sleep(1.5)"], check=True)
print(memory.peak_gb - alone.peak_gb, memory.worker_gb, memory.driver_gb)
"""


def test_a_child_counts_after_it_has_gone() -> None:
    measured = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True)
    more, worker, driver = map(float, measured.stdout.split())
    assert 0.29 < more < 0.4 and 0.29 < worker < 0.4 and 0 < driver < 0.29
