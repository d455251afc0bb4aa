"""The house rules of docs/architecture.md, as tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"jobs", "pipelines", "mesh_lib"}
MAY_IMPORT = {
    "mesh_lib": {"mesh_lib"},
    "pipelines": {"mesh_lib", "pipelines"},
    "jobs": {"mesh_lib", "pipelines", "jobs"},
}
BARRED = {"mesh_lib": {"ray", "tyro", "argparse", "time", "datetime"}, "jobs": {"ray"}, "pipelines": {"tyro"}}
"""mesh_lib knows no cluster, command line or clock; ray is spoken only in pipelines, tyro only in jobs."""


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, f"room {room} is empty or was renamed"
    return found


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_from_jobs_to_pipelines_to_mesh_lib(room: str) -> None:
    for path in files(room):
        assert imported(path) & ROOMS <= MAY_IMPORT[room], path


@pytest.mark.parametrize("room", BARRED)
def test_each_room_keeps_to_its_own_tools(room: str) -> None:
    for path in files(room):
        assert not imported(path) & BARRED[room], path


def test_mesh_lib_does_not_read_the_environment() -> None:
    for path in files("mesh_lib"):
        text = path.read_text()
        assert "os.environ" not in text and "getenv" not in text, path


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_nothing_the_user_runs_imports_smplx(room: str) -> None:
    """smplx's code is for non-commercial research only, so it is an oracle for tests and never on our path."""
    for path in files(room):
        assert "smplx" not in imported(path), path


def test_python_files_stay_readable() -> None:
    for room in ROOMS:
        for path in files(room):
            assert path.read_text().count("\n") <= 420, f"{path} is more than one room"
