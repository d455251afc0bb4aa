"""What to run: one file per stage; parse, wire, check, exit."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tyro

from pipelines.runs import message_of, plain

log = logging.getLogger(__name__)
Job = TypeVar("Job")


def start(
    main: Callable[[Job], None],
    job: type[Job] | dict[str, type[Job]],
    *,
    doc: str,
    presets: Mapping[str, Any] | None = None,
) -> None:
    """Parse the command line into `job` (or one of several, by subcommand), and run `main`.

    presets are values of the job's `training` that --preset names (of several jobs, by their subcommands); --show
    prints the settings and stops. A user's mistake ends in one readable message; ANNOMESH_DEBUG=1 shows the traceback
    instead.
    """
    gc.freeze()  # else Python, as it ends, looks through all that was imported: a second or more
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    doc = re.sub(r"\n(?=[A-Z])", "\n\n", doc)  # else the help joins Reads, Writes and Costs into one paragraph
    settings: Any
    try:
        if isinstance(job, dict) and presets:
            jobs = {name: _from_preset(one, presets[name]) for name, one in job.items()}
            settings = tyro.cli(tyro.extras.subcommand_type_from_defaults(jobs, prefix_names=False), description=doc)
        elif isinstance(job, dict):
            settings = tyro.extras.subcommand_cli_from_dict({**job}, description=doc)
        else:
            settings = tyro.cli(job, description=doc, default=_from_preset(job, presets) if presets else None)
        if presets and settings.show:
            log.info(json.dumps(plain(settings.training), indent=2))
        else:
            main(settings)
    except (ValueError, OSError) as error:
        if os.environ.get("ANNOMESH_DEBUG"):
            raise
        raise SystemExit(f"error: {message_of(error)}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; run the same command again to go on in the same folder") from None


def _from_preset(job: type[Job], presets: Mapping[str, Any]) -> Job:
    """The job before its other options are read: what must be given is still missing, but for --show."""
    line = " ".join(sys.argv[1:])
    named = re.search(r"--preset[ =](\S+)", line)
    training = presets.get(named[1] if named else "", next(iter(presets.values())))
    required = [
        f.name for f in dataclasses.fields(job)  # pyright: ignore[reportArgumentType]
        if f.default is f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    absent = "" if "--show" in sys.argv else tyro.MISSING
    given: dict[str, Any] = dict.fromkeys(required, absent) | {"training": training}
    return job(**given)
