"""Joining a Ray cluster, or starting a small one on this machine."""

from __future__ import annotations

import logging
import os

import ray

log = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 1_000_000_000
LOCAL_LOGICAL_CPUS = 8
"""Streaming stages, actors and writers each hold a CPU; with two logical ones a pipeline waits for itself."""


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (`ray job submit` sets it), else start one on this machine.

    A process that is already connected stays so: stages called one after the other share a cluster.
    """
    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                num_cpus=max(LOCAL_LOGICAL_CPUS, os.cpu_count() or 1),
                object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):  # below errors they speak of progress bars and tokens
        logging.getLogger(name).setLevel(logging.ERROR)
