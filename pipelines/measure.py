"""Memory of this process and all it started, Ray's workers and object store included."""

from __future__ import annotations

import threading

import psutil

GB = 1e9


class PeakMemory:
    """Samples the proportional set size (shared pages counted once) of the process tree while the block runs."""

    def __init__(self, every_s: float = 2.0) -> None:
        self.peak_gb, self._every_s = 0.0, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.peak_gb = max(self.peak_gb, tree_memory_gb())


def tree_memory_gb() -> float:
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
            continue
    return total / GB
