"""The lease: one driver an output, a dead one's place is taken, and who was replaced stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines import lease, storage
from pipelines.lease import Lease


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same beats, in a tenth of the time."""
    for name in ("BEAT_S", "STALE_S"):
        monkeypatch.setattr(lease, name, getattr(lease, name) / 10)


def written(folder: Path, **changed: object) -> Path:
    """The file of a driver on another machine."""
    path = folder / "_driver.json"
    path.parent.mkdir(exist_ok=True)
    record = {"token": "theirs", "host": "elsewhere", "pid": 1, "started": 1.0, "beats": 1}
    path.write_bytes(storage.json_bytes(record | changed))
    return path


def test_it_is_kept_while_held_and_gone_afterwards(quick: None, tmp_path: Path) -> None:
    with Lease(str(tmp_path)) as held:
        first = storage.read_json(held.path)
        time.sleep(1)
        assert storage.read_json(held.path)["beats"] > first["beats"]
    assert not storage.exists(held.path)


def test_a_file_that_somebody_keeps_writing_refuses(quick: None, tmp_path: Path) -> None:
    stop = threading.Event()

    def beat() -> None:
        beats = 1
        while not stop.wait(0.1):
            beats += 1
            written(tmp_path, beats=beats)

    written(tmp_path)
    threading.Thread(target=beat, daemon=True).start()
    try:
        with (
            pytest.raises(ValueError, match=r"another driver is at work on this output: process 1 of elsewhere"),
            Lease(str(tmp_path)),
        ):
            pass
    finally:
        stop.set()
    assert storage.read_json(str(tmp_path / "_driver.json"))["token"] == "theirs", "theirs stays"


def test_a_file_that_nobody_writes_any_more_is_taken_over(quick: None, tmp_path: Path) -> None:
    written(tmp_path)
    began = time.monotonic()
    with Lease(str(tmp_path)) as held:
        assert time.monotonic() - began >= lease.STALE_S
        assert storage.read_json(held.path)["token"] == held.mine["token"]


def test_a_dead_process_of_this_machine_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lease, "STALE_S", 3600.0)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = psutil.Process(child.pid).create_time()
    child.kill()
    child.wait()
    written(tmp_path, host=lease.socket.gethostname(), pid=child.pid, started=started)
    began = time.monotonic()
    with Lease(str(tmp_path)) as held:
        assert storage.read_json(held.path)["token"] == held.mine["token"]
    assert time.monotonic() - began < 60, "its hour of grace was not waited for"


def test_of_two_that_start_at_once_one_stays(quick: None, tmp_path: Path) -> None:
    met: list[str] = []

    def drive() -> None:
        try:
            with Lease(str(tmp_path)):
                met.append("stays")
                time.sleep(1)
        except ValueError:
            met.append("refused")

    both = [threading.Thread(target=drive) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(met) == ["refused", "stays"]


def test_who_was_replaced_is_interrupted_and_leaves_the_others_file(quick: None, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a script that started it with &
    try:
        with pytest.raises(ValueError, match="another driver took over"), Lease(str(tmp_path)):
            written(tmp_path)
            began = time.monotonic()
            time.sleep(20)
        assert time.monotonic() - began < 15, "interrupted after a beat"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert storage.read_json(str(tmp_path / "_driver.json"))["token"] == "theirs"
