"""Joining a Ray cluster, or starting a small one on this machine."""

from __future__ import annotations

import logging
import os
import time
import warnings
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

log = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 600_000_000
LOCAL_LOGICAL_CPUS = 8
"""Streaming stages, actors and writers each hold a CPU; with two logical ones a pipeline waits for itself."""

SHORTEST_REST_S, LONGEST_REST_S = 0.01, 0.1


class Unhurried(ExecutionCallback):
    """Rests between two looks of Ray Data's scheduler at its tasks, the longer the longer it has found nothing new.

    While a consumer holds a stream back, `ray.wait` returns at once with outputs that may not be taken yet, and the
    scheduler of every stream turns without end: two streams take both cores of a small machine from the training.
    """

    def __init__(self) -> None:
        self.rest_s, self.seen = SHORTEST_REST_S, 0

    def on_execution_step(self, executor: Any) -> None:
        self._look_again_for_resources(executor._resource_manager)
        seen = sum(
            op.metrics.num_tasks_submitted + op.metrics.num_task_outputs_generated + op.metrics.num_outputs_taken
            for op in executor._topology
        )
        self.rest_s = SHORTEST_REST_S if seen != self.seen else min(self.rest_s * 1.5, LONGEST_REST_S)
        self.seen = seen
        time.sleep(self.rest_s)

    def _look_again_for_resources(self, manager: Any) -> None:
        """An execution first asks what it may use before anything is granted, and again a second later: until then it
        runs one task at a time. Here it asks at every step until it has something."""
        if manager._global_limits.is_zero():
            manager._global_limits_last_update_time = 0


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (`ray job submit` sets it), else start one on this machine.

    A process that is already connected stays so: stages called one after the other share a cluster.
    """
    if not ray.is_initialized():
        if not is_own_cluster():
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        else:
            # Else the driver prints, for every actor pool, that an actor's restart needs its arguments.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            # Else the node warns of more processes than cores, which is what logical CPUs are for.
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(LOCAL_LOGICAL_CPUS))
            _start_local()
    set_up_data()
    # Small inputs have few tasks.
    warnings.filterwarnings("ignore", message="The (minimum|maximum) number of concurrent")
    for name in ("ray", "ray.data", "ray.train"):  # below errors they speak of progress bars and tokens
        logging.getLogger(name).setLevel(logging.ERROR)
    # What goes wrong in a task is raised; these would tell it before, with its traceback.
    for name in ("ray.data._internal.execution.streaming_executor_state", "ray.data.exceptions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _start_local() -> None:
    try:
        ray.init(
            address="local",
            num_cpus=max(LOCAL_LOGICAL_CPUS, os.cpu_count() or 1),
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        if type(error) is not Exception:  # Ray has no type of its own for a node that does not come up
            raise
        raise ValueError(
            f"Ray could not start on this machine: {error}\n  fix: try again when it is less busy; look into /tmp/ray"
        ) from error


def require_resources(cpus: dict[str, float], *, gpus: float) -> None:
    """Raise ValueError where the cluster is too small for a plan, which would wait for ever instead of failing.

    `cpus` are those of each part of the plan, by its name.
    """
    have = ray.cluster_resources()
    wanted = {"CPU": sum(cpus.values()), "GPU": gpus}
    short = [
        f"{need:g} {kind}s, it has {have.get(kind, 0):g}" for kind, need in wanted.items() if have.get(kind, 0) < need
    ]
    if short:
        parts = ", ".join(f"{what} {need:g}" for what, need in cpus.items())
        raise ValueError(
            f"the cluster is too small for this plan, which would wait for ever: it needs {'; '.join(short)}\n"
            f"  CPUs: {parts}\n"
            "  fix: use fewer --stage.actors; without GPUs --stage.gpus 0; start Ray with more CPUs (logical ones\n"
            "  will do: ray start --num-cpus); or, with annotate, pass --stage.autoscales where nodes are added on\n"
            "  demand"
        )


def is_own_cluster() -> bool:
    """Whether this process starts a cluster for itself alone, rather than join one."""
    return not os.environ.get("RAY_ADDRESS")


def cores() -> int:
    """CPUs of the cluster; of one of our own those of this machine, not its logical ones."""
    return (os.cpu_count() or 1) if is_own_cluster() else max(1, int(ray.cluster_resources().get("CPU", 1)))


def set_up_data() -> None:
    """How this process runs Ray Data; a training worker, which runs its own streams, does it too."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a mistake found in a task is told as one found here
    # Ray starts 32 processes for every read of Parquet, whose footers one process reads by the thousand.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", str(min(32, max(1, cores() // 4))))
    if Unhurried not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Unhurried)
