"""Memory of this process and all it started, Ray's workers and object store included."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psutil

GB = 1e9


class PeakMemory:
    """The largest proportional set size (shared pages counted once) of the process tree while the block runs.

    The kernel walks every page to tell it and holds the process meanwhile: sampled steadily it took most of a core.
    So a cheap estimate is watched (what no process shares, and the most that one shares: the object store), and the
    walk is made where that peaks. Without `whole` it is not made, and `peak_gb` stays 0.
    """

    def __init__(self, every_s: float = 2.0, *, whole: bool = True) -> None:
        self.peak_gb, self._every_s, self._whole = 0.0, every_s, whole
        self.driver_gb = self.worker_gb = 0.0
        """Of this process, and of the largest that it started, what they do not share."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        highest = 0
        while not self._stop.wait(self._every_s):
            infos = _each(lambda process: process.memory_info())
            shared = [getattr(info, "shared", 0) for info in infos]  # Linux alone tells
            driver, *workers = [(info.rss - of_all) / GB for info, of_all in zip(infos, shared, strict=True)]
            self.driver_gb, self.worker_gb = max(self.driver_gb, driver), max(self.worker_gb, *workers, 0.0)
            estimate = sum(info.rss for info in infos) - sum(shared) + max(shared)
            if self._whole and estimate > 1.02 * highest:
                highest = estimate
                self.peak_gb = max(self.peak_gb, sum(_each(_own_bytes)) / GB)


def _own_bytes(process: psutil.Process) -> int:
    """The process' share of what it holds; elsewhere than on Linux, what it alone holds."""
    info = process.memory_full_info()
    return getattr(info, "pss", info.uss)


def _each(measure: Callable[[psutil.Process], Any]) -> list[Any]:
    """Of this process and of all it started that still live."""
    me, found = psutil.Process(), []
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
            found.append(measure(process))
    return found
