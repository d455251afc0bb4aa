"""Every dataset that can be ingested, by the name that the command line knows it by."""

from __future__ import annotations

from mesh_lib.datasets.coco import Coco
from mesh_lib.datasets.people import Reader

READERS: dict[str, type[Reader]] = {
    "coco": Coco,
}
