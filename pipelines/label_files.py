"""Where labels lie in a run folder: Parquet files, in a folder for each status."""

from __future__ import annotations

from collections import Counter

from pipelines import commits, storage

LABELS = "pseudo_gt"
LABELLERS = ("annotate", "import_labels")
"""Jobs whose run folders hold labels."""


def count_labels(folder: str) -> Counter[str]:
    """Rows by status, from the files' own footers."""
    files = storage.parquet_files(folder, what="labels")
    counts: Counter[str] = Counter()
    for path, rows in zip(files, commits.rows_of(folder, files), strict=True):
        counts[status_of(path)] += rows
    return counts


def status_of(path: str) -> str:
    """The status that a label file's folder names; none, "", for a file that lies elsewhere."""
    folder = path.rpartition("/")[0].rpartition("/")[2]
    return folder.removeprefix("status=") if folder.startswith("status=") else ""
