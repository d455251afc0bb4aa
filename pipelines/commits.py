"""Rows written exactly once: Ray Data's checkpoint, read as a log of commits.

A write task records which samples it is about to write, writes its files, then commits the record. A run that was
killed at any moment drops the files of records that were never committed, and reads past the samples of those that
were. What is done is counted from the files themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
from ray.data.checkpoint import CheckpointConfig

from pipelines import runs, storage

log = logging.getLogger(__name__)

CHECKPOINT = "_checkpoint"
PENDING = ".pending.parquet"
"""How Ray Data ends the name of a record that is not committed yet."""
FILTER_CPUS = 1.0
"""Ray Data's filter of what is done already takes a whole CPU."""
FILTER_BYTES = 256 * 2**20
"""Of memory for each filter, but for the keys of what is done (8 bytes a sample), which Ray adds."""


def write_all(run: runs.Run, *, folder: str, rows: int, work: Callable[[], None]) -> None:
    """Have `work` write one row for each of `rows` samples into a folder of the run, but for those that are there.

    `work` runs Ray Data with `checkpointing`. Ends with as many rows as it could get: whether that is all is the
    caller's to say.
    """
    done = _sweep(run, folder)
    if done:
        log.info("%d of %d samples are done already", done, rows)
    for _ in range(2):  # the second time only where the first found samples done twice
        if done > rows:
            _undo_doubles(run)
            done = _sweep(run, folder)
        if done < rows:
            work()
            done = _sweep(run, folder)
        if done == rows:
            break


def checkpointing(run: runs.Run) -> CheckpointConfig:
    """For the DataContext of what `write_all` runs."""
    system, folder = storage.resolve(run.path(CHECKPOINT))
    config = CheckpointConfig("sample_key", folder, override_filesystem=system, delete_checkpoint_on_success=False)
    config.checkpoint_actor_pool_max_size = 1
    config.checkpoint_actor_memory_bytes = FILTER_BYTES
    return config


def files_left(run: runs.Run, files: Sequence[str], *, samples: str) -> set[str]:
    """Those of the files of samples that hold one which is not committed; the others, pictures and all, need not be
    read again. Takes 8 bytes of memory for each sample that is."""
    records = [path for path in _records(run) if not path.endswith(PENDING)]
    if not records:
        return set(files)
    committed = np.sort(np.concatenate([_keys(path, run.folder) for path in records]))

    def is_left(path: str) -> bool:
        keys = _keys(path, samples)
        at = np.searchsorted(committed, keys).clip(max=len(committed) - 1)
        return not (committed[at] == keys).all()

    with ThreadPoolExecutor(16) as pool:
        return {path for path, left in zip(files, pool.map(is_left, files), strict=True) if left}


def _records(run: runs.Run) -> list[str]:
    return storage.list_hidden(run.path(CHECKPOINT), ".parquet")


def _keys(path: str, folder: str) -> np.ndarray:
    system, _ = storage.resolve(folder)
    return storage.patiently(
        folder, lambda: pq.read_table(path, filesystem=system, columns=["sample_key"]).column("sample_key").to_numpy()
    )


def forget(run: runs.Run) -> None:
    """Once a run is complete: the record of what is done is its files themselves."""
    storage.delete_contents(run.path(CHECKPOINT))


def rows_of(folder: str, files: list[str]) -> list[int]:
    """Rows of each Parquet file, from its footer."""
    system, _ = storage.resolve(folder)

    def rows(path: str) -> int:
        return storage.patiently(folder, lambda: pq.read_metadata(path, filesystem=system).num_rows)

    with ThreadPoolExecutor(16) as pool:  # each is a round trip to the store
        return list(pool.map(rows, files))


def _sweep(run: runs.Run, folder: str) -> int:
    """Delete files that no commit speaks of, which killed writers leave; the rows that are committed."""
    records = _records(run)
    pending = {_name(path).removesuffix(PENDING) for path in records if path.endswith(PENDING)}
    system, _ = storage.resolve(run.folder)
    committed: set[str] = set()
    for path in records:
        name = _name(path).removesuffix(".parquet")
        if path.endswith(PENDING):
            continue  # Ray deletes it, and the rows under its name
        if name in pending:  # killed within the commit, or while it was written again: half of it may be damaged
            system.delete_file(path)
        else:
            committed.add(name)
    kept = []
    for path, _ in storage.list_files(run.path(folder), ".parquet"):
        if _name(path).rpartition("-")[0] in committed:  # then comes the file's number within its commit
            kept.append(path)
        else:
            system.delete_file(path)
    return sum(rows_of(run.path(folder), kept))


def _undo_doubles(run: runs.Run) -> None:
    """Take back commits that hold a sample of another one: of writers that outlived their driver, cut off from it."""
    records = [path for path in _records(run) if not path.endswith(PENDING)]
    system, _ = storage.resolve(run.folder)
    keys = [_keys(path, run.folder) for path in records]
    again = np.ones(sum(map(len, keys)), bool)
    again[np.unique(np.concatenate(keys), return_index=True)[1]] = False
    for index in np.unique(np.repeat(np.arange(len(records)), [len(one) for one in keys])[again]):
        system.delete_file(records[index])


def _name(path: str) -> str:
    return path.rpartition("/")[2]
