"""What to run: one file per stage; parse, wire, check, exit."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

Job = TypeVar("Job")


def start(main: Callable[[Job], None], job: type[Job] | dict[str, type[Job]], *, doc: str) -> None:
    """Parse the command line into `job` (or one of several, by subcommand), and run `main`.

    A user's mistake ends in one readable message; ANNOMESH_DEBUG=1 shows the traceback instead.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    doc = re.sub(r"\n(?=[A-Z])", "\n\n", doc)  # else the help joins Reads, Writes and Costs into one paragraph
    settings: Any
    try:
        if isinstance(job, dict):
            settings = tyro.extras.subcommand_cli_from_dict({**job}, description=doc)
        else:
            settings = tyro.cli(job, description=doc)
        main(settings)
    except (ValueError, OSError) as error:
        if os.environ.get("ANNOMESH_DEBUG"):
            raise
        cause = getattr(error, "cause", None) or error  # a Ray task's error carries its own
        raise SystemExit(f"error: {cause}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; run the same command again to start over in the same folder") from None
