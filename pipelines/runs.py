"""Run folders: each explains itself (run.json), is never overwritten, and counts only when complete."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines import storage

RUN_FILE = "run.json"
BODY = "body.npz"
"""The name of the body in the folders that hold one."""
LEASE = "_driver.json"
"""Kept by the driver that is at work in a run folder (pipelines/lease.py)."""
HOW_WIDE = {
    "actors", "gpus", "readers", "retries", "checkpoint_steps", "block_mb", "file_mb", "autoscales",
}  # fmt: skip
"""Settings that change how a run is spread and kept, never what it makes: a re-run may differ in them."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder that this process may write."""

    folder: str
    run_id: str
    finished: bool
    """True when an earlier, equal run already completed here: there is nothing left to do."""

    def path(self, *names: str) -> str:
        return storage.join(self.folder, *names)

    def finish(self, **counts: Any) -> None:
        """Mark the run complete, with what it counted."""
        record = storage.read_json(self.path(RUN_FILE))
        storage.write_json(self.path(RUN_FILE), record | {"status": "complete", "finished": now()} | counts)


def open_run(
    out: str | Path, *, job: str, settings: Any, inputs: Sequence[str | Path] = (), resume: bool = False
) -> Run:
    """Create the run folder `out`, or take up the equal run that stands there.

    A complete equal run comes back `finished`. An interrupted equal run starts over in its folder, its
    partial output deleted; with `resume` the output is kept, and the caller goes on with it. Another run gives way
    only where it was interrupted before it made anything. Raises ValueError where the folder holds another run,
    or files that no run made.
    """
    out = storage.absolute(out)
    record: dict[str, Any] = {
        "job": job,
        "settings": plain(settings),
        "inputs": {storage.absolute(path): fingerprint(storage.absolute(path)) for path in inputs},
    }
    if found := check_folder(out, record):
        if found["status"] == "complete":
            return Run(out, found["run_id"], finished=True)
        if resume and not _differences({key: found.get(key) for key in record}, record):
            storage.sweep(out)
            return Run(out, found["run_id"], finished=False)
        storage.delete_contents(out, keep=LEASE)
    run = Run(out, uuid.uuid4().hex, finished=False)
    storage.write_json(
        run.path(RUN_FILE),
        record | {"status": "running", "run_id": run.run_id, "started": now(), "code": code_version()},
    )
    return run


def check_folder(out: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """run.json of the run that stands in a folder, None where it is free; only looks.

    Raises ValueError, as open_run does, where the folder holds another run than `record` speaks of, or other files.
    """
    if not storage.exists(storage.join(out, RUN_FILE)):
        if storage.is_empty(out, but=LEASE):
            return None
        raise ValueError(
            f"{out} holds files that no run of annomesh made (it has no {RUN_FILE})\n"
            "  fix: choose a new or empty output folder"
        )
    found = storage.read_json(storage.join(out, RUN_FILE))
    differences = _differences({key: found.get(key) for key in record}, record)
    if differences and not _made_nothing(out, found):
        raise ValueError(
            f"{out} holds another run ({found.get('job')}, {found.get('status')}):\n  "
            + "\n  ".join(differences)
            + "\n  fix: choose another output folder, or delete this one"
        )
    return found


def roles(parts: Mapping[str, Sequence[str] | str | None]) -> dict[str, Any]:
    """Which input plays which part, as settings: the same folders in other roles, or another order, are another run."""
    return {
        name: storage.absolute(value) if isinstance(value, str) else value and [storage.absolute(v) for v in value]
        for name, value in parts.items()
    }


def _made_nothing(out: str, record: dict[str, Any]) -> bool:
    """An interrupted run with nothing to lose: a mistake that showed at once must not take the folder."""
    return record.get("status") == "running" and all(
        path.rpartition("/")[2] == RUN_FILE for path, _ in storage.list_files(out)
    )


def load_run(folder: str | Path, *, job: str | tuple[str, ...]) -> dict[str, Any]:
    """run.json of a complete run of `job`, or of one of several. Raises ValueError, with the fix, for anything else."""
    path = storage.join(str(folder), RUN_FILE)
    jobs = (job,) if isinstance(job, str) else job
    fix = f"\n  fix: pass the --out folder of a finished {' or '.join(f'jobs/{name}.py' for name in jobs)}"
    if not storage.exists(path):
        raise ValueError(f"{folder} is not a run folder: it has no {RUN_FILE}{fix}")
    record = storage.read_json(path)
    if record.get("job") not in jobs:
        raise ValueError(f"{folder} is a run of {record.get('job')}, not of {' or '.join(jobs)}{fix}")
    if record.get("status") != "complete":
        raise ValueError(f"{folder} was interrupted: its status is {record.get('status')}{fix}")
    return record


def require_positive(settings: Any, *names: str) -> None:
    """Raise ValueError where a setting that counts or scales is 0 or less."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} is more than 0; it is {getattr(settings, name)}")


def plain(settings: Any) -> Any:
    """Settings (nested dataclasses) as JSON values."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fields = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
        return {"kind": type(settings).__name__} | {k: v for k, v in plain(fields).items()}
    if isinstance(settings, dict):
        return {str(k): plain(v) for k, v in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [plain(v) for v in settings]
    return settings if isinstance(settings, (str, int, float, bool, type(None))) else str(settings)


def run_of(path: str) -> dict[str, Any] | None:
    """run.json of the run that made a folder: its own, or that of the folder around it; None where no run did."""
    for folder in (path, path.rstrip("/").rpartition("/")[0]):
        if folder and storage.exists(storage.join(folder, RUN_FILE)):
            return storage.read_json(storage.join(folder, RUN_FILE))
    return None


def fingerprint(path: str) -> str:
    """What an input was: the id of the run that made it, else a hash of its file names and sizes."""
    if record := run_of(path):
        return f"run {record.get('run_id')}"
    if not storage.exists(path):
        raise ValueError(f"no such input: {path}")
    return hashlib.sha256(json.dumps(storage.list_files(path)).encode()).hexdigest()


def code_version() -> dict[str, str]:
    """Versions of what decides the result, and the commit of a source checkout (else a hash of the sources)."""
    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        sources = sorted(path for room in ("jobs", "pipelines", "mesh_lib") for path in (root / room).rglob("*.py"))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        commit = f"no git checkout; sources sha256 {digest}"
    packages = {name: version(name) for name in ("torch", "ray", "pyarrow", "numpy", "opencv-python-headless")}
    return {"commit": commit, "python": platform.python_version(), **packages}


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def message_of(error: BaseException) -> str:
    """What an error says to a user: a Ray task's error carries our own, to which Ray Data adds advice of its own."""
    return re.split(r"\nFailed to .* after \d+/\d+ attempts", str(getattr(error, "cause", None) or error))[0]


def _differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted} - HOW_WIDE)
            for line in _differences(found.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if found == wanted else [f"{prefix}: there {found!r}, now {wanted!r}"]
