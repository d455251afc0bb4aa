"""One driver an output: a file that its driver keeps writing, in object storage as on disk.

Object stores have no locks, and their clocks are not ours. So nobody reads the time in the file: whoever finds one
watches whether it changes. A driver that was killed leaves a file that does not.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any

import psutil

from pipelines import storage
from pipelines.runs import LEASE

log = logging.getLogger(__name__)

BEAT_S = 2.0
STALE_S = 10.0
REMOTE_STALE_S = 90.0
"""A file that has not changed for so long is a dead driver's; in object storage one write may take a stalled minute."""
SETTLE_S = 1.0
"""Of two drivers that start at once, the one that wrote last stays."""


class Lease:
    """Context manager: this process alone drives the run in `folder`.

    Raises ValueError where another driver is at work there. One that finds later that it was replaced (it had been
    cut off from the store for so long) is interrupted and raises ValueError too.
    """

    def __init__(self, folder: str) -> None:
        self.path = storage.join(folder, LEASE)
        self.stale_s = REMOTE_STALE_S if "://" in folder else STALE_S
        process = psutil.Process()
        self.mine = {
            "token": uuid.uuid4().hex, "host": socket.gethostname(), "pid": process.pid,
            "started": process.create_time(),
        }  # fmt: skip
        self.beats, self.lost = 0, False
        self.handler: Any = None
        self.done = threading.Event()
        self.heart = threading.Thread(target=self._keep, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        found = _read(self.path)
        if found and not _is_dead(found) and self._changes(found):
            self._refuse(found)
        self._write()
        time.sleep(SETTLE_S)
        if not self._is_mine(found := _read(self.path)):
            self._refuse(found or {})
        if threading.current_thread() is threading.main_thread():  # a shell's `&` has it ignored, Ray Train handles it
            self.handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done.set()
        self.heart.join()
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
        if self.lost:
            raise ValueError(
                f"another driver took over {self.path} while this one could not reach the storage; this one stops"
            ) from None
        storage.delete(self.path)

    def _changes(self, found: dict[str, Any]) -> bool:
        log.info("%s: a driver was at work here; watching for %.0f s whether it still is", self.path, self.stale_s)
        end = time.monotonic() + self.stale_s
        while time.monotonic() < end:
            time.sleep(BEAT_S / 4)
            if (now := _read(self.path)) != found:
                return now is not None
        return False

    def _refuse(self, found: dict[str, Any]) -> None:
        raise ValueError(
            f"another driver is at work on this output: process {found.get('pid')} of {found.get('host')}\n"
            f"  where: {self.path}\n"
            "  fix: wait until it is done, or stop it; the same command then goes on where it stood"
        )

    def _is_mine(self, found: dict[str, Any] | None) -> bool:
        return bool(found) and found["token"] == self.mine["token"]

    def _write(self) -> None:
        self.beats += 1
        storage.write_bytes(self.path, storage.json_bytes(self.mine | {"beats": self.beats}))

    def _keep(self) -> None:
        while not self.done.wait(BEAT_S):
            try:
                found = _read(self.path)
                if found is not None and not self._is_mine(found):
                    self.lost = True
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                self._write()
            except (OSError, ValueError) as error:  # the store may answer again before anybody takes over
                log.debug("%s cannot be kept: %s", self.path, error)


def _read(path: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(path)
    except FileNotFoundError:
        return None


def _is_dead(found: dict[str, Any]) -> bool:
    """A process of this very machine that is gone; of another machine nothing is known."""
    if found.get("host") != socket.gethostname():
        return False
    try:
        return psutil.Process(int(found["pid"])).create_time() != found.get("started")
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return True
