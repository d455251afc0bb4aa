"""Memory is measured over all processes, shared pages once."""

from __future__ import annotations

import subprocess
import sys
import time

from pipelines.measure import PeakMemory

HOLD = "import time; data = bytearray(300_000_000); time.sleep(1.5)"


def test_a_child_counts_after_it_has_gone() -> None:
    with PeakMemory(every_s=0.1) as alone:
        time.sleep(0.3)
    with PeakMemory(every_s=0.1) as memory:
        subprocess.run([sys.executable, "-c", HOLD], check=True)
    assert 0.29 < memory.peak_gb - alone.peak_gb < 0.4
